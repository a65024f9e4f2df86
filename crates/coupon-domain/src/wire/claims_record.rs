//! `coupon.claims`: claims and commands. Anybody's bytes may stand there, so reading is total: every byte string is a
//! claim, a command, a record of a newer version, or invalid, and which of them never changes for a given version.

use std::num::NonZeroI32;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::claim::Claim;
use crate::claim_id::{ClaimId, Round, Slot};
use crate::command::{Change, Command, CommandKind};
use crate::command_id::CommandId;
use crate::coupon::{Definition, RULES_NEWEST, Window};
use crate::coupon_id::CouponId;
use crate::limits::{CLAIMS_RECORD_BYTES_MAX, QUANTITY_MAX, REASON_BYTES_MAX};
use crate::timestamp::Timestamp;
use crate::user_id::UserId;
use crate::wire::CLAIMS_RECORD_VERSION;

/// A record of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A user's request.
    Claim(Claim),
    /// An operator's change.
    Command(Command),
}

/// Why bytes are no record that this release reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A newer release wrote it: halt, never drop.
    #[error("version {found} of the record (or rule set {found_rules:?}) is newer than this release reads")]
    Newer {
        /// The record's version.
        found: u32,
        /// The rule set that a publish command names, where that is what is newer.
        found_rules: Option<u16>,
    },
    /// No record: its outcome is `invalid`.
    #[error("{problem}")]
    Invalid {
        /// The claim it would have been, where that much can be read.
        claim_id: Option<ClaimId>,
        /// For people: it goes to the DLQ's headers, never into an outcome.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
struct ClaimRecord<'a> {
    v: u32,
    claim_id: ClaimId,
    coupon_id: CouponId,
    user_id: std::borrow::Cow<'a, UserId>,
    round: Round,
    slot: Slot,
    received_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct CommandRecord {
    v: u32,
    command_id: CommandId,
    coupon_id: CouponId,
    kind: CommandKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected_version: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    definition: Option<Arc<Definition>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<Window>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<NonZeroI32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Arc<str>>,
    actor: UserId,
}

/// What can be told of a record that is neither.
#[derive(Deserialize)]
struct Remains {
    #[serde(default)]
    v: Option<serde_json::Value>,
    #[serde(default)]
    claim_id: Option<serde_json::Value>,
    #[serde(default)]
    command_id: Option<serde_json::Value>,
}

/// Reads a record's value (none: a tombstone, which has no business here).
///
/// # Errors
/// [`Unreadable`] says whether the partition must halt or the record is to be parked.
pub fn decode_claims_record(bytes: Option<&[u8]>) -> Result<Input, Unreadable> {
    let invalid = |problem: &str| Unreadable::Invalid { claim_id: None, problem: problem.to_owned() };
    let bytes = bytes.ok_or_else(|| invalid("the record has no value"))?;
    if bytes.len() > CLAIMS_RECORD_BYTES_MAX {
        return Err(invalid(&format!(
            "the record has {} bytes, the limit is {CLAIMS_RECORD_BYTES_MAX}",
            bytes.len()
        )));
    }
    match serde_json::from_slice::<ClaimRecord<'_>>(bytes) {
        Ok(record) if record.v == CLAIMS_RECORD_VERSION => claim(record),
        Ok(record) => Err(decode_remains(bytes, &format!("version {} is unknown", record.v))),
        Err(error) => decode_command(bytes, &error),
    }
}

fn claim(record: ClaimRecord<'_>) -> Result<Input, Unreadable> {
    let ClaimRecord { claim_id, coupon_id, user_id, round, slot, received_at, .. } = record;
    if (claim_id.coupon_id, claim_id.round, claim_id.slot) != (coupon_id, round, slot) {
        return Err(Unreadable::Invalid {
            claim_id: Some(claim_id),
            problem: "claim_id does not agree with coupon_id, round and slot".to_owned(),
        });
    }
    Ok(Input::Claim(Claim { claim_id, user_id: user_id.into_owned(), received_at }))
}

