//! `GET /v1/coupons/{coupon_id}`, its watermark, and the caller's own claims of it.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::wire::PublishedState;
use coupon_domain::{ClaimId, CouponId};
use infrastructure_http::headers::idempotency_key;
use infrastructure_http::time::to_rfc3339;
use infrastructure_http::{ClaimView, Problem};
use infrastructure_redis::Asks;
use serde::Serialize;
use utoipa::ToSchema;

use crate::desk::Desk;
use crate::offer::{Phase, spell_expiry};
use crate::own_claims::own_claims;
use crate::paths::parse_coupon;

/// The offer.
#[derive(Serialize, ToSchema)]
pub(crate) struct CouponView<'a> {
    #[schema(value_type = String)]
    coupon_id: CouponId,
    name: &'a str,
    status: Phase,
    quantity: u32,
    remaining: u32,
    /// Counts restocks: in each round whoever was told `sold_out` may claim again.
    round: u8,
    /// Above 1 each claim needs an Idempotency-Key of its own.
    per_user_limit: u16,
    #[schema(format = DateTime)]
    opens_at: String,
    #[schema(format = DateTime)]
    closes_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_after_days: Option<u16>,
}

pub(crate) async fn get(
    request: HttpRequest,
    path: Path<String>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    desk.caller(&request).await?;
    let known = desk.known_coupon(parse_coupon(&path)?)?;
    let (state, definition) = (&known.state, &known.state.definition);
    let (expires_at, expires_after_days) = spell_expiry(definition.expiry());
    let view = CouponView {
        coupon_id: state.coupon_id,
        name: definition.name(),
        status: Phase::of(state, desk.broker_now(state.coupon_id)),
        quantity: state.quantity,
        remaining: state.remaining(),
        round: state.round.number(),
        per_user_limit: definition.per_user_limit(),
        opens_at: to_rfc3339(definition.window().opens_at()),
        closes_at: to_rfc3339(definition.window().closes_at()),
        expires_at,
        expires_after_days,
    };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(view))
}

/// How far the line is.
#[derive(Serialize, ToSchema)]
pub(crate) struct WatermarkView {
    #[schema(value_type = String)]
    coupon_id: CouponId,
    status: Phase,
    remaining: u32,
    round: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_offset: Option<i64>,
}

/// Everybody's progress bar, in one public object that any cache may hold for a second.
pub(crate) async fn watermark(path: Path<String>, desk: Data<Desk>) -> Result<HttpResponse, Problem> {
    let known = desk.known_coupon(parse_coupon(&path)?)?;
    let PublishedState { state, decided_offset } = known.as_ref();
    // The line is decided further than where this coupon last changed.
    let decided = desk.states.decided(state.coupon_id.partition()).max(*decided_offset);
    let view = WatermarkView {
        coupon_id: state.coupon_id,
        status: Phase::of(state, desk.broker_now(state.coupon_id)),
        remaining: state.remaining(),
        round: state.round.number(),
        decided_offset: decided.map(coupon_domain::Offset::number),
    };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "public, max-age=1")).json(view))
}

/// The caller's claims of a coupon.
#[derive(Serialize, ToSchema)]
pub(crate) struct OwnClaims {
    #[schema(value_type = String)]
    coupon_id: CouponId,
    /// The claim that pressing the button now would make, or make again.
    #[schema(value_type = String)]
    claim_id: ClaimId,
    location: String,
    /// What is known of it and of the rounds before, the newest first; a claim without an answer here may still have one at its location.
    claims: Vec<ClaimView>,
}

/// The caller's own claims: their ids are computable, so nothing is ever lost with a Location.
pub(crate) async fn mine(
    request: HttpRequest,
    path: Path<String>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    let caller = desk.caller(&request).await?;
    let known = desk.known_coupon(parse_coupon(&path)?)?;
    let claims = own_claims(&desk, &known.state, &caller.user_id, idempotency_key(&request)?)?;
    let answers = desk.prefilter(&claims, Asks::Answers).await.map(|view| view.answers).unwrap_or_default();
    let view_of = |claim_id: &ClaimId| {
        let answer = answers.iter().find(|answer| answer.claim_id == *claim_id);
        answer.map_or_else(|| ClaimView::pending(*claim_id), ClaimView::answered)
    };
    let Some(claim_id) = claims.first().copied() else {
        return Err(Problem::new(infrastructure_http::Code::Internal, "a coupon has no round"));
    };
    let body = OwnClaims {
        coupon_id: known.state.coupon_id,
        claim_id,
        location: desk.location(&claim_id),
        claims: claims.iter().map(view_of).collect(),
    };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(body))
}
