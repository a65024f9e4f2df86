//! The code that a winner shows at the till: eighty keyed bits of the issue number, spelled for people.

use std::fmt;
use std::str::FromStr;

use crate::coupon_id::CouponId;
use crate::keys::Key;

/// Crockford's base 32 alphabet: no I, L, O, U. The last five symbols spell check values of 32 to 36 only.
const SYMBOLS: [u8; 37] = *b"0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U";
const BITS: u32 = 80;
const DIGITS: usize = 16;

/// `XXXX-XXXX-XXXX-XXXX-C`: sixteen Crockford base 32 digits (80 bits) and Crockford's check symbol (the value modulo 37),
/// which catches every single wrong digit and every swap of two neighbours. Minted from the issue number with the coupon's key:
/// a replay mints the same code, and nobody without the key can guess one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CouponCode(u128);

/// Why a text is no coupon code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedCouponCode {
    /// Too short, too long, or a character that is no digit.
    #[error("a coupon code has 16 digits and a check symbol (digits 0-9 and A-Z without I, L, O, U)")]
    Digits,
    /// The check symbol does not belong to the digits.
    #[error("the coupon code's check symbol does not fit: one of its digits is mistyped")]
    Check,
}

impl CouponCode {
    /// The code of the issued coupon with this number.
    #[must_use]
    pub fn mint(key: &Key, coupon_id: CouponId, issue_no: u32) -> Self {
        let bits = key.coupon_code_bits(coupon_id, issue_no);
        Self(bits.iter().fold(0, |value, byte| value << 8 | u128::from(*byte)))
    }

    fn check(self) -> usize {
        usize::try_from(self.0 % 37).unwrap_or(0)
    }
}

impl fmt::Display for CouponCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbol = |index: usize| char::from(SYMBOLS.get(index).copied().unwrap_or(b'0'));
        for digit in 0..u32::try_from(DIGITS).unwrap_or(0) {
            let shift = BITS - 5 * (digit + 1);
            fmt::Write::write_char(f, symbol(usize::try_from(self.0 >> shift & 31).unwrap_or(0)))?;
            if digit % 4 == 3 {
                fmt::Write::write_char(f, '-')?;
            }
        }
        fmt::Write::write_char(f, symbol(self.check()))
    }
}

impl FromStr for CouponCode {
    type Err = MalformedCouponCode;

    /// Reads a code as people type it: lower case, without or with other hyphens, O for 0, I and L for 1.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut values = Vec::with_capacity(DIGITS + 1);
        for character in text.chars().filter(|character| *character != '-') {
            let upper = match character.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let value = SYMBOLS.iter().position(|symbol| char::from(*symbol) == upper);
            values.push(value.ok_or(MalformedCouponCode::Digits)?);
        }
        let Some((check, digits)) = values.split_last() else {
            return Err(MalformedCouponCode::Digits);
        };
        if digits.len() != DIGITS || digits.iter().any(|value| *value > 31) {
            return Err(MalformedCouponCode::Digits);
        }
        let value = digits.iter().try_fold(0u128, |sum, digit| Some(sum << 5 | u128::try_from(*digit).ok()?));
        let code = Self(value.ok_or(MalformedCouponCode::Digits)?);
        if code.check() == *check { Ok(code) } else { Err(MalformedCouponCode::Check) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    use crate::position::Partition;

    fn code(issue_no: u32) -> CouponCode {
        let key = Key::from_secret(&[9; 32]).unwrap();
        CouponCode::mint(&key, CouponId::new(Partition::new(2).unwrap(), Uuid::from_u128(1)), issue_no)
    }

    #[test]
    fn a_code_is_minted_the_same_again_and_another_for_another_number() {
        assert_eq!(code(1), code(1));
        assert_ne!(code(1), code(2));
        assert_eq!(code(1).to_string(), "5Y9X-YQS9-3ZM5-28S1-R");
    }

    proptest! {
        #[test]
        fn a_code_reads_back_however_it_is_typed(issue_no: u32) {
            let text = code(issue_no).to_string();
            prop_assert_eq!(text.len(), 21);
            prop_assert_eq!(text.parse(), Ok(code(issue_no)));
            let sloppy = text.to_lowercase().replace('-', "").replace('0', "o").replace('1', "l");
            prop_assert_eq!(sloppy.parse(), Ok(code(issue_no)));
        }

        #[test]
        fn one_wrong_digit_is_always_noticed(issue_no: u32, place in 0usize..16, other in 0usize..32) {
            let mut digits: Vec<char> = code(issue_no).to_string().replace('-', "").chars().collect();
            let wrong = char::from(SYMBOLS[other]);
            prop_assume!(digits[place] != wrong);
            digits[place] = wrong;
            let text: String = digits.into_iter().collect();
            prop_assert_eq!(text.parse::<CouponCode>(), Err(MalformedCouponCode::Check));
        }
    }

    #[test]
    fn other_lengths_are_no_codes() {
        for wrong in ["", "0", "0000-0000-0000-0000", "0000-0000-0000-0000-00", "U000-0000-0000-0000-0"] {
            assert_eq!(wrong.parse::<CouponCode>(), Err(MalformedCouponCode::Digits), "{wrong:?}");
        }
    }
}
