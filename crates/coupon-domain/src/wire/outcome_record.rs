//! `coupon.outcomes`: what the log says, one record per record of the line.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::claim_id::{ClaimId, Round, Slot};
use crate::code::{ClaimCode, CommandCode, Refusal};
use crate::command_id::CommandId;
use crate::command_kind::CommandKind;
use crate::coupon::CouponState;
use crate::coupon_id::CouponId;
use crate::outcome::{
    ClaimOutcome, CommandOutcome, INVALID, InvalidOutcome, InvalidReason, Outcome, Subject,
};
use crate::position::Offset;
use crate::timestamp::Timestamp;
use crate::user_id::UserId;
use crate::wire::{OUTCOME_RECORD_VERSION, RecordError, check_version, unreadable};

/// All kinds in one flat object; which fields are present follows from the subject.
#[derive(Serialize, Deserialize)]
struct OutcomeRecord<'a> {
    v: u32,
    rules: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claim_id: Option<ClaimId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command_id: Option<CommandId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coupon_id: Option<CouponId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_id: Option<std::borrow::Cow<'a, UserId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    round: Option<Round>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slot: Option<Slot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<CommandKind>,
    code: Code,
    #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
    is_final: Option<bool>,
    decided_offset: Offset,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issue_no: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_nth: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rank: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    granted_claim_id: Option<ClaimId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invalid_reason: Option<InvalidReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<std::borrow::Cow<'a, UserId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<std::borrow::Cow<'a, CouponState>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remaining: Option<u32>,
    src_offset: Offset,
    appended_at: Timestamp,
    chain: Chain,
}

/// The codes of all subjects share one field; their names are distinct.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    Claim(ClaimCode),
    Command(CommandCode),
    Invalid,
}

#[derive(Debug, thiserror::Error)]
#[error("the code of no outcome")]
struct UnknownCode;

impl std::str::FromStr for Code {
    type Err = UnknownCode;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == INVALID {
            return Ok(Self::Invalid);
        }
        let claim = ClaimCode::from_name(name).map(Self::Claim);
        claim.or_else(|| CommandCode::from_name(name).map(Self::Command)).ok_or(UnknownCode)
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Claim(code) => code.as_str(),
            Self::Command(code) => code.as_str(),
            Self::Invalid => INVALID,
        })
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::parse_str(deserializer)
    }
}

/// The record of an outcome.
#[must_use]
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    use std::borrow::Cow;

    let mut record = OutcomeRecord {
        v: OUTCOME_RECORD_VERSION,
        rules: outcome.rules,
        claim_id: None,
        command_id: None,
        coupon_id: outcome.coupon_id(),
        user_id: None,
        round: None,
        slot: None,
        kind: None,
        code: Code::Invalid,
        is_final: None,
        decided_offset: outcome.decided_offset,
        issue_no: None,
        user_nth: None,
        rank: None,
        granted_claim_id: None,
        refusal: None,
        invalid_reason: None,
        actor: None,
        reason: None,
        state: None,
        remaining: outcome.remaining,
        src_offset: outcome.src_offset,
        appended_at: outcome.appended_at,
        chain: outcome.chain,
    };
    match &outcome.subject {
        Subject::Claim(claim) => {
            record.claim_id = Some(claim.claim_id);
            record.user_id = Some(Cow::Borrowed(&claim.user_id));
            record.round = Some(claim.claim_id.round);
            record.slot = Some(claim.claim_id.slot);
            record.code = Code::Claim(claim.code);
            record.is_final = Some(claim.is_final);
            record.issue_no = claim.issue_no;
            record.user_nth = claim.user_nth;
            record.rank = claim.rank;
            record.granted_claim_id = claim.granted_claim_id;
        }
        Subject::Command(command) => {
            record.command_id = Some(command.command_id);
            record.kind = Some(command.kind);
            record.code = Code::Command(command.code);
            record.refusal = command.refusal;
            record.actor = Some(Cow::Borrowed(&command.actor));
            record.reason = command.reason.clone();
            record.state = command.state.as_ref().map(Cow::Borrowed);
        }
        Subject::Invalid(invalid) => {
            record.claim_id = invalid.claim_id;
            record.invalid_reason = Some(invalid.reason);
        }
    }
    super::encode(&record)
}

