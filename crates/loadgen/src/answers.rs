//! What services say, read from status and body.

use std::borrow::Cow;
use std::time::Duration;

use coupon_domain::{ClaimCode, ClaimId};
use serde::Deserialize;

/// A code of the API: one of the log's, or a gateway's own.
pub(crate) type Code = Cow<'static, str>;

/// How long to leave a service alone that did not say how long.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// The answer to a press of the button.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pressed {
    /// 202: the claim stands in line.
    Accepted(Accepted),
    /// 200: decided already.
    Decided(ClaimAnswer),
    /// 409, 410: not now or never.
    Refused(Refused),
    /// 408, 429, 503 and what else passes: again later.
    Busy(Busy),
    /// No answer. The claim may stand in line or not.
    Lost,
    /// Nothing that a client could do something about.
    Wrong(String),
}

/// A claim in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) claim_id: ClaimId,
    /// The claims offset of this press.
    pub(crate) ticket: Option<i64>,
    pub(crate) stream_token: String,
}

/// What the log says about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimAnswer {
    pub(crate) claim_id: ClaimId,
    pub(crate) said: Said,
    pub(crate) decided_offset: Option<i64>,
    /// The code of the issued coupon, where it is shown.
    pub(crate) coupon_code: Option<String>,
}

/// The answer's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A coupon.
    Granted,
    /// No coupon, for good.
    Refused(Code),
    /// Press again later.
    Deferred(Code),
    /// The record could not be read; an operator has it.
    Parked,
}

/// A gateway's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) claim_id: Option<ClaimId>,
    /// There may be an answer that the gateway could not see.
    pub(crate) advisory: bool,
}

impl Refused {
    /// True where it says "press again later".
    pub(crate) fn is_deferral(&self) -> bool {
        is_deferral(&self.code)
    }
}

/// A service that has no time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Busy {
    pub(crate) code: Code,
    pub(crate) after: Duration,
    /// The claim may have been appended all the same.
    pub(crate) in_doubt: bool,
    /// Named where the request came that far.
    pub(crate) claim_id: Option<ClaimId>,
}

/// The answer to a look at a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    /// The log has spoken.
    Answer(ClaimAnswer),
    /// Nothing is known yet.
    Pending,
    /// Again later.
    Busy(Duration),
    /// The stream or connection broke, or ended without an answer. The server may have said when to come back.
    Broken(Option<Duration>),
    /// No stream for us, or none left: ask instead.
    NoStream,
    /// Nothing that a client could do something about.
    Wrong(String),
}

/// The offer, as users see it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CouponView {
    pub(crate) quantity: u64,
    pub(crate) remaining: u64,
    pub(crate) round: u8,
    pub(crate) per_user_limit: u16,
    pub(crate) opens_at: String,
}

#[derive(Deserialize)]
struct AcceptedBody {
    claim_id: ClaimId,
    ticket: TicketBody,
    stream_token: String,
}

#[derive(Deserialize)]
struct TicketBody {
    offset: Option<i64>,
}

#[derive(Deserialize)]
struct ClaimBody<'a> {
    claim_id: ClaimId,
    status: Status,
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
    decided_offset: Option<i64>,
    coupon_code: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Pending,
    Deferred,
    Decided,
    Parked,
}

#[derive(Default, Deserialize)]
struct ProblemBody<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    claim_id: Option<ClaimId>,
    #[serde(default)]
    advisory: bool,
}

