//! The operators' API, on a listener of its own: `/admin/v1`. Drafts live in PostgreSQL; everything else is a command in the coupon's line.

pub(crate) mod commands;
pub(crate) mod coupons;
pub(crate) mod dead_letters;
pub(crate) mod events;
pub(crate) mod ledger;

use actix_web::web::{self, Data};

use crate::desk::Desk;
use crate::openapi;

/// All routes of operators.
pub(crate) fn routes(desk: &Data<Desk>) -> impl Fn(&mut web::ServiceConfig) + Send + Clone + 'static {
    let (desk, document) = (desk.clone(), openapi::admin().serve());
    move |app| {
        app.app_data(desk.clone())
            .configure(document.clone())
            .route("/admin/v1/coupons", web::post().to(coupons::create))
            .route("/admin/v1/coupons", web::get().to(coupons::list))
            .route("/admin/v1/coupons/{coupon_id}", web::get().to(coupons::get))
            .route("/admin/v1/coupons/{coupon_id}/ledger", web::get().to(ledger::get))
            .route("/admin/v1/coupons/{coupon_id}/events", web::get().to(events::list))
            .route("/admin/v1/dead-letters", web::get().to(dead_letters::list))
            .route("/admin/v1/coupons/{coupon_id}/{command}", web::post().to(commands::post))
            .route("/admin/v1/commands/{command_id}", web::get().to(commands::get));
    }
}
