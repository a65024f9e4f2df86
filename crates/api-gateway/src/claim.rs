//! `POST /v1/coupons/{coupon_id}/claims`: the button.
//!
//! Token → coupon from memory → what the view knows of this user → refusals that the log has already decided → append → 202. Nothing is reserved
//! and nothing is decided here: a refusal only saves the crowd and the log a round trip, and says what it rests on.

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::stream_token::StreamToken;
use coupon_domain::view_sync::ViewWatermark;
use coupon_domain::wire::PublishedState;
use coupon_domain::{Claim, ClaimAnswer, ClaimCode, ClaimId, CouponId, CouponState, CouponStatus, Key};
use infrastructure_http::headers::idempotency_key;
use infrastructure_http::listener::without_fields;
use infrastructure_http::time::to_rfc3339;
use infrastructure_http::trace::Arrived;
use infrastructure_http::{ClaimView, Code, Problem};
use infrastructure_redis::{Asks, Prefilter, RedisError};
use serde::Serialize;
use service_runtime::trace::Carried;
use tracing::Instrument as _;
use utoipa::ToSchema;

use crate::append::Ticket;
use crate::broker_clock::BrokerNow;
use crate::desk::Desk;
use crate::own_claims::own_claims;
use crate::paths::parse_coupon;

pub(crate) async fn post(
    request: HttpRequest,
    path: Path<String>,
    desk: Data<Desk>,
    body: Result<Bytes, actix_web::Error>,
) -> Result<HttpResponse, Problem> {
    let arrived = Arrived::with(request.headers());
    let mut span = desk.begin_span(&request, "POST claim", &arrived);
    let pressing = press(&request, &path, &desk, body, span.carried());
    let response = pressing.instrument(span.for_logs()).await;
    if let Err(problem) = &response {
        desk.metrics.refused(problem.code());
        if problem.code().status().is_server_error() {
            span.failed(problem.code().as_str());
        }
    }
    response
}

async fn press(
    request: &HttpRequest,
    path: &str,
    desk: &Desk,
    body: Result<Bytes, actix_web::Error>,
    trace: Option<&Carried>,
) -> Result<HttpResponse, Problem> {
    let _place = desk.in_flight.take().ok_or_else(|| {
        Problem::new(Code::Overloaded, "as many claims as this process takes are under way")
    })?;
    let caller = desk.caller(request).await?;
    without_fields(body, desk.context.config.http.body_bytes_max)?;
    let coupon_id = parse_coupon(path)?;
    let known = desk.known_coupon(coupon_id)?;
    let key = desk.key_of(&known.state)?;
    let claims = own_claims(desk, &known.state, &caller.user_id, idempotency_key(request)?)?;
    let Some(claim_id) = claims.first().copied() else {
        return Err(Problem::new(Code::Internal, "a coupon has no round"));
    };

    // A claim that would be appended needs no proof that the view has no answer: the log knows.
    let now = desk.broker_now(coupon_id);
    let refused = refusal(&known.state, now);
    let asks = match refused {
        Some(_) => Asks::WatermarkAndAnswers,
        None => Asks::Answers,
    };
    let view = desk.prefilter(&claims, asks).await;
    if let Some(answer) = view.as_ref().ok().and_then(|view| decided(view, &claim_id)) {
        desk.metrics.decided.inc();
        return Ok(HttpResponse::Ok()
            .insert_header(("Location", desk.location(&answer.claim_id)))
            .insert_header(("Cache-Control", "no-store"))
            .json(ClaimView::answered(&answer)));
    }
    if let Some(code) = refused {
        let advisory = is_advisory(view.as_ref(), &known);
        let problem = Problem::new(code, detail(code, &known.state))
            .claim(&claim_id, desk.notifier_url())
            .rests_on(known.decided_offset, advisory);
        return Err(match code {
            Code::NotOpen => problem.opens(known.state.definition.window().opens_at(), now.likely),
            _ => problem,
        });
    }

    desk.slots.admit(&known.state, &caller.user_id, claim_id.slot)?;
    let claim = Claim { claim_id, user_id: caller.user_id, received_at: desk.context.clock.now() };
    match desk.appender.claim(&claim, trace).await {
        Ok(ticket) => {
            desk.metrics.accepted.inc();
            Ok(accepted(desk, key, claim_id, &ticket))
        }
        Err(no_ticket) => Err(no_ticket.problem().claim(&claim_id, desk.notifier_url())),
    }
}