fn decode_command(bytes: &[u8], claim_error: &serde_json::Error) -> Result<Input, Unreadable> {
    let Ok(Remains { command_id: Some(_), .. }) = serde_json::from_slice(bytes) else {
        return Err(decode_remains(bytes, &claim_error.to_string()));
    };
    let record: CommandRecord =
        serde_json::from_slice(bytes).map_err(|error| decode_remains(bytes, &error.to_string()))?;
    if record.v != CLAIMS_RECORD_VERSION {
        return Err(decode_remains(bytes, &format!("version {} is unknown", record.v)));
    }
    if let Some(definition) = &record.definition
        && definition.rules() > RULES_NEWEST
    {
        return Err(Unreadable::Newer { found: record.v, found_rules: Some(definition.rules()) });
    }
    command(record)
        .map(Input::Command)
        .map_err(|problem| Unreadable::Invalid { claim_id: None, problem: problem.to_owned() })
}

fn command(record: CommandRecord) -> Result<Command, &'static str> {
    if record.command_id.coupon_id != record.coupon_id {
        return Err("command_id does not agree with coupon_id");
    }
    if record.expected_version.is_some_and(|version| i32::try_from(version).is_err()) {
        return Err("expected_version is out of range");
    }
    if let Some(reason) = &record.reason
        && (reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control))
    {
        return Err("reason is too long or has control characters");
    }
    let change = match (record.kind, record.definition, record.times, record.delta) {
        (CommandKind::Publish, Some(definition), None, None) => Change::Publish(definition),
        (CommandKind::Reschedule, None, Some(window), None) => Change::Reschedule(window),
        (CommandKind::Restock, None, None, Some(delta)) if delta.get().unsigned_abs() <= QUANTITY_MAX => {
            Change::Restock(delta.get())
        }
        (CommandKind::Pause, None, None, None) => Change::Pause,
        (CommandKind::Resume, None, None, None) => Change::Resume,
        (CommandKind::Close, None, None, None) => Change::Close,
        (CommandKind::Retire, None, None, None) => Change::Retire,
        _ => return Err("definition, times and delta do not fit the kind of command"),
    };
    if matches!(change, Change::Publish(_)) && record.expected_version.is_some_and(|version| version != 0) {
        return Err("publish expects no version");
    }
    Ok(Command {
        command_id: record.command_id,
        change,
        expected_version: record.expected_version,
        reason: record.reason,
        actor: record.actor,
    })
}

fn decode_remains(bytes: &[u8], problem: &str) -> Unreadable {
    let remains =
        serde_json::from_slice(bytes).unwrap_or(Remains { v: None, claim_id: None, command_id: None });
    let version = remains.v.and_then(|value| value.as_u64());
    match version.and_then(|number| u32::try_from(number).ok()) {
        Some(found) if found > CLAIMS_RECORD_VERSION => Unreadable::Newer { found, found_rules: None },
        _ => Unreadable::Invalid {
            claim_id: remains.claim_id.and_then(|value| value.as_str()?.parse().ok()),
            problem: problem.to_owned(),
        },
    }
}

/// The record of a claim.
#[must_use]
pub fn encode_claim(claim: &Claim) -> Vec<u8> {
    let record = ClaimRecord {
        v: CLAIMS_RECORD_VERSION,
        claim_id: claim.claim_id,
        coupon_id: claim.claim_id.coupon_id,
        user_id: std::borrow::Cow::Borrowed(&claim.user_id),
        round: claim.claim_id.round,
        slot: claim.claim_id.slot,
        received_at: claim.received_at,
    };
    super::encode(&record)
}

