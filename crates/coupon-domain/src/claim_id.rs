//! The id of a claim. It is computed, not drawn: a double click, a retry after a lost answer and a second gateway all
//! arrive at the same claim without asking a table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::coupon_id::{CouponId, is_lower_hex, parse_decimal, write_decimal};
use crate::limits::ROUND_MAX;

/// Counts the restocks of a coupon from zero; at most [`ROUND_MAX`]. A user who was told `sold_out` may claim again in
/// the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Round(u8);

/// A number that is no round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("round {0} is above {max}", max = ROUND_MAX)]
pub struct RoundOutOfRange(pub u8);

impl Round {
    /// The round before any restock.
    pub const FIRST: Self = Self(0);

    /// The round with this number.
    ///
    /// # Errors
    /// The number is above [`ROUND_MAX`].
    pub fn new(number: u8) -> Result<Self, RoundOutOfRange> {
        if number <= ROUND_MAX { Ok(Self(number)) } else { Err(RoundOutOfRange(number)) }
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// The round that the next restock starts; none after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::new(self.0.saturating_add(1)).ok()
    }

    /// This round and all before it, the newest first.
    pub fn back_to_first(self) -> impl Iterator<Item = Self> {
        (0..=self.0).rev().map(Self)
    }
}

impl TryFrom<u8> for Round {
    type Error = RoundOutOfRange;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Self::new(number)
    }
}

impl From<Round> for u8 {
    fn from(round: Round) -> Self {
        round.0
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells several claims of one user for one coupon apart: zero where a user may hold one, else 64 bits of a keyed hash
/// of the Idempotency-Key. Spelled `0` or as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u64);

impl Slot {
    /// The slot of coupons of which a user may hold one.
    pub const ONLY: Self = Self(0);

    fn write_to(self, out: &mut SmallVec<[u8; 128]>) {
        if self.0 == 0 {
            out.push(b'0');
        } else {
            write_hex(&self.0.to_be_bytes(), out);
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { write!(f, "{:016x}", self.0) }
    }
}

/// Why a text is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a slot reads 0 or 16 lower-case hex digits")]
pub struct MalformedSlot;

impl FromStr for Slot {
    type Err = MalformedSlot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "0" => Ok(Self::ONLY),
            hex if hex.len() == 16 && is_lower_hex(hex) => match u64::from_str_radix(hex, 16) {
                Ok(0) | Err(_) => Err(MalformedSlot),
                Ok(number) => Ok(Self(number)),
            },
            _ => Err(MalformedSlot),
        }
    }
}

impl Serialize for Slot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = SmallVec::new();
        self.write_to(&mut text);
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
    }
}

/// Appends two hex digits per byte.
pub(crate) fn write_hex(bytes: &[u8], out: &mut SmallVec<[u8; 128]>) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0x0f] {
            out.push(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0'));
        }
    }
}

/// Reads exactly 16 bytes from 32 lower-case hex digits.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !is_lower_hex(text) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// `<coupon_id>.<round>.<slot>.<mac>`: the mac is a keyed hash of coupon, user, round and slot ([`crate::keys::Key::claim_id`]).
/// Whoever holds the key sees from the id and a token's `sub` whether the claim is theirs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId {
    /// What is claimed.
    pub coupon_id: CouponId,
    /// The round in which the user pressed.
    pub round: Round,
    /// Which of the user's claims it is.
    pub slot: Slot,
    /// 128 bits of a keyed hash.
    pub mac: [u8; 16],
}

/// Longest spelling of a claim id, in bytes.
pub const CLAIM_ID_BYTES_MAX: usize = crate::coupon_id::COUPON_ID_BYTES_MAX + 1 + 2 + 1 + 16 + 1 + 32;

/// Why a text is no claim id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a claim id reads <coupon id>.<round 0..={max}>.<slot>.<32 lower-case hex digits>", max = ROUND_MAX)]
pub struct MalformedClaimId;

impl ClaimId {
    fn write_to(self, out: &mut SmallVec<[u8; 128]>) {
        self.coupon_id.write_to(out);
        out.push(b'.');
        write_decimal(u32::from(self.round.number()), out);
        out.push(b'.');
        self.slot.write_to(out);
        out.push(b'.');
        write_hex(&self.mac, out);
    }
}

impl FromStr for ClaimId {
    type Err = MalformedClaimId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > CLAIM_ID_BYTES_MAX {
            return Err(MalformedClaimId);
        }
        let mut parts = text.split('.');
        let (Some(coupon_id), Some(round), Some(slot), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MalformedClaimId);
        };
        let coupon_id = coupon_id.parse().map_err(|_| MalformedClaimId)?;
        let round = parse_decimal(round)
            .and_then(|number| u8::try_from(number).ok())
            .and_then(|number| Round::new(number).ok())
            .ok_or(MalformedClaimId)?;
        let slot = slot.parse().map_err(|_| MalformedClaimId)?;
        let mac = parse_mac(mac).ok_or(MalformedClaimId)?;
        Ok(Self { coupon_id, round, slot, mac })
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = SmallVec::new();
        self.write_to(&mut text);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ClaimId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = SmallVec::new();
        self.write_to(&mut text);
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for ClaimId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    use crate::position::Partition;

    fn any_claim_id() -> impl Strategy<Value = ClaimId> {
        (0..=9999i32, any::<u128>(), 0..=ROUND_MAX, prop_oneof![Just(0u64), any::<u64>()], any::<[u8; 16]>())
            .prop_map(|(partition, unique, round, slot, mac)| ClaimId {
                coupon_id: CouponId::new(Partition::new(partition).unwrap(), Uuid::from_u128(unique)),
                round: Round::new(round).unwrap(),
                slot: Slot(slot),
                mac,
            })
    }

    proptest! {
        #[test]
        fn every_id_reads_back_from_its_only_spelling(id in any_claim_id()) {
            let text = id.to_string();
            prop_assert!(text.len() <= CLAIM_ID_BYTES_MAX);
            prop_assert_eq!(text.parse::<ClaimId>(), Ok(id));
            prop_assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        }

        #[test]
        fn no_other_text_names_a_claim(text in "[c0-9a-fA-F.+-]{0,100}") {
            if let Ok(id) = text.parse::<ClaimId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn a_round_above_the_limit_and_a_zero_written_long_are_refused() {
        let coupon = "c1-00000000000000000000000000000007";
        let mac = "0".repeat(32);
        assert!(format!("{coupon}.31.0.{mac}").parse::<ClaimId>().is_ok());
        assert!(format!("{coupon}.32.0.{mac}").parse::<ClaimId>().is_err());
        assert!(format!("{coupon}.0.{}.{mac}", "0".repeat(16)).parse::<ClaimId>().is_err());
        assert_eq!(Round::new(ROUND_MAX).unwrap().next(), None);
    }
}
