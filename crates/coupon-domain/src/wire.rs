//! The records of the topics: JSON, one golden file per type and version under `golden/`.
//!
//! Unknown fields are ignored and fields are only ever added. A field that the fold reads raises the record's version;
//! a release reads version n+1 one release before any release writes it. A *newer* version is no dirt: it halts the partition
//! ([`crate::halt::HaltReason::NewerVersion`]) until a release that knows it is deployed.

mod claims_record;
mod outcome_record;
mod persisted_record;
mod state_record;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer};

pub use claims_record::{Input, Unreadable, decode_claims_record, encode_claim, encode_command};
pub use outcome_record::{decode_outcome, encode_outcome};
pub use persisted_record::{PersistedWatermark, decode_persisted, encode_persisted};
pub use state_record::{
    DecidedUpTo, PublishedState, StateRecordBody, decided_key, decode_state_record, encode_decided,
    encode_state,
};

/// The newest version of `coupon.claims` records that this release reads, and the one it writes.
pub const CLAIMS_RECORD_VERSION: u32 = 1;
/// The newest version of `coupon.outcomes` records that this release reads, and the one it writes.
pub const OUTCOME_RECORD_VERSION: u32 = 1;
/// The newest version of `coupon.state` records that this release reads, and the one it writes.
pub const STATE_RECORD_VERSION: u32 = 1;
/// The newest version of `coupon.persisted` records that this release reads, and the one it writes.
pub const PERSISTED_RECORD_VERSION: u32 = 1;

/// Why a record that one of our own services wrote cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A newer release wrote it.
    #[error(
        "the record has version {found}, this release reads up to {newest}: deploy the release that wrote it"
    )]
    NewerVersion {
        /// The record's version.
        found: u32,
        /// The newest that this release reads.
        newest: u32,
    },
    /// It is damaged, or not ours at all.
    #[error("the record cannot be read: {0}")]
    Malformed(String),
}

/// The version alone, which every record of every version has.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

/// Tells a newer version from damage after a record could not be read.
fn unreadable(bytes: &[u8], newest: u32, error: &dyn fmt::Display) -> RecordError {
    match serde_json::from_slice::<Versioned>(bytes) {
        Ok(Versioned { v }) if v > newest => RecordError::NewerVersion { found: v, newest },
        _ => RecordError::Malformed(error.to_string()),
    }
}

/// Refuses versions that this release does not read.
fn check_version(found: u32, newest: u32) -> Result<(), RecordError> {
    match found {
        0 => Err(RecordError::Malformed("versions start at 1".to_owned())),
        known if known <= newest => Ok(()),
        found => Err(RecordError::NewerVersion { found, newest }),
    }
}

/// Writes a record as JSON.
fn encode(record: &impl serde::Serialize) -> Vec<u8> {
    match serde_json::to_vec(record) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("records have string keys and no failing parts: {error}"),
    }
}

/// A value that only a JSON object is read as. A derived struct would take an array of its fields as well, and no record
/// is one.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Reads a field that is absent, null or an object.
fn optional_object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value))
}

/// Reads a newtype from a JSON string without a copy in between.
pub(crate) fn parse_str<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    struct Parse<T>(PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> serde::de::Visitor<'_> for Parse<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Parse(PhantomData))
}
