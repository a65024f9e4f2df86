//! `POST /v1/me/coupons/{claim_id}/redemptions`: using an issued coupon, once.
//!
//! Redemptions are born in PostgreSQL. One that was put back in time may have lost some, so before each redemption the database is
//! compared with what was published of it: on a new connection only after `coupon.persisted` was read to its end.

use std::time::Instant;

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::restored::StoreStand;
use coupon_domain::{ClaimId, OrderRef};
use infrastructure_http::headers::required_idempotency_key;
use infrastructure_http::listener::read_body;
use infrastructure_http::time::to_rfc3339;
use infrastructure_http::{Code, Problem};
use infrastructure_postgres::closures::{self, Closure};
use infrastructure_postgres::redemptions::{self, Redeemed, Redemption};
use infrastructure_postgres::{PooledConnection, PostgresError};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::desk::{Desk, NAME};
use crate::held_coupon::HeldCouponView;

/// What a coupon is used for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedemptionRequest {
    /// The shop's own word for the order: 1 to 128 bytes without control characters.
    order_ref: String,
}

pub(crate) async fn post(
    request: HttpRequest,
    path: Path<String>,
    desk: Data<Desk>,
    body: Result<Bytes, actix_web::Error>,
) -> Result<HttpResponse, Problem> {
    let response = redeem(&request, &path, &desk, body).await;
    desk.metrics.redemption(response.as_ref().map(|response| response.status()).map_err(Problem::code));
    response
}

async fn redeem(
    request: &HttpRequest,
    path: &str,
    desk: &Desk,
    body: Result<Bytes, actix_web::Error>,
) -> Result<HttpResponse, Problem> {
    let (user_id, _place) = desk.owner(request).await?;
    let claim_id: ClaimId = path.parse().map_err(|error| Problem::invalid("claim_id", error))?;
    let redemption = Redemption {
        claim_id,
        user_id,
        idempotency_key: required_idempotency_key(request)?,
        order_ref: order_ref(&read_body(body, desk.context.config.http.body_bytes_max)?)?,
    };
    let redeemed = desk
        .ask_postgres_since("redeem", async |connection, connected_at| {
            match desk.pass(connection, connected_at).await? {
                Passage::Open(_) => redemptions::redeem(connection, &redemption).await.map(Some),
                Passage::Closed(closure) => Ok(Some(Redeemed::Closed(closure))),
                Passage::Unknown => Ok(None),
            }
        })
        .await?;
    if let Some(redeemed) = &redeemed {
        desk.metrics.redemptions_closed.set(i64::from(matches!(redeemed, Redeemed::Closed(_))));
    }
    let used = |mut response: actix_web::HttpResponseBuilder, held| {
        response.insert_header(("Cache-Control", "no-store")).json(HeldCouponView::from(held))
    };
    match redeemed {
        Some(Redeemed::Now(held)) => {
            desk.beats.redeemed(claim_id.coupon_id.partition(), Instant::now());
            Ok(used(HttpResponse::Created(), held))
        }
        Some(Redeemed::Before(held)) => Ok(used(HttpResponse::Ok(), held)),
        Some(obstacle) => Err(problem(&obstacle)),
        None => Err(Problem::new(
            Code::Unavailable,
            format!(
                "this gateway does not know all of coupon.persisted, so not whether PostgreSQL was put back in time: {}; nothing was redeemed",
                desk.published.what_is_read()
            ),
        )),
    }
}

fn order_ref(body: &[u8]) -> Result<OrderRef, Problem> {
    let request: RedemptionRequest =
        serde_json::from_slice(body).map_err(|error| Problem::invalid("body", error))?;
    request.order_ref.parse().map_err(|error| Problem::invalid("order_ref", error))
}

fn problem(obstacle: &Redeemed) -> Problem {
    match obstacle {
        Redeemed::KeyReused => Problem::new(
            Code::IdempotencyKeyReused,
            "this Idempotency-Key came with another order_ref before: the coupon is used for that one",
        ),
        Redeemed::AlreadyUsed => {
            Problem::new(Code::AlreadyUsed, "the coupon was redeemed under another Idempotency-Key")
        }
        Redeemed::Expired(held) => {
            let expired_at = held.expires_at.map(to_rfc3339).unwrap_or_default();
            Problem::new(Code::Expired, format!("the coupon expired at {expired_at}"))
        }
        Redeemed::Unknown => Problem::new(Code::NotFound, "there is no such coupon of yours"),
        Redeemed::Closed(closure) => Problem::new(
            Code::StoreRestored,
            format!(
                "redeeming is closed since {}: the database was put back in time, or there are two, and an operator has to look first",
                to_rfc3339(closure.closed_at)
            ),
        ),
        Redeemed::Now(_) | Redeemed::Before(_) => Problem::new(Code::Internal, "it was redeemed"),
    }
}

/// May be redeemed in this database?
pub(crate) enum Passage {
    /// In this one, as it stood when it was looked at.
    Open(StoreStand),
    Closed(Closure),
    /// What was published of it is not known far enough.
    Unknown,
}

impl Desk {
    /// Compares the database with what had been published at `since`, and closes redeeming where it was put back in time, or where there are
    /// two. Nothing is redeemed between the look and the closure: this request goes no further.
    pub(crate) async fn pass(
        &self,
        connection: &mut PooledConnection,
        since: Instant,
    ) -> Result<Passage, PostgresError> {
        let mut known_until = since;
        loop {
            if !self.published.is_known_until(known_until).await {
                return Ok(Passage::Unknown);
            }
            // In this order: a beat is raised before it is published.
            let beats = self.published.beats();
            let store = closures::look(connection).await?;
            if let Some(closure) = store.closure {
                return Ok(Passage::Closed(closure));
            }
            let Some(restored) = beats.judge(&store.stand) else { return Ok(Passage::Open(store.stand)) };
            if known_until == since {
                // It may have been reopened, and db-writer have published what it is now, since we read last.
                known_until = Instant::now();
                continue;
            }
            if closures::close(connection, NAME, &restored.to_string(), &beats.floors()).await? {
                tracing::error!(
                    runbook = "PostgresRestored",
                    "redeeming is closed: {restored}; `couponctl redemptions reopen` opens it"
                );
                self.note_closure(connection, restored.partition(), store.stand.system_identifier).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_names_the_order_and_nothing_else() {
        assert_eq!(order_ref(br#"{"order_ref": "A-1"}"#).unwrap().as_str(), "A-1");
        let cases = [
            ("", "body"),
            ("{}", "order_ref"),
            (r#"{"order_ref": "A", "code": "X"}"#, "unknown field"),
            (r#"{"order_ref": ""}"#, "order_ref: must have 1..=128 bytes"),
            (r#"{"order_ref": "a\u0000"}"#, "order_ref: must have"),
        ];
        for (body, detail) in cases {
            let problem = order_ref(body.as_bytes()).unwrap_err();
            assert!(problem.to_string().contains(detail), "{body}: {problem}");
        }
    }
}
