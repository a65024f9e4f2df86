//! Why a partition stands still. A halt stops that partition alone, pages, and names what lifts it: no record is ever
//! skipped to get going again.

use std::fmt;

/// The reasons, as the metric `coupon_partition_halted{reason}` and the logs name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HaltReason {
    /// The outcomes seen do not continue the chain: something was lost, torn or decided differently.
    ChainMismatch,
    /// The log is not the log that the store knows: recreated, truncated, or another cluster's.
    LogMismatch,
    /// Claims were deleted by retention before they were decided.
    UndecidedDeleted,
    /// Outcomes are missing in the middle.
    OffsetGap,
    /// A record written by a newer release.
    NewerVersion,
    /// PostgreSQL's constraints refuse what the log says.
    Constraint,
    /// Too many undecodable records in a row: a bug upstream, not dirt.
    DlqBrake,
    /// A coupon's key is not configured here.
    KeyMissing,
}

impl HaltReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ChainMismatch,
        Self::LogMismatch,
        Self::UndecidedDeleted,
        Self::OffsetGap,
        Self::NewerVersion,
        Self::Constraint,
        Self::DlqBrake,
        Self::KeyMissing,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChainMismatch => "chain_mismatch",
            Self::LogMismatch => "log_mismatch",
            Self::UndecidedDeleted => "undecided_deleted",
            Self::OffsetGap => "offset_gap",
            Self::NewerVersion => "newer_version",
            Self::Constraint => "constraint",
            Self::DlqBrake => "dlq_brake",
            Self::KeyMissing => "key_missing",
        }
    }

    /// The reason with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// True where nobody can say that what is appended to the line now will ever be decided: it is another log, or one whose past is lost.
    #[must_use]
    pub fn endangers_new_claims(self) -> bool {
        matches!(self, Self::LogMismatch | Self::UndecidedDeleted)
    }

    /// True where it is looked at again by itself: outcomes that are missing may be published again, and a store that was put back may know what
    /// the log has lost.
    #[must_use]
    pub fn may_pass(self) -> bool {
        matches!(self, Self::OffsetGap | Self::UndecidedDeleted)
    }

    /// What lifts the halt: a command or a release, for the log line and the readiness reason.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::ChainMismatch => {
                "compare releases and stores with `couponctl audit`; restart with the release that wrote the outcomes"
            }
            Self::LogMismatch => {
                "point the service at the cluster and topic prefix it was started with, or restore the topic; \
                 `couponctl topics check` shows both"
            }
            Self::UndecidedDeleted => {
                "put PostgreSQL back where it knew them, and the line goes on by itself; else the claims are gone: name the loss with \
                 `couponctl audit`, then close and republish the coupons of this partition"
            }
            Self::OffsetGap => {
                "restart stock-consumer: it publishes the missing outcomes again while their claims are retained"
            }
            Self::NewerVersion => "deploy the release that wrote the record, or a newer one",
            Self::Constraint => {
                "do not delete rows: `couponctl audit` names the rows that disagree with the log"
            }
            Self::DlqBrake => {
                "mend or roll back whoever writes the garbage; then restart stock-consumer with decide.unreadable_consecutive_max and \
                 decide.unreadable_percent_max raised until these records are parked"
            }
            Self::KeyMissing => {
                "configure the key that the message names under keys.secrets or keys.secret_files"
            }
        }
    }
}

impl fmt::Display for HaltReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
