//! A claim's answer as its user may see it: what the view keeps, what the API tells, without anybody's id.

use serde::{Deserialize, Serialize};

use crate::claim_id::ClaimId;
use crate::code::ClaimCode;
use crate::ledger::SettledClaim;
use crate::outcome::{Outcome, Subject};
use crate::position::Offset;
use crate::timestamp::Timestamp;

/// The newest answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimAnswer {
    /// Which claim.
    pub claim_id: ClaimId,
    /// The answer.
    pub code: ClaimCode,
    /// True where it is remembered, and there will be no other.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Where it was given: the claims offset.
    pub decided_offset: Offset,
    /// The append time of that record.
    pub decided_at: Timestamp,
    /// Granted: the number of the issued coupon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_no: Option<u32>,
    /// Granted: the how-manieth of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_nth: Option<u16>,
    /// Final: the how-manieth claim of this coupon to get a final outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Already issued: the claim that won.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_claim_id: Option<ClaimId>,
}

impl ClaimAnswer {
    /// The answer that a new outcome gives to a claim; none for repeats, commands and records that cannot be read.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match &outcome.subject {
            Subject::Claim(claim) if outcome.is_new() => Some(Self {
                claim_id: claim.claim_id,
                code: claim.code,
                is_final: claim.is_final,
                decided_offset: outcome.decided_offset,
                decided_at: outcome.appended_at,
                issue_no: claim.issue_no,
                user_nth: claim.user_nth,
                rank: claim.rank,
                granted_claim_id: claim.granted_claim_id,
            }),
            _ => None,
        }
    }

    /// The answer to a settled claim of this rank; `winner` is the claim that it names.
    #[must_use]
    pub fn settled(claim_id: ClaimId, rank: u32, claim: &SettledClaim, winner: Option<ClaimId>) -> Self {
        Self {
            claim_id,
            code: claim.code,
            is_final: true,
            decided_offset: claim.decided_offset,
            decided_at: claim.appended_at,
            issue_no: claim.issue_no(),
            user_nth: claim.user_nth(),
            rank: Some(rank),
            granted_claim_id: winner,
        }
    }
}
