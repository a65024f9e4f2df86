//! What an operator can do to a coupon, by name and number.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The kinds of command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// Puts a new coupon on offer.
    Publish,
    /// Moves the window of a coupon that has not opened yet.
    Reschedule,
    /// Defers all claims until resumed.
    Pause,
    /// Ends a pause.
    Resume,
    /// Adds to the quantity (and starts the next round), or takes from what is not granted yet.
    Restock,
    /// Ends the offer.
    Close,
    /// Lets ledger, state topic and view forget a closed coupon.
    Retire,
}

impl CommandKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Publish,
        Self::Reschedule,
        Self::Pause,
        Self::Resume,
        Self::Restock,
        Self::Close,
        Self::Retire,
    ];

    /// The name that records, tables and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Reschedule => "reschedule",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Restock => "restock",
            Self::Close => "close",
            Self::Retire => "retire",
        }
    }

    /// The number in the chain's binary layout and in command ids; never changed.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Publish => 1,
            Self::Reschedule => 2,
            Self::Pause => 3,
            Self::Resume => 4,
            Self::Restock => 5,
            Self::Close => 6,
            Self::Retire => 7,
        }
    }
}

/// A kind of command that this release does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kind of no command")]
pub struct UnknownKind;

impl FromStr for CommandKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or(UnknownKind)
    }
}

impl Serialize for CommandKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// From a string alone: a derived enum would take an object of one field as well.
impl<'de> Deserialize<'de> for CommandKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
    }
}