/// Reads the answer to a press.
pub(crate) fn pressed(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Pressed {
    match status {
        202 => match serde_json::from_slice::<AcceptedBody>(body) {
            Ok(AcceptedBody { claim_id, ticket, stream_token }) => {
                Pressed::Accepted(Accepted { claim_id, ticket: ticket.offset, stream_token })
            }
            Err(error) => Pressed::Wrong(unreadable(status, &error)),
        },
        200 => match claim(body) {
            Ok(Some(answer)) => Pressed::Decided(answer),
            Ok(None) => Pressed::Wrong("200 without an answer".to_owned()),
            Err(error) => Pressed::Wrong(unreadable(status, &error)),
        },
        409 | 410 => match serde_json::from_slice::<ProblemBody<'_>>(body) {
            Ok(problem) => Pressed::Refused(Refused {
                code: spell(&problem.code),
                claim_id: problem.claim_id,
                advisory: problem.advisory,
            }),
            Err(error) => Pressed::Wrong(unreadable(status, &error)),
        },
        // The listener waited in vain for the request's head or body (a machine out of breath): nothing was looked at, nothing appended.
        408 => Pressed::Busy(Busy {
            code: "request_timeout".into(),
            after: retry_after.unwrap_or(RETRY_AFTER_DEFAULT),
            in_doubt: false,
            claim_id: None,
        }),
        // 404: a gateway that has not heard of the coupon yet.
        404 | 429 | 500..=599 => {
            let problem = problem(body);
            // `not_accepted` says that nothing was appended; any other failure may have come after the append.
            let in_doubt = status >= 500 && !matches!(&*problem.code, "not_accepted" | "overloaded");
            Pressed::Busy(Busy {
                code: spell(&problem.code),
                after: retry_after.unwrap_or(RETRY_AFTER_DEFAULT),
                in_doubt,
                claim_id: problem.claim_id,
            })
        }
        _ => Pressed::Wrong(format!("{status} {}", problem(body).code)),
    }
}

