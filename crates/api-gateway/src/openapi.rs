//! The documents of both listeners: every route is listed here, in the order in which it is registered.

use coupon_domain::CommandKind;
use infrastructure_http::openapi::{Access, Document, Route, number, text};
use infrastructure_http::{ClaimView, Code};

use crate::admin::commands::{CommandBody, CommandView};
use crate::admin::coupons::{AdminCoupon, DraftRequest, PageView};
use crate::admin::dead_letters::DeadLettersView;
use crate::admin::events::EventsView;
use crate::admin::ledger::LedgerView;
use crate::claim::Accepted;
use crate::coupon::{CouponView, OwnClaims, WatermarkView};
use crate::held_coupon::HeldCouponView;
use crate::redemption::RedemptionRequest;
use crate::wallet::WalletView;

const COUPON_ID: (&str, &str) = ("coupon_id", "the coupon");
const LOCATION: (&str, &str) = ("Location", "where the answer is found");

/// What users are served on the `http` listener.
#[must_use]
pub fn user() -> Document {
    let about = "First come, first served: press the button, follow the answer. Answers of claims (`/v1/claims`) come from the notifier, \
        whose document is at `/v1/claims/openapi.json`.";
    Document::new("Firstcome for users", about, "/v1/openapi.json")
        .route(
            Route::post("/v1/coupons/{coupon_id}/claims", "claim", Access::User, "Press the button")
                .description(
                    "202: the log has the claim, and will answer it. Pressing again, here or at another gateway, is the same claim. A refusal \
                     names the claim and what it rests on; where `advisory` is true, look at the Location before believing it.",
                )
                .path_parameter(COUPON_ID.0, COUPON_ID.1)
                .idempotency_key(false, "required where a user may hold several of the coupon: one key for each")
                .empty_body()
                .answers::<ClaimView>(200, "The log has answered this claim already", &[LOCATION])
                .answers::<Accepted>(202, "The log has it", &[LOCATION])
                .refuses(&[Code::UnknownCoupon, Code::NotOpen, Code::Paused, Code::SoldOut, Code::Closed, Code::RateLimited])
                .refuses(&[Code::TooManyKeys, Code::Overloaded, Code::InDoubt, Code::NotAccepted, Code::LogMismatch, Code::Unavailable]),
        )
        .route(
            Route::get("/v1/coupons/{coupon_id}", "coupon", Access::User, "The offer")
                .path_parameter(COUPON_ID.0, COUPON_ID.1)
                .answers::<CouponView<'_>>(200, "The offer as it stands", &[])
                .refuses(&[Code::UnknownCoupon, Code::RateLimited, Code::Overloaded, Code::Unavailable]),
        )
        .route(
            Route::get("/v1/coupons/{coupon_id}/watermark", "watermark", Access::Public, "Everybody's progress bar")
                .path_parameter(COUPON_ID.0, COUPON_ID.1)
                .answers::<WatermarkView>(200, "How far the line is; any cache may hold it for a second", &[])
                .refuses(&[Code::UnknownCoupon, Code::Unavailable]),
        )
        .route(
            Route::get("/v1/coupons/{coupon_id}/claims/mine", "own_claims", Access::User, "The caller's own claims")
                .description("Their ids are computed, so nothing is ever lost with a Location.")
                .path_parameter(COUPON_ID.0, COUPON_ID.1)
                .idempotency_key(false, "required where a user may hold several of the coupon: whose claims")
                .answers::<OwnClaims>(200, "What is known of them here; their Locations know more", &[])
                .refuses(&[Code::UnknownCoupon, Code::RateLimited, Code::Overloaded, Code::Unavailable]),
        )
        .route(
            Route::get("/v1/me/coupons", "wallet", Access::User, "What the caller holds")
                .query("limit", "coupons on a page, 50 unless given", number().minimum(Some(1)).maximum(Some(200)))
                .query("before", "the `next` of the page before", text())
                .answers::<WalletView>(200, "The newest first", &[])
                .refuses(&[Code::RateLimited, Code::Overloaded, Code::Unavailable]),
        )
        .route(
            Route::post("/v1/me/coupons/{claim_id}/redemptions", "redemption", Access::User, "Use a coupon, once")
                .description("An issued coupon is named by the claim that won it. Expiry is judged by PostgreSQL's clock.")
                .path_parameter("claim_id", "the claim that won the coupon")
                .idempotency_key(true, "the same key and body again reads the same answer")
                .body::<RedemptionRequest>(true)
                .answers::<HeldCouponView>(200, "It was used by this very request before", &[])
                .answers::<HeldCouponView>(201, "It is used now", &[])
                .refuses(&[Code::NotFound, Code::AlreadyUsed, Code::Expired, Code::IdempotencyKeyReused])
                .refuses(&[Code::RateLimited, Code::Overloaded, Code::StoreRestored, Code::Unavailable]),
        )
}

