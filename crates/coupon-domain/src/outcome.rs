//! What the log says about one record.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::claim_id::ClaimId;
use crate::code::{ClaimCode, CommandCode, Refusal};
use crate::command_id::CommandId;
use crate::command_kind::CommandKind;
use crate::coupon::CouponState;
use crate::coupon_id::CouponId;
use crate::position::Offset;
use crate::timestamp::Timestamp;
use crate::user_id::UserId;

/// The answer to one record of `coupon.claims`. Every record gets exactly one, in the order of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The record that is answered.
    pub src_offset: Offset,
    /// When the broker appended that record: the only time the fold knows.
    pub appended_at: Timestamp,
    /// Where this answer was first given: equal to `src_offset` for a new answer, lower for a repeat.
    pub decided_offset: Offset,
    /// The rule set it was decided by.
    pub rules: u16,
    /// How many of the coupon can still be granted behind this record; absent where no coupon is known.
    pub remaining: Option<u32>,
    /// What is answered.
    pub subject: Subject,
    /// The chain behind this outcome.
    pub chain: Chain,
}

/// What an outcome answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A claim.
    Claim(ClaimOutcome),
    /// A command.
    Command(Box<CommandOutcome>),
    /// A record that cannot be read: its bytes are in the DLQ. It answers the record, not a claim.
    Invalid(InvalidOutcome),
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimOutcome {
    /// Which claim.
    pub claim_id: ClaimId,
    /// Whose.
    pub user_id: UserId,
    /// The answer.
    pub code: ClaimCode,
    /// True where the answer is remembered: this claim will never get another.
    pub is_final: bool,
    /// Granted: the number of the issued coupon, from 1.
    pub issue_no: Option<u32>,
    /// Granted: the how-manieth grant of this user for this coupon, from 1.
    pub user_nth: Option<u16>,
    /// Final: the how-manieth claim of this coupon to get a final outcome, from 1.
    pub rank: Option<u32>,
    /// Already issued: the claim that won.
    pub granted_claim_id: Option<ClaimId>,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutcome {
    /// Which command.
    pub command_id: CommandId,
    /// Its kind.
    pub kind: CommandKind,
    /// The answer.
    pub code: CommandCode,
    /// Refused: why.
    pub refusal: Option<Refusal>,
    /// Who asked.
    pub actor: UserId,
    /// Why, in the operator's words.
    pub reason: Option<Arc<str>>,
    /// The coupon behind this record; absent where it is unknown, and by that nothing is written.
    pub state: Option<CouponState>,
}

/// Why a record cannot be read. Few and closed: these names are part of the chain, so two releases must agree on them.
/// What exactly is wrong stands in the DLQ's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvalidReason {
    /// Not a record of a known version within its limits.
    Undecodable,
    /// Its coupon belongs to another partition.
    WrongPartition,
    /// The broker did not date it: it was appended while the topic kept the producers' times.
    Undated,
}

impl InvalidReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Undecodable, Self::WrongPartition, Self::Undated];

    /// The name in records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::WrongPartition => "wrong_partition",
            Self::Undated => "undated",
        }
    }

    /// The number in the chain's binary layout; never changed.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Undecodable => 1,
            Self::WrongPartition => 2,
            Self::Undated => 3,
        }
    }
}

/// The answer to a record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidOutcome {
    /// Why.
    pub reason: InvalidReason,
    /// The claim it would have been, where that much can be read.
    pub claim_id: Option<ClaimId>,
}

impl Outcome {
    /// True for the first time this answer was given. Only these touch rows, views and counters.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.decided_offset == self.src_offset
    }

    /// The coupon it is about, where known.
    #[must_use]
    pub fn coupon_id(&self) -> Option<CouponId> {
        match &self.subject {
            Subject::Claim(claim) => Some(claim.claim_id.coupon_id),
            Subject::Command(command) => Some(command.command_id.coupon_id),
            Subject::Invalid(invalid) => invalid.claim_id.map(|claim_id| claim_id.coupon_id),
        }
    }

    /// The claim it answers (or would have answered, had its record been readable).
    #[must_use]
    pub fn claim_id(&self) -> Option<ClaimId> {
        match &self.subject {
            Subject::Claim(claim) => Some(claim.claim_id),
            Subject::Command(_) => None,
            Subject::Invalid(invalid) => invalid.claim_id,
        }
    }

    /// The answer's name: a claim code, a command code, or `invalid`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match &self.subject {
            Subject::Claim(claim) => claim.code.as_str(),
            Subject::Command(command) => command.code.as_str(),
            Subject::Invalid(_) => INVALID,
        }
    }
}

/// The code of outcomes that answer a record that cannot be read.
pub const INVALID: &str = "invalid";
