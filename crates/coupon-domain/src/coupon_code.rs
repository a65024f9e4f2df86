//! The code that a winner shows at the till: eighty keyed bits of the issue number, spelled for people.

use std::fmt;
use std::str::FromStr;

use crate::coupon_id::CouponId;
use crate::keys::Key;

/// Crockford's base 32 alphabet: no I, L, O, U.
const SYMBOLS: [u8; 32] = *b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// x⁵ + x² + 1, by which digits are multiplied: x has the order 31 in the field of 32 elements.
const FIELD_POLYNOMIAL: u8 = 0b10_0101;
const BITS: u32 = 80;
const DIGITS: u32 = 16;

/// `XXXX-XXXX-XXXX-XXXX-C`: sixteen Crockford base 32 digits (80 bits) and a check digit of the same alphabet, which catches every single wrong
/// digit and every swap of two digits. It is a Reed-Solomon code over the field of 32 elements: each place has a weight of its own, and
/// the weighted sum of all seventeen digits is 0. (Crockford's own check symbol, the value modulo 37, needs five punctuation marks, which tills and forms refuse.) Minted from the issue number with the coupon's key:
/// a replay mints the same code, and nobody without the key can guess one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CouponCode(u128);

/// Why a text is no coupon code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedCouponCode {
    /// Too short, too long, or a character that is no digit.
    #[error("a coupon code has 17 digits (0-9 and A-Z without I, L, O, U)")]
    Digits,
    /// The check digit does not belong to the others.
    #[error(
        "the coupon code's last digit does not fit the others: one of them is mistyped, or two are swapped"
    )]
    Check,
}

impl CouponCode {
    /// The code of the issued coupon with this number.
    #[must_use]
    pub fn mint(key: &Key, coupon_id: CouponId, issue_no: u32) -> Self {
        let bits = key.coupon_code_bits(coupon_id, issue_no);
        Self(bits.iter().fold(0, |value, byte| value << 8 | u128::from(*byte)))
    }

    /// The digit in this place, the first one being 0.
    fn digit(self, place: u32) -> u8 {
        u8::try_from(self.0 >> (BITS - 5 * (place + 1)) & 31).unwrap_or(0)
    }

    /// The digit that makes the weighted sum of all digits 0: the last place weighs 1, each one before it x times as much.
    fn check(self) -> u8 {
        (0..DIGITS).fold(0, |sum, place| times_x(sum ^ self.digit(place)))
    }
}

/// A digit times x, in the field of 32 elements. Its sum is the exclusive or.
fn times_x(digit: u8) -> u8 {
    let shifted = digit << 1;
    if shifted & 32 == 0 { shifted } else { shifted ^ FIELD_POLYNOMIAL }
}

impl fmt::Display for CouponCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbol = |digit: u8| char::from(SYMBOLS.get(usize::from(digit)).copied().unwrap_or(b'0'));
        for place in 0..DIGITS {
            fmt::Write::write_char(f, symbol(self.digit(place)))?;
            if place % 4 == 3 {
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
        let mut values = Vec::new();
        for character in text.chars().filter(|character| *character != '-') {
            let upper = match character.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let value = SYMBOLS.iter().position(|symbol| char::from(*symbol) == upper);
            values.push(value.and_then(|value| u8::try_from(value).ok()).ok_or(MalformedCouponCode::Digits)?);
        }
        let Some((check, digits)) = values.split_last() else {
            return Err(MalformedCouponCode::Digits);
        };
        if u32::try_from(digits.len()) != Ok(DIGITS) {
            return Err(MalformedCouponCode::Digits);
        }
        let code = Self(digits.iter().fold(0, |value, digit| value << 5 | u128::from(*digit)));
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
        assert_eq!(code(1).to_string(), "5Y9X-YQS9-3ZM5-28S1-J");
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

        /// Whatever the code: each other digit in each place, and each swap of two digits that differ.
        #[test]
        fn one_wrong_digit_and_one_swap_are_always_noticed(issue_no: u32) {
            let right: Vec<char> = code(issue_no).to_string().replace('-', "").chars().collect();
            let refused = |digits: &[char]| {
                digits.iter().collect::<String>().parse::<CouponCode>() == Err(MalformedCouponCode::Check)
            };
            for place in 0..right.len() {
                for wrong in SYMBOLS.map(char::from).into_iter().filter(|wrong| *wrong != right[place]) {
                    let mut digits = right.clone();
                    digits[place] = wrong;
                    prop_assert!(refused(&digits), "{digits:?}");
                }
                for other in (0..place).filter(|other| right[*other] != right[place]) {
                    let mut digits = right.clone();
                    digits.swap(place, other);
                    prop_assert!(refused(&digits), "{digits:?}");
                }
            }
        }

        #[test]
        fn a_code_is_letters_and_digits_only(issue_no: u32) {
            let text = code(issue_no).to_string();
            prop_assert!(text.chars().all(|character| character.is_ascii_alphanumeric() || character == '-'), "{text}");
        }
    }

    #[test]
    fn other_lengths_are_no_codes() {
        for wrong in [
            "",
            "0",
            "0000-0000-0000-0000",
            "0000-0000-0000-0000-00",
            "U000-0000-0000-0000-0",
            "0000-0000-0000-0000-*",
        ] {
            assert_eq!(wrong.parse::<CouponCode>(), Err(MalformedCouponCode::Digits), "{wrong:?}");
        }
    }
}
