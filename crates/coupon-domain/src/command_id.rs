//! The id of an operator's command, computed from coupon, kind and Idempotency-Key: the same request has one effect.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::claim_id::{parse_mac, write_hex};
use crate::coupon_id::CouponId;

/// `<coupon_id>.<mac>`: the mac is a keyed hash of coupon, kind and Idempotency-Key ([`crate::keys::Key::command_id`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId {
    /// The coupon that the command changes.
    pub coupon_id: CouponId,
    /// 128 bits of a keyed hash.
    pub mac: [u8; 16],
}

/// Why a text is no command id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command id reads <coupon id>.<32 lower-case hex digits>")]
pub struct MalformedCommandId;

impl FromStr for CommandId {
    type Err = MalformedCommandId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (coupon_id, mac) = text.split_once('.').ok_or(MalformedCommandId)?;
        Ok(Self {
            coupon_id: coupon_id.parse().map_err(|_| MalformedCommandId)?,
            mac: parse_mac(mac).ok_or(MalformedCommandId)?,
        })
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = SmallVec::new();
        self.coupon_id.write_to(&mut text);
        text.push(b'.');
        write_hex(&self.mac, &mut text);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for CommandId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CommandId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back() {
        let text = format!("c1-{}.{}", "0".repeat(32), "ab".repeat(16));
        assert_eq!(text.parse::<CommandId>().unwrap().to_string(), text);
        assert!(format!("{text}.0").parse::<CommandId>().is_err());
        assert!(text.to_uppercase().parse::<CommandId>().is_err());
    }
}
