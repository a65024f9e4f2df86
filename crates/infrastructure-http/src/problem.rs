//! Errors as RFC 9457 problem details. `code` is stable and snake_case; where the log has a word for it, it is the log's.

use std::borrow::Cow;
use std::fmt;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, RETRY_AFTER};
use serde::Serialize;
use utoipa::ToSchema;

/// The content type of problems.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// The codes that problems carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A field, a header or the path is wrong; `field` names it.
    InvalidRequest,
    /// The body is larger than `http.body_bytes_max`; nothing of it was looked at.
    PayloadTooLarge,
    /// The request took longer to arrive than `http.head_ms_max` or `http.body_ms_max`; nothing of it was looked at.
    RequestTimeout,
    /// No token, or one that does not count.
    Unauthorized,
    /// The token does not allow this.
    Forbidden,
    /// No such coupon.
    UnknownCoupon,
    /// No such thing, or not yours.
    NotFound,
    /// Too early.
    NotOpen,
    /// Held back by an operator.
    Paused,
    /// Nothing left.
    SoldOut,
    /// Too late.
    Closed,
    /// The coupon was redeemed by another request.
    AlreadyUsed,
    /// The coupon was not redeemed in time.
    Expired,
    /// The same Idempotency-Key came with another body before.
    IdempotencyKeyReused,
    /// More requests than one user may send.
    RateLimited,
    /// More keys than one user may use for one coupon; waiting does not help.
    TooManyKeys,
    /// More than this process takes at once.
    Overloaded,
    /// The log did not acknowledge: the claim may stand in it or not. Its Location tells.
    InDoubt,
    /// The log did not take the claim: nothing happened.
    NotAccepted,
    /// The log is not the one that this gateway knows.
    LogMismatch,
    /// A key or a store that this request needs is not there now.
    Unavailable,
    /// PostgreSQL was put back in time: nothing is redeemed until an operator has looked.
    StoreRestored,
    /// This process is about to end.
    ShuttingDown,
    /// Our fault.
    Internal,
}

impl Code {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::PayloadTooLarge => "payload_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::UnknownCoupon => "unknown_coupon",
            Self::NotFound => "not_found",
            Self::NotOpen => "not_open",
            Self::Paused => "paused",
            Self::SoldOut => "sold_out",
            Self::Closed => "closed",
            Self::AlreadyUsed => "already_used",
            Self::Expired => "expired",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::RateLimited => "rate_limited",
            Self::TooManyKeys => "too_many_keys",
            Self::Overloaded => "overloaded",
            Self::InDoubt => "in_doubt",
            Self::NotAccepted => "not_accepted",
            Self::LogMismatch => "log_mismatch",
            Self::Unavailable => "unavailable",
            Self::StoreRestored => "store_restored",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
        }
    }

    /// The status of answers with this code.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::UnknownCoupon | Self::NotFound => StatusCode::NOT_FOUND,
            Self::NotOpen | Self::Paused | Self::SoldOut | Self::AlreadyUsed => StatusCode::CONFLICT,
            Self::Closed | Self::Expired => StatusCode::GONE,
            Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited | Self::TooManyKeys => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded
            | Self::InDoubt
            | Self::NotAccepted
            | Self::LogMismatch
            | Self::Unavailable
            | Self::StoreRestored
            | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request is wrong",
            Self::PayloadTooLarge => "The request is too large",
            Self::RequestTimeout => "The request did not arrive in time",
            Self::Unauthorized => "A valid token is needed",
            Self::Forbidden => "The token does not allow this",
            Self::UnknownCoupon => "No such coupon",
            Self::NotFound => "Not found",
            Self::NotOpen => "Not open yet",
            Self::Paused => "Paused",
            Self::SoldOut => "Sold out",
            Self::Closed => "Closed",
            Self::AlreadyUsed => "Already used",
            Self::Expired => "Expired",
            Self::IdempotencyKeyReused => "The Idempotency-Key was used with another body",
            Self::RateLimited => "Too many requests",
            Self::TooManyKeys => "Too many keys",
            Self::Overloaded => "Too busy",
            Self::InDoubt => "Not acknowledged",
            Self::NotAccepted => "Not accepted",
            Self::LogMismatch => "The log has changed",
            Self::Unavailable => "Not available now",
            Self::StoreRestored => "Redeeming is closed",
            Self::ShuttingDown => "Shutting down",
            Self::Internal => "Our fault",
        }
    }

    /// Seconds after which trying again makes sense, for answers that pass.
    pub(crate) fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::RateLimited | Self::Overloaded | Self::InDoubt | Self::NotAccepted | Self::ShuttingDown => {
                Some(1)
            }
            Self::LogMismatch | Self::Unavailable => Some(5),
            // A person opens it.
            Self::StoreRestored => Some(60),
            _ => None,
        }
    }
}

/// A problem, as handlers return it.
#[derive(Clone, Debug)]
pub struct Problem(Box<ProblemDetails>);

