//! Who claims: the `sub` of the caller's token.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::USER_ID_BYTES_MAX;

/// 1 to [`USER_ID_BYTES_MAX`] bytes of UTF-8 without control characters: what PostgreSQL's `text`, a Redis key and a
/// log line all take as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

/// Why a text is no user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedUserId {
    /// Nothing in it.
    #[error("a user id must not be empty")]
    Empty,
    /// More than [`USER_ID_BYTES_MAX`] bytes.
    #[error("a user id has at most {max} bytes, this one has {0}", max = USER_ID_BYTES_MAX)]
    TooLong(usize),
    /// U+0000..U+001F, U+007F..U+009F.
    #[error("a user id must not contain control characters")]
    ControlCharacter,
}

impl UserId {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = MalformedUserId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(MalformedUserId::Empty);
        }
        if text.len() > USER_ID_BYTES_MAX {
            return Err(MalformedUserId::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(MalformedUserId::ControlCharacter);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// User ids are personal data: debug output, which ends up in logs, shows their length only.
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({} bytes)", self.0.len())
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_counted_in_bytes() {
        assert!("é".repeat(USER_ID_BYTES_MAX / 2).parse::<UserId>().is_ok());
        let too_long = "é".repeat(USER_ID_BYTES_MAX / 2) + "x";
        assert_eq!(too_long.parse::<UserId>(), Err(MalformedUserId::TooLong(USER_ID_BYTES_MAX + 1)));
        assert_eq!("".parse::<UserId>(), Err(MalformedUserId::Empty));
    }

    #[test]
    fn control_characters_are_refused() {
        for wrong in ["a\0b", "\n", "\u{7f}", "\u{85}"] {
            assert_eq!(wrong.parse::<UserId>(), Err(MalformedUserId::ControlCharacter), "{wrong:?}");
        }
    }

    #[test]
    fn debug_output_does_not_show_the_user() {
        assert_eq!(format!("{:?}", "alice@example.com".parse::<UserId>().unwrap()), "UserId(17 bytes)");
    }
}