/// What operators are served on the `admin` listener.
#[must_use]
pub fn admin() -> Document {
    let about = "Drafts, and commands to coupons. A command takes its place in the coupon's line and is answered there. Reading takes the scope \
        `coupons:read`, changing `coupons:write`.";
    let commands = CommandKind::ALL.map(CommandKind::as_str);
    Document::new("Firstcome for operators", about, "/admin/v1/openapi.json")
        .route(
            Route::post("/admin/v1/coupons", "create_draft", Access::Operator, "Make a draft (coupons:write)")
                .idempotency_key(true, "the same key and body again is the same draft")
                .body::<DraftRequest>(true)
                .answers::<AdminCoupon>(200, "This draft was made before, under the same key", &[])
                .answers::<AdminCoupon>(201, "The draft", &[LOCATION])
                .refuses(&[Code::IdempotencyKeyReused, Code::Unavailable]),
        )
        .route(
            Route::get("/admin/v1/coupons", "coupons", Access::Operator, "All coupons (coupons:read)")
                .query("limit", "coupons on a page, 50 unless given", number().minimum(Some(1)).maximum(Some(200)))
                .query("before", "the `next` of the page before", text())
                .answers::<PageView>(200, "The newest first", &[])
                .refuses(&[Code::Unavailable]),
        )
        .route(
            Route::get("/admin/v1/coupons/{coupon_id}", "admin_coupon", Access::Operator, "One coupon (coupons:read)")
                .path_parameter(COUPON_ID.0, COUPON_ID.1)
                .answers::<AdminCoupon>(200, "The coupon; once it is published, its version is in the ETag", &[])
                .refuses(&[Code::UnknownCoupon, Code::Unavailable]),
        )
        .route(
            Route::get("/admin/v1/coupons/{coupon_id}/ledger", "ledger", Access::Operator, "A coupon's claims, counted (coupons:read)")
                .description("Each claim that is in the log once, by its final answer, else by its latest.")
                .path_parameter(COUPON_ID.0, COUPON_ID.1)
                .answers::<LedgerView>(200, "The ledger at the log's end", &[])
                .refuses(&[Code::UnknownCoupon, Code::Overloaded, Code::Unavailable]),
        )
        .route(
            Route::get("/admin/v1/coupons/{coupon_id}/events", "events", Access::Operator, "Who changed a coupon, and why (coupons:read)")
                .path_parameter(COUPON_ID.0, COUPON_ID.1)
                .query("limit", "events on a page, 50 unless given", number().minimum(Some(1)).maximum(Some(200)))
                .query("before", "the `next` of the page before", number())
                .answers::<EventsView>(200, "The newest first", &[])
                .refuses(&[Code::Unavailable]),
        )
        .route(
            Route::get("/admin/v1/dead-letters", "dead_letters", Access::Operator, "What could not be read (coupons:read)")
                .query("limit", "letters that are shown, 50 unless given", number().minimum(Some(1)).maximum(Some(1000)))
                .query("all", "`true`: those that were redriven or discarded, too", text())
                .answers::<DeadLettersView>(200, "The oldest first", &[])
                .refuses(&[Code::Overloaded, Code::Unavailable]),
        )
        .route(
            Route::post("/admin/v1/coupons/{coupon_id}/{command}", "command", Access::Operator, "Change a coupon (coupons:write)")
                .description("`restock` reads `delta`, `reschedule` reads `opens_at` and `closes_at`; each takes a `reason`.")
                .path_parameter(COUPON_ID.0, COUPON_ID.1)
                .path_word("command", "what to do", &commands)
                .idempotency_key(true, "the same key again is the same command; with another body it is refused")
                .header("If-Match", "the version that the coupon must have, as in \"3\"; `publish` reads none")
                .prefer_wait("how long to wait for the answer, up to 30 s")
                .body::<CommandBody>(false)
                .answers::<CommandView>(200, "The log has answered", &[LOCATION])
                .answers::<CommandView>(202, "The log has it; its answer will be at the Location", &[LOCATION])
                .refuses(&[Code::NotFound, Code::UnknownCoupon, Code::IdempotencyKeyReused])
                .refuses(&[Code::Overloaded, Code::InDoubt, Code::NotAccepted, Code::LogMismatch, Code::Unavailable]),
        )
        .route(
            Route::get("/admin/v1/commands/{command_id}", "command_answer", Access::Operator, "What became of a command (coupons:read)")
                .path_parameter("command_id", "the command")
                .prefer_wait("how long to wait for the answer, up to 30 s")
                .answers::<CommandView>(200, "The answer, or that there is none yet", &[]),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_golden(document: Document, name: &str, golden: &str) {
        assert!(document.clashing_schemas().is_empty(), "{:?}", document.clashing_schemas());
        let served = document.to_json();
        if served != golden {
            let found = std::env::temp_dir().join(name);
            std::fs::write(&found, &served).unwrap();
            panic!("docs/{name} is not what is served; that is in {}", found.display());
        }
    }

    #[test]
    fn the_documents_in_docs_are_what_is_served() {
        assert_golden(user(), "openapi-user.json", include_str!("../../../docs/openapi-user.json"));
        assert_golden(admin(), "openapi-admin.json", include_str!("../../../docs/openapi-admin.json"));
    }
}
