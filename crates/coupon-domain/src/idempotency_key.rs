//! The caller's own name for one request, from the `Idempotency-Key` header.

use std::str::FromStr;

use crate::limits::IDEMPOTENCY_KEY_CHARS_MAX;

/// 1 to [`IDEMPOTENCY_KEY_CHARS_MAX`] visible ASCII characters. The same key on a repeated request means the same request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// Why a text is no Idempotency-Key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Idempotency-Key must have 1..={max} visible ASCII characters", max = IDEMPOTENCY_KEY_CHARS_MAX)]
pub struct MalformedIdempotencyKey;

impl IdempotencyKey {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = MalformedIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let length_fits = (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&text.len());
        if length_fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(MalformedIdempotencyKey)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_ascii_within_the_limit_is_a_key() {
        assert!("a".repeat(IDEMPOTENCY_KEY_CHARS_MAX).parse::<IdempotencyKey>().is_ok());
        for wrong in ["", "a b", "é", "a\n", &"a".repeat(IDEMPOTENCY_KEY_CHARS_MAX + 1)] {
            assert_eq!(wrong.parse::<IdempotencyKey>(), Err(MalformedIdempotencyKey), "{wrong:?}");
        }
    }
}
