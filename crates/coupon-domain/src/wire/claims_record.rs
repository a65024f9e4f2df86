//! `coupon.claims`: claims and commands. Anybody's bytes may stand there, so reading is total: every byte string is a
//! claim, a command, a record of a newer version, or invalid, and which of them never changes for a given version.

use std::num::NonZeroI32;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::claim::Claim;
use crate::claim_id::{ClaimId, Round, Slot};
use crate::command::{Change, Command};
use crate::command_id::CommandId;
use crate::command_kind::CommandKind;
use crate::coupon::{Definition, RULES_NEWEST, Window};
use crate::coupon_id::CouponId;
use crate::limits::{CLAIMS_RECORD_BYTES_MAX, QUANTITY_MAX, REASON_BYTES_MAX};
use crate::timestamp::Timestamp;
use crate::user_id::UserId;
use crate::wire::{CLAIMS_RECORD_VERSION, Object};

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
        found: u64,
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
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional_object")]
    definition: Option<Arc<Definition>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional_object")]
    times: Option<Window>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<NonZeroI32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Arc<str>>,
    actor: UserId,
}

/// What can be told of a record that is neither: whatever its other fields hold, and whatever these three hold.
#[derive(Default, Deserialize)]
struct Remains<'a> {
    #[serde(default, borrow)]
    v: Option<&'a RawValue>,
    #[serde(default, borrow)]
    claim_id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    command_id: Option<&'a RawValue>,
}

impl<'a> Remains<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        serde_json::from_slice(bytes).map_or_else(|_| Self::default(), |Object(remains)| remains)
    }

    fn newer_version(&self) -> Option<u64> {
        let version = serde_json::from_str(self.v?.get()).ok();
        version.filter(|version| *version > u64::from(CLAIMS_RECORD_VERSION))
    }

    fn claim_id(&self) -> Option<ClaimId> {
        serde_json::from_str(self.claim_id?.get()).ok()
    }

    fn unreadable(&self, problem: String) -> Unreadable {
        match self.newer_version() {
            Some(found) => Unreadable::Newer { found, found_rules: None },
            None => Unreadable::Invalid { claim_id: self.claim_id(), problem },
        }
    }
}

/// Reads a record's value (none: a tombstone, which has no business here).
///
/// # Errors
/// [`Unreadable`] says whether the partition must halt or the record is to be parked.
pub fn decode_claims_record(bytes: Option<&[u8]>) -> Result<Input, Unreadable> {
    let Some(bytes) = bytes else {
        return Err(Unreadable::Invalid { claim_id: None, problem: "the record has no value".to_owned() });
    };
    if bytes.len() > CLAIMS_RECORD_BYTES_MAX {
        let problem = format!("the record has {} bytes, the limit is {CLAIMS_RECORD_BYTES_MAX}", bytes.len());
        return Err(Remains::of(bytes).unreadable(problem));
    }
    let claim_problem = match serde_json::from_slice(bytes) {
        Ok(Object(record)) => match claim(record) {
            Ok(claim) => return Ok(Input::Claim(claim)),
            Err(problem) => problem,
        },
        Err(error) => error.to_string(),
    };
    let remains = Remains::of(bytes);
    if remains.newer_version().is_some() || remains.command_id.is_none() {
        return Err(remains.unreadable(claim_problem));
    }
    let Object(record) =
        serde_json::from_slice(bytes).map_err(|error| remains.unreadable(error.to_string()))?;
    command(record).map(Input::Command).map_err(|refusal| match refusal {
        NotTaken::NewerRules(rules) => {
            Unreadable::Newer { found: CLAIMS_RECORD_VERSION.into(), found_rules: Some(rules) }
        }
        NotTaken::Wrong(problem) => remains.unreadable(problem.to_owned()),
    })
}

fn claim(record: ClaimRecord<'_>) -> Result<Claim, String> {
    let ClaimRecord { v, claim_id, coupon_id, user_id, round, slot, received_at } = record;
    if v != CLAIMS_RECORD_VERSION {
        return Err(format!("version {v} is unknown"));
    }
    if (claim_id.coupon_id, claim_id.round, claim_id.slot) != (coupon_id, round, slot) {
        return Err("claim_id does not agree with coupon_id, round and slot".to_owned());
    }
    Ok(Claim { claim_id, user_id: user_id.into_owned(), received_at })
}

