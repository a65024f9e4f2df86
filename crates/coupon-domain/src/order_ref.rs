//! What an issued coupon was used for, in the shop's own words.

use std::str::FromStr;

use crate::limits::ORDER_REF_BYTES_MAX;

/// 1 to [`ORDER_REF_BYTES_MAX`] bytes of UTF-8 without control characters: an order's number, a till's receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRef(String);

/// Why a text is no order reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1..={max} bytes and no control characters", max = ORDER_REF_BYTES_MAX)]
pub struct MalformedOrderRef;

impl OrderRef {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OrderRef {
    type Err = MalformedOrderRef;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let length_fits = (1..=ORDER_REF_BYTES_MAX).contains(&text.len());
        if length_fits && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(MalformedOrderRef)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_bounded_and_without_control_characters() {
        assert!("é".repeat(ORDER_REF_BYTES_MAX / 2).parse::<OrderRef>().is_ok());
        for wrong in ["", "a\0", "a\n", &"x".repeat(ORDER_REF_BYTES_MAX + 1)] {
            assert_eq!(wrong.parse::<OrderRef>(), Err(MalformedOrderRef), "{wrong:?}");
        }
    }
}