/// Reads the answer to a GET of a claim.
pub(crate) fn asked(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Asked {
    match status {
        200 => told(body),
        408 | 429 | 500..=599 => Asked::Busy(retry_after.unwrap_or(RETRY_AFTER_DEFAULT)),
        _ => Asked::Wrong(format!("{status} {}", problem(body).code)),
    }
}

/// Reads a claim as it stands in a `decided` event or the answer to a GET.
pub(crate) fn told(body: &[u8]) -> Asked {
    match claim(body) {
        Ok(Some(answer)) => Asked::Answer(answer),
        Ok(None) => Asked::Pending,
        Err(error) => Asked::Wrong(unreadable(200, &error)),
    }
}

/// Reads the answer to opening a stream, where it is none.
pub(crate) fn no_stream(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Asked {
    match status {
        // Nothing left to say, or a token that no longer counts.
        204 | 401 => Asked::NoStream,
        408 | 429 | 500..=599 => Asked::Busy(retry_after.unwrap_or(RETRY_AFTER_DEFAULT)),
        _ => Asked::Wrong(format!("{status} {}", problem(body).code)),
    }
}

/// Reads the coupon's code in a `persisted` event.
pub(crate) fn persisted(data: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Persisted {
        coupon_code: String,
    }
    serde_json::from_str::<Persisted>(data).ok().map(|persisted| persisted.coupon_code)
}

fn claim(body: &[u8]) -> Result<Option<ClaimAnswer>, serde_json::Error> {
    let claim: ClaimBody<'_> = serde_json::from_slice(body)?;
    let code = claim.code.as_deref().unwrap_or("none");
    let said = match claim.status {
        Status::Pending => return Ok(None),
        Status::Deferred => Said::Deferred(spell(code)),
        Status::Parked => Said::Parked,
        Status::Decided if code == ClaimCode::Granted.as_str() => Said::Granted,
        Status::Decided => Said::Refused(spell(code)),
    };
    let ClaimBody { claim_id, decided_offset, coupon_code, .. } = claim;
    Ok(Some(ClaimAnswer { claim_id, said, decided_offset, coupon_code }))
}

/// The log's codes without an allocation, any other as it is.
fn spell(code: &str) -> Code {
    ClaimCode::from_name(code).map_or_else(|| Code::Owned(code.to_owned()), |code| code.as_str().into())
}

fn is_deferral(code: &str) -> bool {
    ClaimCode::from_name(code).is_some_and(ClaimCode::is_deferral)
}

/// A problem, or an empty one where something else (a proxy) has answered.
fn problem(body: &[u8]) -> ProblemBody<'_> {
    serde_json::from_slice(body).unwrap_or_default()
}

fn unreadable(status: u16, error: &serde_json::Error) -> String {
    format!("a body of {status} that cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: &str = "c0-11111111111111111111111111111111.0.0.22222222222222222222222222222222";

    fn claim_id() -> ClaimId {
        CLAIM.parse().unwrap()
    }

    fn body(text: &str) -> Vec<u8> {
        text.replace("CLAIM", CLAIM).into_bytes()
    }

    #[test]
    fn a_202_names_claim_ticket_and_token() {
        let read = pressed(
            202,
            None,
            &body(
                r#"{"claim_id":"CLAIM","coupon_id":"c0-1","status":"accepted","ticket":{"partition":0,"offset":7},"stream_token":"t"}"#,
            ),
        );
        let expected = Accepted { claim_id: claim_id(), ticket: Some(7), stream_token: "t".to_owned() };
        assert_eq!(read, Pressed::Accepted(expected));
    }

    #[test]
    fn decided_claims_read_alike_from_press_and_look() {
        let granted = body(
            r#"{"claim_id":"CLAIM","status":"decided","code":"granted","final":true,"decided_offset":9,"coupon_code":"X"}"#,
        );
        let answer = ClaimAnswer {
            claim_id: claim_id(),
            said: Said::Granted,
            decided_offset: Some(9),
            coupon_code: Some("X".to_owned()),
        };
        assert_eq!(pressed(200, None, &granted), Pressed::Decided(answer.clone()));
        assert_eq!(asked(200, None, &granted), Asked::Answer(answer));
        let pending = body(r#"{"claim_id":"CLAIM","status":"pending","final":false}"#);
        assert_eq!(asked(200, None, &pending), Asked::Pending);
        let deferred = body(r#"{"claim_id":"CLAIM","status":"deferred","code":"paused","final":false}"#);
        assert!(
            matches!(told(&deferred), Asked::Answer(answer) if answer.said == Said::Deferred("paused".into()))
        );
        let closed = body(r#"{"claim_id":"CLAIM","status":"decided","code":"closed","final":false}"#);
        assert!(
            matches!(told(&closed), Asked::Answer(answer) if answer.said == Said::Refused("closed".into()))
        );
    }

    #[test]
    fn refusals_say_whether_they_are_only_advice() {
        let sold_out = body(r#"{"code":"sold_out","claim_id":"CLAIM","advisory":true,"decided_offset":3}"#);
        let expected = Refused { code: "sold_out".into(), claim_id: Some(claim_id()), advisory: true };
        assert_eq!(pressed(409, None, &sold_out), Pressed::Refused(expected.clone()));
        assert!(!expected.is_deferral());
        let not_open = body(r#"{"code":"not_open","claim_id":"CLAIM","advisory":false}"#);
        let Pressed::Refused(refused) = pressed(409, None, &not_open) else { panic!("a refusal") };
        assert!(refused.is_deferral() && !refused.advisory);
    }

    #[test]
    fn only_what_was_surely_not_appended_leaves_no_doubt() {
        let in_doubt = |code: &str| {
            let answer =
                pressed(503, Some(Duration::from_secs(5)), &body(&format!("{{\"code\":\"{code}\"}}")));
            let Pressed::Busy(busy) = answer else { panic!("busy") };
            assert_eq!(busy.after, Duration::from_secs(5));
            busy.in_doubt
        };
        assert!(in_doubt("in_doubt") && in_doubt("log_mismatch"));
        assert!(!in_doubt("not_accepted") && !in_doubt("overloaded"));
        assert!(matches!(pressed(502, None, b"<html>"), Pressed::Busy(busy) if busy.in_doubt));
        assert!(matches!(pressed(429, None, b"{}"), Pressed::Busy(busy) if !busy.in_doubt));
    }

    #[test]
    fn a_request_that_was_not_read_is_sent_again() {
        assert!(
            matches!(pressed(408, None, b""), Pressed::Busy(busy) if busy.code == "request_timeout" && !busy.in_doubt)
        );
        assert_eq!(asked(408, None, b""), Asked::Busy(RETRY_AFTER_DEFAULT));
        assert_eq!(no_stream(408, None, b""), Asked::Busy(RETRY_AFTER_DEFAULT));
    }

    #[test]
    fn what_no_client_can_mend_is_named() {
        let unauthorized = pressed(401, None, br#"{"code":"unauthorized"}"#);
        assert_eq!(unauthorized, Pressed::Wrong("401 unauthorized".to_owned()));
        assert!(matches!(pressed(202, None, b"{}"), Pressed::Wrong(_)));
        assert!(matches!(asked(404, None, br#"{"code":"not_found"}"#), Asked::Wrong(_)));
        assert_eq!(no_stream(204, None, b""), Asked::NoStream);
    }
}
