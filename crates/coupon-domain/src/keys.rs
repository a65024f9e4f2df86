//! The keys behind claim ids, command ids, coupon codes and stream tokens.
//!
//! Services hold several keys by id. A coupon's publish command names the one that is its own for life, so a new key
//! can be taken into use without a claim id or a code ever changing.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::claim_id::{ClaimId, Round, Slot};
use crate::command_id::CommandId;
use crate::command_kind::CommandKind;
use crate::coupon_id::CouponId;
use crate::idempotency_key::IdempotencyKey;
use crate::limits::{KEY_ID_CHARS_MAX, SECRET_BYTES_MIN};
use crate::user_id::UserId;

type HmacSha256 = Hmac<Sha256>;

/// The name of a key: 1 to [`KEY_ID_CHARS_MAX`] of `a-z 0-9 -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Arc<str>);

/// Why a text is no key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id has 1..={max} characters of a-z, 0-9 and -", max = KEY_ID_CHARS_MAX)]
pub struct MalformedKeyId;

impl KeyId {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = MalformedKeyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let length_fits = (1..=KEY_ID_CHARS_MAX).contains(&text.len());
        if length_fits && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(MalformedKeyId)
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
    }
}

/// A secret too short to be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret has {0} bytes; a key needs at least {min}", min = SECRET_BYTES_MIN)]
pub struct SecretTooShort(pub usize);

/// One secret and what is derived from it: a subkey per purpose (HMAC-SHA256 of a label), so that a value made for one
/// purpose is never valid for another.
#[derive(Clone)]
pub struct Key {
    claim_id: HmacSha256,
    command_id: HmacSha256,
    coupon_code: HmacSha256,
    slot: HmacSha256,
    stream_token: HmacSha256,
    log_user: HmacSha256,
    fingerprint: [u8; 8],
}

impl Key {
    /// The key made from this secret.
    ///
    /// # Errors
    /// The secret has less than [`SECRET_BYTES_MIN`] bytes.
    pub fn from_secret(secret: &[u8]) -> Result<Self, SecretTooShort> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(SecretTooShort(secret.len()));
        }
        let root = keyed(secret);
        let derive = |label: &str| keyed(&*Zeroizing::new(tag(&root, &[label.as_bytes()])));
        let fingerprint = first(&tag(&root, &[b"firstcome fingerprint v1"]));
        Ok(Self {
            claim_id: derive("firstcome claim id v1"),
            command_id: derive("firstcome command id v1"),
            coupon_code: derive("firstcome coupon code v1"),
            slot: derive("firstcome slot v1"),
            stream_token: derive("firstcome stream token v1"),
            log_user: derive("firstcome user in logs v1"),
            fingerprint,
        })
    }

    /// The claim of this user for this coupon, in this round and slot.
    #[must_use]
    pub fn claim_id(&self, coupon_id: CouponId, user: &UserId, round: Round, slot: Slot) -> ClaimId {
        let mac = first(&tag(
            &self.claim_id,
            &[&coupon_bytes(coupon_id), &[round.number()], &slot.0.to_be_bytes(), user.as_str().as_bytes()],
        ));
        ClaimId { coupon_id, round, slot, mac }
    }

    /// True where this key made the claim id for this user (compared in constant time).
    #[must_use]
    pub fn owns(&self, claim_id: &ClaimId, user: &UserId) -> bool {
        let expected = self.claim_id(claim_id.coupon_id, user, claim_id.round, claim_id.slot);
        bool::from(subtle::ConstantTimeEq::ct_eq(&expected.mac[..], &claim_id.mac[..]))
    }

    /// The slot that this Idempotency-Key names: 64 bits, never zero.
    #[must_use]
    pub fn slot(&self, coupon_id: CouponId, idempotency_key: &IdempotencyKey) -> Slot {
        let bytes = first(&tag(&self.slot, &[&coupon_bytes(coupon_id), idempotency_key.as_str().as_bytes()]));
        Slot(u64::from_be_bytes(bytes).max(1))
    }

    /// The command of this kind that this Idempotency-Key names.
    #[must_use]
    pub fn command_id(
        &self,
        coupon_id: CouponId,
        kind: CommandKind,
        idempotency_key: &IdempotencyKey,
    ) -> CommandId {
        let mac = first(&tag(
            &self.command_id,
            &[&coupon_bytes(coupon_id), &[kind.number()], idempotency_key.as_str().as_bytes()],
        ));
        CommandId { coupon_id, mac }
    }

    /// Eighty bits that name the issued coupon with this number ([`crate::coupon_code`] spells them).
    pub(crate) fn coupon_code_bits(&self, coupon_id: CouponId, issue_no: u32) -> [u8; 10] {
        first(&tag(&self.coupon_code, &[&coupon_bytes(coupon_id), &issue_no.to_be_bytes()]))
    }

    /// The mac of a stream token ([`crate::stream_token`]).
    pub(crate) fn stream_token_mac(&self, parts: &[&[u8]]) -> [u8; 16] {
        first(&tag(&self.stream_token, parts))
    }

    /// Sixteen hex digits that stand for a user in logs: the same for the same user, and nobody without the key finds out whose they are.
    #[must_use]
    pub fn user_hash(&self, user: &UserId) -> String {
        data_encoding::HEXLOWER.encode(&first::<8>(&tag(&self.log_user, &[user.as_str().as_bytes()])))
    }

    /// Sixteen hex digits by which operators see that two services hold the same key. They reveal nothing of it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.fingerprint)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint())
    }
}