/// The record of a command.
#[must_use]
pub fn encode_command(command: &Command) -> Vec<u8> {
    let mut record = CommandRecord {
        v: CLAIMS_RECORD_VERSION,
        command_id: command.command_id,
        coupon_id: command.command_id.coupon_id,
        kind: command.change.kind(),
        expected_version: command.expected_version,
        definition: None,
        times: None,
        delta: None,
        reason: command.reason.clone(),
        actor: command.actor.clone(),
    };
    match &command.change {
        Change::Publish(definition) => record.definition = Some(Arc::clone(definition)),
        Change::Reschedule(window) => record.times = Some(*window),
        Change::Restock(delta) => record.delta = NonZeroI32::new(*delta),
        Change::Pause | Change::Resume | Change::Close | Change::Retire => {}
    }
    super::encode(&record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLAIM: &str = include_str!("../../golden/claim_v1.json");
    const PUBLISH: &str = include_str!("../../golden/command_v1_publish.json");
    const RESTOCK: &str = include_str!("../../golden/command_v1_restock.json");
    const RESCHEDULE: &str = include_str!("../../golden/command_v1_reschedule.json");
    const PAUSE: &str = include_str!("../../golden/command_v1_pause.json");

    fn decode(text: &str) -> Result<Input, Unreadable> {
        decode_claims_record(Some(text.as_bytes()))
    }

    #[test]
    fn golden_records_read_and_are_written_the_same() {
        for golden in [CLAIM, PUBLISH, RESTOCK, RESCHEDULE, PAUSE] {
            let golden = golden.trim_end();
            let written = match decode(golden).unwrap() {
                Input::Claim(claim) => encode_claim(&claim),
                Input::Command(command) => encode_command(&command),
            };
            assert_eq!(String::from_utf8(written).unwrap(), golden);
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let wider = CLAIM.replacen('{', r#"{"added_later":[1,{"deep":true}],"#, 1);
        assert_eq!(decode(&wider), decode(CLAIM));
    }

    #[test]
    fn a_newer_version_is_never_invalid() {
        for golden in [CLAIM, PUBLISH] {
            let newer = golden.replacen(r#""v":1"#, r#""v":2"#, 1);
            assert_eq!(decode(&newer), Err(Unreadable::Newer { found: 2, found_rules: None }));
        }
        let reshaped = r#"{"v":3,"something":"else"}"#;
        assert_eq!(decode(reshaped), Err(Unreadable::Newer { found: 3, found_rules: None }));
        let newer_rules = PUBLISH.replacen(r#""rules":1"#, r#""rules":2"#, 1);
        assert_eq!(decode(&newer_rules), Err(Unreadable::Newer { found: 1, found_rules: Some(2) }));
    }

    #[test]
    fn every_limit_of_a_claim_is_checked() {
        let cases = [
            (r#""user_id":"ann""#, r#""user_id":"an\u0000n""#.to_owned()),
            (r#""user_id":"ann""#, format!(r#""user_id":"{}""#, "x".repeat(129))),
            (r#""user_id":"ann""#, r#""user_id":"""#.to_owned()),
            (r#""round":0"#, r#""round":1"#.to_owned()),
            (r#""round":0"#, r#""round":32"#.to_owned()),
            (r#""slot":"0""#, r#""slot":"00000000000000ff""#.to_owned()),
            (r#""received_at":"#, r#""received_at":-"#.to_owned()),
            (r#""v":1"#, r#""v":0"#.to_owned()),
            (r#""v":1,"#, String::new()),
        ];
        for (from, to) in cases {
            let text = CLAIM.replacen(from, &to, 1);
            assert_ne!(text, CLAIM, "{from} must be in the golden file");
            let Err(Unreadable::Invalid { claim_id, .. }) = decode(&text) else { panic!("{text} was read") };
            assert!(claim_id.is_some(), "the claim can still be named in {text}");
        }
    }

    #[test]
    fn a_command_carries_what_its_kind_needs_and_nothing_else() {
        let cases = [
            RESTOCK.replacen(r#""delta":500"#, r#""delta":0"#, 1),
            RESTOCK.replacen(r#""delta":500"#, r#""delta":10000001"#, 1),
            RESTOCK.replacen(r#""delta":500,"#, "", 1),
            PAUSE.replacen(r#""kind":"pause""#, r#""kind":"pause","delta":1"#, 1),
            PAUSE.replacen(r#""kind":"pause""#, r#""kind":"explode""#, 1),
            PUBLISH.replacen(r#""quantity":1000"#, r#""quantity":0"#, 1),
            PUBLISH.replacen(r#""kind":"publish""#, r#""kind":"publish","expected_version":3"#, 1),
        ];
        for text in cases {
            assert!(matches!(decode(&text), Err(Unreadable::Invalid { .. })), "{text} was read");
        }
    }

    #[test]
    fn a_tombstone_and_a_huge_record_are_invalid() {
        assert!(matches!(decode_claims_record(None), Err(Unreadable::Invalid { .. })));
        let padding = " ".repeat(CLAIMS_RECORD_BYTES_MAX - CLAIM.trim_end().len());
        assert!(decode(&format!("{}{padding}", CLAIM.trim_end())).is_ok());
        assert!(decode(&format!("{}{padding} ", CLAIM.trim_end())).is_err());
    }

    proptest! {
        #[test]
        fn reading_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let first = decode_claims_record(Some(&bytes));
            prop_assert_eq!(first, decode_claims_record(Some(&bytes)));
        }

        #[test]
        fn a_torn_record_is_never_read(cut: prop::sample::Index) {
            let whole = CLAIM.trim_end();
            prop_assert!(decode(&whole[..cut.index(whole.len())]).is_err());
        }
    }
}
