//! The answers. Their snake_case names are the same in records, tables, the API and metrics.

use serde::{Deserialize, Serialize};

/// What the log says about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimCode {
    /// A coupon is the user's.
    Granted,
    /// Nothing was left.
    SoldOut,
    /// The user already holds what the limit allows, or this slot was granted in another round. By rules 2 it is remembered and written nowhere, and
    /// given again to whoever asks again.
    AlreadyIssued,
    /// Too late. Final, unless the coupon is retired.
    Closed,
    /// Too early: a deferral, pressing again is the same claim.
    NotOpen,
    /// Held back by an operator: a deferral, pressing again is the same claim.
    Paused,
    /// No such coupon in this partition; remembered and written nowhere.
    UnknownCoupon,
}

impl ClaimCode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Granted,
        Self::SoldOut,
        Self::AlreadyIssued,
        Self::Closed,
        Self::NotOpen,
        Self::Paused,
        Self::UnknownCoupon,
    ];

    /// The name that records, tables, the API and metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::SoldOut => "sold_out",
            Self::AlreadyIssued => "already_issued",
            Self::Closed => "closed",
            Self::NotOpen => "not_open",
            Self::Paused => "paused",
            Self::UnknownCoupon => "unknown_coupon",
        }
    }

    /// The code with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// True for answers that say "press again later".
    #[must_use]
    pub fn is_deferral(self) -> bool {
        matches!(self, Self::NotOpen | Self::Paused)
    }

    /// The number in the chain's binary layout; never changed.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Granted => 1,
            Self::SoldOut => 2,
            Self::AlreadyIssued => 3,
            Self::Closed => 4,
            Self::NotOpen => 5,
            Self::Paused => 6,
            Self::UnknownCoupon => 7,
        }
    }
}

/// What the log says about a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandCode {
    /// The coupon changed and has a new version.
    Applied,
    /// It already was so.
    NoChange,
    /// Somebody else changed the coupon first.
    VersionMismatch,
    /// Not possible; [`Refusal`] says why.
    Refused,
}

impl CommandCode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Applied, Self::NoChange, Self::VersionMismatch, Self::Refused];

    /// The name that records, tables, the API and metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NoChange => "no_change",
            Self::VersionMismatch => "version_mismatch",
            Self::Refused => "refused",
        }
    }

    /// The code with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// The number in the chain's binary layout; never changed.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Applied => 1,
            Self::NoChange => 2,
            Self::VersionMismatch => 3,
            Self::Refused => 4,
        }
    }
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No such coupon in this partition.
    UnknownCoupon,
    /// A coupon is published once.
    AlreadyPublished,
    /// The coupon is closed, by command or by time.
    Closed,
    /// The coupon is retired.
    Retired,
    /// The coupon has opened: its opening stays, and by rules 1 its end does, too.
    AlreadyOpen,
    /// Fewer than are already granted, or none at all.
    BelowIssued,
    /// More than [`crate::limits::QUANTITY_MAX`].
    AboveQuantityMax,
    /// There were [`crate::limits::ROUND_MAX`] restocks already.
    RoundsExhausted,
    /// Only a closed coupon can be retired.
    NotClosed,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::UnknownCoupon,
        Self::AlreadyPublished,
        Self::Closed,
        Self::Retired,
        Self::AlreadyOpen,
        Self::BelowIssued,
        Self::AboveQuantityMax,
        Self::RoundsExhausted,
        Self::NotClosed,
    ];

    /// The name that records, tables and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownCoupon => "unknown_coupon",
            Self::AlreadyPublished => "already_published",
            Self::Closed => "closed",
            Self::Retired => "retired",
            Self::AlreadyOpen => "already_open",
            Self::BelowIssued => "below_issued",
            Self::AboveQuantityMax => "above_quantity_max",
            Self::RoundsExhausted => "rounds_exhausted",
            Self::NotClosed => "not_closed",
        }
    }

    /// The refusal with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.as_str() == name)
    }

    /// The number in the chain's binary layout; never changed.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::UnknownCoupon => 1,
            Self::AlreadyPublished => 2,
            Self::Closed => 3,
            Self::Retired => 4,
            Self::AlreadyOpen => 5,
            Self::BelowIssued => 6,
            Self::AboveQuantityMax => 7,
            Self::RoundsExhausted => 8,
            Self::NotClosed => 9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_the_wire() {
        for code in ClaimCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(ClaimCode::from_name(code.as_str()), Some(code));
        }
        for code in CommandCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(CommandCode::from_name(code.as_str()), Some(code));
        }
        for refusal in Refusal::ALL {
            assert_eq!(serde_json::to_value(refusal).unwrap(), refusal.as_str());
            assert_eq!(Refusal::from_name(refusal.as_str()), Some(refusal));
        }
    }
}