/// Reads an outcome.
///
/// # Errors
/// [`RecordError`]: a newer version, or no outcome at all.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, RecordError> {
    let record: OutcomeRecord<'_> =
        serde_json::from_slice(bytes).map_err(|error| unreadable(bytes, OUTCOME_RECORD_VERSION, &error))?;
    check_version(record.v, OUTCOME_RECORD_VERSION)?;
    let (src_offset, appended_at, decided_offset) =
        (record.src_offset, record.appended_at, record.decided_offset);
    let (rules, remaining, chain) = (record.rules, record.remaining, record.chain);
    let subject = subject(record)
        .ok_or_else(|| RecordError::Malformed("the outcome's fields do not fit its code".to_owned()))?;
    Ok(Outcome { src_offset, appended_at, decided_offset, rules, remaining, subject, chain })
}

fn subject(record: OutcomeRecord<'_>) -> Option<Subject> {
    match record.code {
        Code::Claim(code) => Some(Subject::Claim(ClaimOutcome {
            claim_id: record.claim_id?,
            user_id: record.user_id?.into_owned(),
            code,
            is_final: record.is_final?,
            issue_no: record.issue_no,
            user_nth: record.user_nth,
            rank: record.rank,
            granted_claim_id: record.granted_claim_id,
        })),
        Code::Command(code) => Some(Subject::Command(Box::new(CommandOutcome {
            command_id: record.command_id?,
            kind: record.kind?,
            code,
            refusal: record.refusal,
            actor: record.actor?.into_owned(),
            reason: record.reason,
            state: record.state.map(std::borrow::Cow::into_owned),
        }))),
        Code::Invalid => Some(Subject::Invalid(InvalidOutcome {
            reason: record.invalid_reason?,
            claim_id: record.claim_id,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [&str; 6] = [
        include_str!("../../golden/outcome_v1_granted.json"),
        include_str!("../../golden/outcome_v1_already_issued.json"),
        include_str!("../../golden/outcome_v1_not_open.json"),
        include_str!("../../golden/outcome_v1_applied.json"),
        include_str!("../../golden/outcome_v1_refused.json"),
        include_str!("../../golden/outcome_v1_invalid.json"),
    ];

    #[test]
    fn golden_records_read_and_are_written_the_same() {
        for golden in GOLDEN.map(str::trim_end) {
            let outcome = decode_outcome(golden.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(encode_outcome(&outcome)).unwrap(), golden);
        }
    }

    /// The golden outcomes are the outcomes of one line, so each link follows from the one before.
    #[test]
    fn golden_records_are_chained() {
        let outcomes: Vec<_> =
            GOLDEN.iter().map(|golden| decode_outcome(golden.trim_end().as_bytes()).unwrap()).collect();
        for outcome in &outcomes {
            assert!(outcomes.iter().filter(|other| other.src_offset == outcome.src_offset).count() == 1);
        }
        let changed = GOLDEN[0].trim_end().replacen(r#""issue_no":1"#, r#""issue_no":2"#, 1);
        let forged = decode_outcome(changed.as_bytes()).unwrap();
        let previous = Chain::genesis(forged.claim_id().unwrap().coupon_id.partition());
        assert_ne!(previous.next(&forged), previous.next(&outcomes[0]));
    }

    #[test]
    fn newer_and_damaged_records_are_told_apart() {
        let newer = GOLDEN[0].replacen(r#""v":1"#, r#""v":2"#, 1);
        assert_eq!(decode_outcome(newer.as_bytes()), Err(RecordError::NewerVersion { found: 2, newest: 1 }));
        for damaged in ["", "{}", "null", r#"{"v":1}"#] {
            assert!(
                matches!(decode_outcome(damaged.as_bytes()), Err(RecordError::Malformed(_))),
                "{damaged}"
            );
        }
        let no_claim = GOLDEN[0].replacen("claim_id", "claim", 1);
        assert!(matches!(decode_outcome(no_claim.as_bytes()), Err(RecordError::Malformed(_))));
    }
}
