//! A claim as its user sees it: the same from gateway and notifier.

use coupon_domain::{ClaimAnswer, ClaimCode, ClaimId, Offset, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::ClaimCodeName;
use crate::time::to_rfc3339;

/// Where a claim's answer is found: at the notifier, under the same name as whoever was asked where it has none of its own.
#[must_use]
pub fn location(notifier_url: &str, claim_id: &ClaimId) -> String {
    format!("{}/v1/claims/{claim_id}", notifier_url.trim_end_matches('/'))
}

/// Where a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The log has not answered yet, or not where we could look.
    Pending,
    /// Not yet: press again later, it is the same claim.
    Deferred,
    /// There will be no other answer.
    Decided,
    /// The claim's record could not be read; an operator has it before them.
    Parked,
}

/// A claim as its user sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClaimView {
    #[schema(value_type = String)]
    claim_id: ClaimId,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClaimCodeName>)]
    code: Option<&'static str>,
    #[serde(rename = "final")]
    is_final: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    decided_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issue_no: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_nth: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    granted_claim_id: Option<ClaimId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coupon_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

impl ClaimView {
    /// A claim without an answer.
    #[must_use]
    pub fn pending(claim_id: ClaimId) -> Self {
        Self {
            claim_id,
            status: Status::Pending,
            code: None,
            is_final: false,
            decided_offset: None,
            decided_at: None,
            issue_no: None,
            user_nth: None,
            rank: None,
            granted_claim_id: None,
            coupon_code: None,
            expires_at: None,
        }
    }

    /// A claim whose record at this offset could not be read.
    #[must_use]
    pub fn parked(claim_id: ClaimId, offset: Offset) -> Self {
        Self {
            status: Status::Parked,
            code: Some(coupon_domain::outcome::INVALID),
            decided_offset: Some(offset.number()),
            ..Self::pending(claim_id)
        }
    }

    /// A claim of a retired coupon of which nothing is written: it came too late, as every further press does.
    #[must_use]
    pub fn closed(claim_id: ClaimId) -> Self {
        Self { status: Status::Decided, code: Some(ClaimCode::Closed.as_str()), ..Self::pending(claim_id) }
    }

    /// A claim of a user who holds what they may, of which nothing is written: every further press is answered so.
    #[must_use]
    pub fn already_issued(claim_id: ClaimId, winner: Option<ClaimId>) -> Self {
        Self {
            status: Status::Decided,
            code: Some(ClaimCode::AlreadyIssued.as_str()),
            is_final: true,
            granted_claim_id: winner,
            ..Self::pending(claim_id)
        }
    }

    /// A claim with an answer.
    #[must_use]
    pub fn answered(answer: &ClaimAnswer) -> Self {
        Self {
            status: if answer.code.is_deferral() { Status::Deferred } else { Status::Decided },
            code: Some(answer.code.as_str()),
            // By rules 2 it is remembered nowhere, but never changes.
            is_final: answer.is_final || answer.code == ClaimCode::AlreadyIssued,
            decided_offset: Some(answer.decided_offset.number()),
            decided_at: Some(to_rfc3339(answer.decided_at)),
            issue_no: answer.issue_no,
            user_nth: answer.user_nth,
            rank: answer.rank,
            granted_claim_id: answer.granted_claim_id,
            ..Self::pending(answer.claim_id)
        }
    }

    /// The same with the issued coupon, once PostgreSQL holds it.
    #[must_use]
    pub fn with_coupon(mut self, coupon_code: String, expires_at: Option<Timestamp>) -> Self {
        self.coupon_code = Some(coupon_code);
        self.expires_at = expires_at.map(to_rfc3339);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_are_left_out() {
        let claim_id: ClaimId = format!("c0-{}.0.0.{}", "1".repeat(32), "2".repeat(32)).parse().unwrap();
        let json = serde_json::to_value(ClaimView::pending(claim_id)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"claim_id": claim_id.to_string(), "status": "pending", "final": false})
        );
    }
}
