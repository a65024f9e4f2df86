//! Who changed a coupon, when and why, as its line answered.

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::{CommandId, Offset};
use infrastructure_http::time::to_rfc3339;
use infrastructure_http::{Problem, Scope};
use infrastructure_postgres::events::{self, AuditEvent};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::desk::Desk;
use crate::paths::parse_coupon;

/// Events on a page unless asked otherwise.
const PAGE: u16 = 50;
/// Most events on a page.
const PAGE_MAX: u16 = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageRequest {
    #[serde(default)]
    limit: Option<u16>,
    /// The `next` of the page before.
    #[serde(default)]
    before: Option<i64>,
}

/// A command, and what the line made of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventView {
    #[schema(value_type = String)]
    command_id: CommandId,
    kind: String,
    code: String,
    actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    appended_at: String,
    offset: i64,
    /// The coupon behind it.
    #[schema(value_type = Object)]
    state: serde_json::Value,
}

/// A page of events, the newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventsView {
    events: Vec<EventView>,
    /// Give it as `before` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

pub(crate) async fn list(
    request: HttpRequest,
    path: Path<String>,
    page: Query<PageRequest>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    desk.operator(&request, Scope::ReadCoupons).await?;
    let coupon_id = parse_coupon(&path)?;
    let limit = page.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::invalid("limit", format!("must be 1..={PAGE_MAX}")));
    }
    let before = page.before.map(Offset::new).transpose();
    let before = before.map_err(|error| Problem::invalid("before", error))?;
    let found = desk
        .ask_postgres("list_events", async |connection| {
            events::list(connection, coupon_id, before, limit).await
        })
        .await?;
    let full = found.len() == usize::from(limit);
    let next = found.last().filter(|_| full).map(|event| event.src_offset.number());
    let body = EventsView { events: found.into_iter().map(EventView::from).collect(), next };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(body))
}

impl From<AuditEvent> for EventView {
    fn from(event: AuditEvent) -> Self {
        Self {
            command_id: event.command_id,
            kind: event.kind,
            code: event.code,
            actor: event.actor,
            reason: event.reason,
            appended_at: to_rfc3339(event.appended_at),
            offset: event.src_offset.number(),
            state: event.state,
        }
    }
}