/// Why what has the fields of a command is none.
enum NotTaken {
    NewerRules(u16),
    Wrong(&'static str),
}

fn command(record: CommandRecord) -> Result<Command, NotTaken> {
    if record.v != CLAIMS_RECORD_VERSION {
        return Err(NotTaken::Wrong("the version is unknown"));
    }
    if let Some(definition) = &record.definition
        && definition.rules() > RULES_NEWEST
    {
        return Err(NotTaken::NewerRules(definition.rules()));
    }
    if record.command_id.coupon_id != record.coupon_id {
        return Err(NotTaken::Wrong("command_id does not agree with coupon_id"));
    }
    if record.expected_version.is_some_and(|version| i32::try_from(version).is_err()) {
        return Err(NotTaken::Wrong("expected_version is out of range"));
    }
    if let Some(reason) = &record.reason
        && (reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control))
    {
        return Err(NotTaken::Wrong("reason is too long or has control characters"));
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
        _ => return Err(NotTaken::Wrong("definition, times and delta do not fit the kind of command")),
    };
    if matches!(change, Change::Publish(_)) && record.expected_version.is_some_and(|version| version != 0) {
        return Err(NotTaken::Wrong("publish expects no version"));
    }
    Ok(Command {
        command_id: record.command_id,
        change,
        expected_version: record.expected_version,
        reason: record.reason,
        actor: record.actor,
    })
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
        let nested = format!(r#"{{"added_later":{}{},"#, "[".repeat(3_900), "]".repeat(3_900));
        assert_eq!(decode(&CLAIM.replacen('{', &nested, 1)), decode(CLAIM));
    }

    #[test]
    fn a_newer_version_is_never_invalid() {
        for golden in [CLAIM, PUBLISH] {
            let newer = golden.replacen(r#""v":1"#, r#""v":2"#, 1);
            assert_eq!(decode(&newer), Err(Unreadable::Newer { found: 2, found_rules: None }));
        }
        let reshaped = r#"{"v":3,"something":"else"}"#;
        assert_eq!(decode(reshaped), Err(Unreadable::Newer { found: 3, found_rules: None }));
        let newest = format!(r#""rules":{RULES_NEWEST}"#);
        assert!(decode(&PUBLISH.replacen(r#""rules":1"#, &newest, 1)).is_ok());
        let next = RULES_NEWEST + 1;
        let newer_rules = PUBLISH.replacen(r#""rules":1"#, &format!(r#""rules":{next}"#), 1);
        assert_eq!(decode(&newer_rules), Err(Unreadable::Newer { found: 1, found_rules: Some(next) }));
    }

    #[test]
    fn a_newer_version_is_seen_in_any_record() {
        let far_ahead = format!(r#"{{"v":{},"command_id":7,"v2":[]}}"#, u64::MAX);
        assert_eq!(decode(&far_ahead), Err(Unreadable::Newer { found: u64::MAX, found_rules: None }));
        let huge = CLAIM.replacen(r#""v":1"#, &format!(r#""v":2,"more":"{}""#, "x".repeat(9_000)), 1);
        assert_eq!(decode(&huge), Err(Unreadable::Newer { found: 2, found_rules: None }));
        let deep = format!(r#"{{"v":2,"claim_id":{}{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
        assert_eq!(decode(&deep), Err(Unreadable::Newer { found: 2, found_rules: None }));
    }

    #[test]
    fn an_array_is_no_record_and_no_part_of_one() {
        let claim: serde_json::Value = serde_json::from_str(CLAIM).unwrap();
        let fields = ["v", "claim_id", "coupon_id", "user_id", "round", "slot", "received_at"];
        let fields_in_order = serde_json::json!(fields.map(|field| &claim[field])).to_string();
        let times = r#""times":{"opens_at":1767225600000,"closes_at":1767229200000}"#;
        assert!(RESCHEDULE.contains(times));
        let cases = [
            fields_in_order,
            "[2]".to_owned(),
            "[]".to_owned(),
            RESCHEDULE.replacen(times, r#""times":[1767225600000,1767229200000]"#, 1),
            PAUSE.replacen(r#""kind":"pause""#, r#""kind":{"pause":null}"#, 1),
        ];
        for text in cases {
            let Err(Unreadable::Invalid { claim_id, .. }) = decode(&text) else { panic!("{text} was read") };
            assert_eq!(claim_id, None);
        }
    }

    #[test]
    fn what_a_command_does_not_know_cannot_spoil_it() {
        for odd in ["7", "[{}]", r#"{"v":9}"#, r#""c0""#] {
            let wider = PAUSE.replacen('{', &format!(r#"{{"claim_id":{odd},"later":{odd},"#), 1);
            assert_eq!(decode(&wider), decode(PAUSE));
        }
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