/// What the view says to this user: a grant of any round, or the final outcome of this round's claim. A winner whose answer was lost never
/// reads "sold out".
fn decided(view: &Prefilter, claim_id: &ClaimId) -> Option<ClaimAnswer> {
    let granted = view.answers.iter().find(|answer| answer.code == ClaimCode::Granted);
    let settled = view.answers.iter().find(|answer| answer.is_final && answer.claim_id == *claim_id);
    granted.or(settled).copied()
}

/// What the log has already decided about every claim that would be appended now.
fn refusal(state: &CouponState, now: BrokerNow) -> Option<Code> {
    let window = state.definition.window();
    if now.latest < window.opens_at() {
        return Some(Code::NotOpen);
    }
    // Before the window opens even a closed coupon answers "not open": only from then on is closed certain.
    let has_opened = now.earliest >= window.opens_at();
    let is_closed = matches!(state.status, CouponStatus::Closed | CouponStatus::Retired);
    if is_closed && has_opened || now.earliest >= window.closes_at() {
        return Some(Code::Closed);
    }
    if state.status == CouponStatus::Paused {
        return Some(Code::Paused);
    }
    if state.remaining() == 0 { Some(Code::SoldOut) } else { None }
}

/// True where this user may have an answer that could not be seen: the view is away, empty, behind what the state knows, or has lost the part that the answer
/// would be in.
fn is_advisory(view: Result<&Prefilter, &RedisError>, known: &PublishedState) -> bool {
    let Ok(view) = view else { return true };
    if !view.is_whole {
        return true;
    }
    let Some(next_src) = view.watermark.and_then(ViewWatermark::next_src) else { return true };
    let behind = known.state.last_grant_offset.is_some_and(|last_grant| next_src <= last_grant);
    behind || view.round.is_some_and(|round| round > known.state.round)
}

fn detail(code: Code, state: &CouponState) -> String {
    let window = state.definition.window();
    match code {
        Code::NotOpen => format!("opens at {}", to_rfc3339(window.opens_at())),
        Code::Closed => format!("closed; the window ended at {}", to_rfc3339(window.closes_at())),
        Code::Paused => "held back by an operator; press again later, it is the same claim".to_owned(),
        _ => format!("all {} are granted", state.quantity),
    }
}