/// The keys that a service holds, by id.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: BTreeMap<KeyId, Key>,
}

impl KeyRing {
    /// A ring of these keys.
    #[must_use]
    pub fn new(keys: BTreeMap<KeyId, Key>) -> Self {
        Self { keys }
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<&Key> {
        self.keys.get(id)
    }

    /// True where one of the keys made this claim id for this user.
    #[must_use]
    pub fn owns(&self, claim_id: &ClaimId, user: &UserId) -> bool {
        self.keys.values().any(|key| key.owns(claim_id, user))
    }

    /// What stands for a user in logs: made by the key with the first id, the same wherever the same keys are held. None without any key.
    #[must_use]
    pub fn user_hash(&self, user: &UserId) -> Option<String> {
        self.keys.values().next().map(|key| key.user_hash(user))
    }

    /// The keys in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&KeyId, &Key)> {
        self.keys.iter()
    }
}

fn keyed(secret: &[u8]) -> HmacSha256 {
    match HmacSha256::new_from_slice(secret) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of every length"),
    }
}

fn tag(mac: &HmacSha256, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = mac.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The first `N` bytes of a tag; HMAC may be truncated to no less than half its length for a mac (RFC 2104 §5).
fn first<const N: usize>(tag: &[u8; 32]) -> [u8; N] {
    const { assert!(N <= 32, "a tag has 32 bytes") };
    std::array::from_fn(|index| tag.get(index).copied().unwrap_or(0))
}

fn coupon_bytes(coupon_id: CouponId) -> [u8; 20] {
    let mut bytes = [0; 20];
    let (partition, unique) = bytes.split_at_mut(4);
    partition.copy_from_slice(&coupon_id.partition().number().to_be_bytes());
    unique.copy_from_slice(coupon_id.unique().as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    use crate::position::Partition;

    fn key(fill: u8) -> Key {
        Key::from_secret(&[fill; 32]).unwrap()
    }

    fn coupon(partition: i32) -> CouponId {
        CouponId::new(Partition::new(partition).unwrap(), Uuid::from_u128(5))
    }

    fn user(name: &str) -> UserId {
        name.parse().unwrap()
    }

    #[test]
    fn a_claim_id_depends_on_coupon_user_round_slot_and_key() {
        let base = key(1).claim_id(coupon(1), &user("ann"), Round::FIRST, Slot::ONLY);
        assert_eq!(base, key(1).claim_id(coupon(1), &user("ann"), Round::FIRST, Slot::ONLY));
        let others = [
            key(2).claim_id(coupon(1), &user("ann"), Round::FIRST, Slot::ONLY),
            key(1).claim_id(coupon(2), &user("ann"), Round::FIRST, Slot::ONLY),
            key(1).claim_id(coupon(1), &user("bob"), Round::FIRST, Slot::ONLY),
            key(1).claim_id(coupon(1), &user("ann"), Round::new(1).unwrap(), Slot::ONLY),
            key(1).claim_id(coupon(1), &user("ann"), Round::FIRST, Slot(1)),
        ];
        for other in others {
            assert_ne!(base.mac, other.mac, "{other}");
        }
    }

    #[test]
    fn only_the_key_and_the_user_of_a_claim_own_it() {
        let claim = key(1).claim_id(coupon(1), &user("ann"), Round::FIRST, Slot::ONLY);
        let ring = KeyRing::new([("a".parse().unwrap(), key(2)), ("b".parse().unwrap(), key(1))].into());
        assert!(ring.owns(&claim, &user("ann")));
        assert!(!ring.owns(&claim, &user("bob")));
        assert!(!ring.owns(&ClaimId { round: Round::new(1).unwrap(), ..claim }, &user("ann")));
        let other = KeyRing::new([("a".parse().unwrap(), key(2))].into());
        assert!(!other.owns(&claim, &user("ann")));
    }

    /// Claim ids, codes and slots are stored for years: a change of derivation would orphan them all.
    #[test]
    fn derived_values_never_change() {
        let claim = key(1).claim_id(coupon(3), &user("ann"), Round::FIRST, Slot::ONLY);
        let command = key(1).command_id(coupon(3), CommandKind::Pause, &"key-1".parse().unwrap());
        let slot = key(1).slot(coupon(3), &"key-1".parse().unwrap());
        let golden = include_str!("../golden/keys_v1.txt");
        let found = format!("{claim}\n{command}\n{slot}\n{}\n", key(1).fingerprint());
        assert_eq!(found, golden);
    }

    #[test]
    fn a_users_hash_in_logs_depends_on_the_key_and_names_nobody() {
        let ring = KeyRing::new([("a".parse().unwrap(), key(2)), ("b".parse().unwrap(), key(1))].into());
        let ann = ring.user_hash(&user("ann")).unwrap();
        assert_eq!(ann, key(2).user_hash(&user("ann")));
        assert_eq!(ann.len(), 16);
        assert_ne!(ann, key(1).user_hash(&user("ann")));
        assert_ne!(ann, key(2).user_hash(&user("bob")));
        assert_eq!(KeyRing::default().user_hash(&user("ann")), None);
    }

    #[test]
    fn a_short_secret_is_no_key() {
        assert_eq!(Key::from_secret(&[0; 31]).unwrap_err(), SecretTooShort(31));
    }
}
