//! `GET /v1/me/coupons`: what the caller holds.

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::Timestamp;
use infrastructure_http::Problem;
use infrastructure_postgres::wallet::{self, HeldCoupon, WalletPlace};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::desk::Desk;
use crate::held_coupon::HeldCouponView;

/// Coupons on a page unless asked otherwise.
const PAGE: u16 = 50;
/// Most coupons on a page.
const PAGE_MAX: u16 = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageRequest {
    #[serde(default)]
    limit: Option<u16>,
    /// What the page before gave as `next`.
    #[serde(default)]
    before: Option<String>,
}

/// A page of a wallet.
#[derive(Serialize, ToSchema)]
pub(crate) struct WalletView {
    coupons: Vec<HeldCouponView>,
    /// Give it as `before` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The caller's coupons, the newest first.
pub(crate) async fn get(
    request: HttpRequest,
    page: Result<Query<PageRequest>, actix_web::Error>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    let (user_id, _place) = desk.owner(&request).await?;
    let page = page.map_err(|error| Problem::invalid("query", error))?.into_inner();
    let limit = page.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::invalid("limit", format!("must be 1..={PAGE_MAX}")));
    }
    let before = page.before.as_deref().map(parse_cursor).transpose()?;
    // One more than is shown tells whether there is a next page.
    let mut held = desk
        .ask_postgres("list_wallet", async |connection| {
            wallet::list(connection, &user_id, before, limit + 1).await
        })
        .await?;
    let is_last = held.len() <= usize::from(limit);
    held.truncate(limit.into());
    let next = held.last().filter(|_| !is_last).map(cursor);
    let body = WalletView { coupons: held.into_iter().map(HeldCouponView::from).collect(), next };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(body))
}

/// The place behind this coupon: when it was issued, and its claim.
fn cursor(last: &HeldCoupon) -> String {
    format!("{}_{}", last.issued_at.ms(), last.claim_id)
}

fn parse_cursor(text: &str) -> Result<WalletPlace, Problem> {
    let parse = || {
        let (issued_at, claim_id) = text.split_once('_')?;
        let issued_at = Timestamp::from_ms(issued_at.parse().ok()?).ok()?;
        Some(WalletPlace::at(issued_at, &claim_id.parse().ok()?))
    };
    parse().ok_or_else(|| Problem::invalid("before", "must be the `next` of the page before, or left out"))
}

#[cfg(test)]
mod tests {
    use infrastructure_http::Code;

    use super::*;
    use crate::held_coupon::tests::held;

    #[test]
    fn a_cursor_reads_back_and_a_bad_one_is_named() {
        let text = cursor(&held());
        assert_eq!(parse_cursor(&text).unwrap(), WalletPlace::of(&held()));
        let no_time = text.trim_start_matches(|c: char| c.is_ascii_digit());
        for wrong in ["", "x", "7", "7_c0", no_time, &text[..text.len() - 1], &format!("-{text}")] {
            let problem = parse_cursor(wrong).unwrap_err();
            assert_eq!(problem.code(), Code::InvalidRequest, "{wrong}");
            assert!(problem.to_string().contains("before: must be"), "{problem}");
        }
    }
}