/// The claim is in the log.
#[derive(Serialize, ToSchema)]
pub(crate) struct Accepted {
    #[schema(value_type = String)]
    claim_id: ClaimId,
    #[schema(value_type = String)]
    coupon_id: CouponId,
    status: AcceptedStatus,
    ticket: TicketView,
    /// Opens this claim's events, and nothing else.
    stream_token: String,
    links: Links,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AcceptedStatus {
    Accepted,
}

/// The claim's place in line.
#[derive(Serialize, ToSchema)]
struct TicketView {
    partition: i32,
    /// Absent where the broker acknowledged without naming it.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[schema(format = DateTime)]
    appended_at: String,
}

#[derive(Serialize, ToSchema)]
struct Links {
    /// The answer to this press, at the notifier: what was said to an earlier one is none.
    claim: String,
    /// Its events, with the stream token.
    events: String,
    /// All of the caller's claims of this coupon.
    mine: String,
}

fn accepted(desk: &Desk, key: &Key, claim_id: ClaimId, ticket: &Ticket) -> HttpResponse {
    let lifetime_ms = i64::from(desk.context.config.claims.stream_token_s) * 1_000;
    let expires_at = desk.context.clock.now().plus_ms(lifetime_ms);
    let stream_token = StreamToken::issue(key, &claim_id, ticket.not_before, expires_at).to_string();
    let location = desk.location(&claim_id);
    let body = Accepted {
        claim_id,
        coupon_id: claim_id.coupon_id,
        status: AcceptedStatus::Accepted,
        ticket: TicketView {
            partition: ticket.partition,
            offset: ticket.offset.map(coupon_domain::Offset::number),
            appended_at: to_rfc3339(ticket.appended_at),
        },
        links: Links {
            claim: answer_to_this_press(&location, ticket),
            events: format!("{location}/events?token={stream_token}"),
            mine: format!("/v1/coupons/{}/claims/mine", claim_id.coupon_id),
        },
        stream_token,
    };
    HttpResponse::Accepted()
        .insert_header(("Location", location))
        .insert_header(("Cache-Control", "no-store"))
        .json(body)
}

fn answer_to_this_press(location: &str, ticket: &Ticket) -> String {
    match ticket.not_before {
        Some(offset) => format!("{location}?after={offset}"),
        None => location.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use coupon_domain::coupon::{LastCommand, UncheckedDefinition};
    use coupon_domain::view_sync::PushId;
    use coupon_domain::{CommandCode, CommandId, Offset, Partition, Round, Slot, Timestamp, UserId};
    use uuid::Uuid;

    use super::*;
    use crate::own_claims::{claims_of, slot};

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    fn exactly(ms: i64) -> BrokerNow {
        BrokerNow { earliest: at(ms), latest: at(ms), likely: at(ms) }
    }

    pub(crate) fn state_of_limit(per_user_limit: u64) -> CouponState {
        let coupon_id = CouponId::new(Partition::new(0).unwrap(), Uuid::from_u128(1));
        let definition = UncheckedDefinition {
            name: "Tea".to_owned(),
            quantity: 2,
            per_user_limit,
            opens_at: 10_000,
            closes_at: 20_000,
            expiry: None,
            rules: 1,
            key_id: "k1".parse().unwrap(),
        };
        CouponState {
            coupon_id,
            definition: Arc::new(definition.check().unwrap()),
            status: CouponStatus::Active,
            round: Round::FIRST,
            quantity: 2,
            issued: 0,
            version: 1,
            last_command: LastCommand {
                command_id: CommandId { coupon_id, mac: [0; 16] },
                code: CommandCode::Applied,
            },
            last_grant_offset: None,
        }
    }

    fn state() -> CouponState {
        state_of_limit(1)
    }

    fn key() -> Key {
        Key::from_secret(&[1; 32]).unwrap()
    }

    fn view(answers: Vec<ClaimAnswer>, next_src: i64, round: u8) -> Prefilter {
        Prefilter {
            answers,
            watermark: Some(ViewWatermark::Reflects(Offset::new(next_src).unwrap())),
            round: Round::new(round).ok(),
            is_whole: true,
        }
    }

    #[test]
    fn time_refuses_only_where_no_doubt_is_left() {
        let doubtful =
            |earliest, latest| BrokerNow { earliest: at(earliest), latest: at(latest), likely: at(earliest) };
        assert_eq!(refusal(&state(), exactly(9_999)), Some(Code::NotOpen));
        assert_eq!(refusal(&state(), doubtful(9_000, 10_000)), None);
        assert_eq!(refusal(&state(), exactly(19_999)), None);
        assert_eq!(refusal(&state(), doubtful(19_999, 21_000)), None);
        assert_eq!(refusal(&state(), exactly(20_000)), Some(Code::Closed));
    }

    #[test]
    fn refusals_come_in_the_order_of_the_fold() {
        let sold_out = CouponState { issued: 2, ..state() };
        assert_eq!(refusal(&sold_out, exactly(15_000)), Some(Code::SoldOut));
        let paused = CouponState { status: CouponStatus::Paused, ..sold_out.clone() };
        assert_eq!(refusal(&paused, exactly(15_000)), Some(Code::Paused));
        let closed = CouponState { status: CouponStatus::Closed, ..sold_out };
        assert_eq!(refusal(&closed, exactly(15_000)), Some(Code::Closed));
        assert_eq!(refusal(&closed, exactly(5_000)), Some(Code::NotOpen));
        let in_doubt = BrokerNow { earliest: at(9_000), latest: at(11_000), likely: at(10_000) };
        assert_eq!(refusal(&CouponState { issued: 0, ..closed }, in_doubt), None);
    }

    #[test]
    fn a_winner_of_any_round_is_told_so_and_a_loser_of_this_round_too() {
        let user: UserId = "ann".parse().unwrap();
        let restocked = CouponState { round: Round::new(2).unwrap(), ..state() };
        let claims = claims_of(&key(), &restocked, &user, Slot::ONLY);
        assert_eq!(claims.iter().map(|claim| claim.round.number()).collect::<Vec<_>>(), [2, 1, 0]);
        let answer = |claim_id: ClaimId, code, is_final| ClaimAnswer {
            claim_id,
            code,
            is_final,
            decided_offset: Offset::ZERO,
            decided_at: Timestamp::EPOCH,
            issue_no: None,
            user_nth: None,
            rank: None,
            granted_claim_id: None,
        };
        let old_loss = answer(claims[2], ClaimCode::SoldOut, true);
        assert_eq!(decided(&view(vec![old_loss], 1, 0), &claims[0]), None);
        let loss = answer(claims[0], ClaimCode::SoldOut, true);
        assert_eq!(decided(&view(vec![loss, old_loss], 1, 0), &claims[0]), Some(loss));
        let win = answer(claims[1], ClaimCode::Granted, true);
        assert_eq!(decided(&view(vec![loss, win], 1, 0), &claims[0]), Some(win));
        let deferred = answer(claims[0], ClaimCode::Paused, false);
        assert_eq!(decided(&view(vec![deferred], 1, 0), &claims[0]), None);
    }

    #[test]
    fn a_refusal_is_advisory_where_the_view_cannot_be_trusted() {
        let known = PublishedState {
            state: CouponState { last_grant_offset: Offset::new(7).ok(), ..state() },
            decided_offset: Offset::new(9).ok(),
        };
        assert!(!is_advisory(Ok(&view(Vec::new(), 8, 0)), &known));
        assert!(is_advisory(Ok(&view(Vec::new(), 7, 0)), &known), "behind the last grant");
        assert!(is_advisory(Ok(&view(Vec::new(), 8, 1)), &known), "of a later round");
        let torn = Prefilter { is_whole: false, ..view(Vec::new(), 8, 0) };
        assert!(is_advisory(Ok(&torn), &known), "a part of it is lost");
        let empty = Prefilter { watermark: None, ..view(Vec::new(), 8, 0) };
        assert!(is_advisory(Ok(&empty), &known));
        let pushing = ViewWatermark::Pushing { push_id: PushId(1), chunks: 2 };
        assert!(is_advisory(Ok(&Prefilter { watermark: Some(pushing), ..empty }), &known));
        assert!(is_advisory(Err(&RedisError::Unavailable(String::new())), &known));
    }

    #[test]
    fn several_of_one_coupon_need_a_key_each() {
        let several = state_of_limit(2);
        assert_eq!(slot(&state(), &key(), None).unwrap(), Slot::ONLY);
        assert_eq!(slot(&several, &key(), None).unwrap_err().code(), Code::InvalidRequest);
        let named = |name: &str| slot(&several, &key(), Some(name.parse().unwrap())).unwrap();
        assert_eq!(named("a"), named("a"));
        assert_ne!(named("a"), named("b"));
    }
}
