//! The chain: SHA-256 over the previous link and this outcome. Whoever reads along notices at the next record that an
//! outcome was lost, torn, or decided differently. [`crate::chain_layout`] says what of an outcome is hashed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::claim_id::write_hex;
use crate::coupon_id::is_lower_hex;
use crate::position::Partition;

/// One link: what all outcomes up to here hash to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain([u8; 32]);

impl Chain {
    /// The link before the first outcome of a partition.
    #[must_use]
    pub fn genesis(partition: Partition) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"firstcome chain v1");
        hash.update(partition.number().to_be_bytes());
        Self(hash.finalize().into())
    }

    /// The link with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn hex(&self) -> SmallVec<[u8; 128]> {
        let mut text = SmallVec::new();
        write_hex(&self.0, &mut text);
        text
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chain link reads 64 lower-case hex digits")]
pub struct MalformedChain;

impl FromStr for Chain {
    type Err = MalformedChain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_lower_hex(text) {
            return Err(MalformedChain);
        }
        let mut bytes = [0; 32];
        match data_encoding::HEXLOWER.decode_mut(text.as_bytes(), &mut bytes) {
            Ok(32) if text.len() == 64 => Ok(Self(bytes)),
            _ => Err(MalformedChain),
        }
    }
}

impl Serialize for Chain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
    }
}