/// The body of an error.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProblemDetails {
    /// `urn:firstcome:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The code in words.
    title: &'static str,
    /// The status, again.
    status: u16,
    /// Stable, for programs.
    code: Code,
    /// What exactly, and what would be right.
    detail: String,
    /// The field, header or path segment that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The caller's own claim, where there is one: whatever happened is found there.
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_id: Option<String>,
    /// The last decided place of the line that a refusal rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_offset: Option<i64>,
    /// When the coupon opens, RFC 3339; with `not_open`, whose Retry-After says in how many seconds that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    opens_at: Option<String>,
    /// True where an answer may have been given that could not be seen: look at the Location.
    #[serde(skip_serializing_if = "Option::is_none")]
    advisory: Option<bool>,
    #[serde(skip)]
    location: Option<String>,
    /// Seconds after which trying again makes sense, where the code does not say.
    #[serde(skip)]
    retry_after_s: Option<u32>,
}

impl Problem {
    /// A problem with this code.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(ProblemDetails {
            kind: format!("urn:firstcome:problem:{}", code.as_str()),
            title: code.title(),
            status: code.status().as_u16(),
            code,
            detail: detail.into().into_owned(),
            field: None,
            claim_id: None,
            decided_offset: None,
            opens_at: None,
            advisory: None,
            location: None,
            retry_after_s: code.retry_after_s(),
        }))
    }

    /// A wrong field, with what would be right.
    #[must_use]
    pub fn invalid(field: &str, detail: impl fmt::Display) -> Self {
        let mut problem = Self::new(Code::InvalidRequest, format!("{field}: {detail}"));
        problem.0.field = Some(field.to_owned());
        problem
    }

    /// A body beyond the limit, in bytes.
    #[must_use]
    pub fn too_large(limit: u32) -> Self {
        let mut problem = Self::new(Code::PayloadTooLarge, format!("body: has more than {limit} bytes"));
        problem.0.field = Some("body".to_owned());
        problem
    }

    /// A body that did not arrive in time, as its reader was told.
    #[must_use]
    pub(crate) fn too_slow(error: &std::io::Error) -> Self {
        let mut problem = Self::new(Code::RequestTimeout, format!("body: {error}"));
        problem.0.field = Some("body".to_owned());
        problem
    }

    /// Names the caller's claim and where its answer is found: at the notifier of this URL, or under the name that was asked where it is empty.
    #[must_use]
    pub fn claim(mut self, claim_id: &coupon_domain::ClaimId, notifier_url: &str) -> Self {
        self.0.location = Some(crate::claim_view::location(notifier_url, claim_id));
        self.0.claim_id = Some(claim_id.to_string());
        self
    }

    /// Names the decided offset that a refusal rests on, and whether it is only advice.
    #[must_use]
    pub fn rests_on(mut self, decided_offset: Option<coupon_domain::Offset>, advisory: bool) -> Self {
        self.0.decided_offset = decided_offset.map(coupon_domain::Offset::number);
        self.0.advisory = Some(advisory);
        self
    }

    /// Says when a coupon opens, and how long that is from `now`.
    #[must_use]
    pub fn opens(mut self, opens_at: coupon_domain::Timestamp, now: coupon_domain::Timestamp) -> Self {
        let left_s = (opens_at.ms() - now.ms()).div_euclid(1_000) + 1;
        self.0.retry_after_s = Some(u32::try_from(left_s.max(1)).unwrap_or(u32::MAX));
        self.0.opens_at = Some(crate::time::to_rfc3339(opens_at));
        self
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The response.
    #[must_use]
    pub fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.0.code.status());
        response.insert_header((CACHE_CONTROL, "no-store"));
        if let Some(seconds) = self.0.retry_after_s {
            response.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        if let Some(location) = &self.0.location {
            response.insert_header((LOCATION, location.as_str()));
        }
        if self.0.code == Code::Unauthorized {
            response.insert_header(("WWW-Authenticate", "Bearer"));
        }
        response.content_type(PROBLEM_JSON).body(self.body())
    }

    /// The response's body.
    pub(crate) fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.0.detail)
    }
}

impl std::error::Error for Problem {}

impl actix_web::ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.0.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelled_alike_everywhere() {
        for code in [
            Code::InvalidRequest,
            Code::PayloadTooLarge,
            Code::RequestTimeout,
            Code::SoldOut,
            Code::AlreadyUsed,
            Code::Expired,
            Code::InDoubt,
            Code::IdempotencyKeyReused,
            Code::StoreRestored,
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn a_refusal_names_the_claim_and_what_it_rests_on() {
        let claim_id = format!("c0-{}.0.0.{}", "1".repeat(32), "2".repeat(32)).parse().unwrap();
        let problem = Problem::new(Code::SoldOut, "nothing is left")
            .claim(&claim_id, "https://claims.example.org/")
            .rests_on(Some(coupon_domain::Offset::new(7).unwrap()), true);
        let response = problem.response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(
            response.headers().get(LOCATION).unwrap(),
            &format!("https://claims.example.org/v1/claims/{claim_id}")
        );
        let body = serde_json::to_value(&problem.0).unwrap();
        assert_eq!(body["code"], "sold_out");
        assert_eq!(body["decided_offset"], 7);
        assert_eq!(body["advisory"], true);
        assert!(body.get("location").is_none());
    }
}
