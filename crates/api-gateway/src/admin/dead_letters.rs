//! What lies in the dead-letter queue. Redriving and discarding are `couponctl dlq`'s.

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::Timestamp;
use infrastructure_http::time::to_rfc3339;
use infrastructure_http::{Code, Problem, Scope};
use infrastructure_kafka::dead_letter::queue::{self, Letter, Payloads};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::desk::Desk;

/// Letters that are shown unless asked otherwise.
const SHOWN: u16 = 50;
/// Most letters that are shown.
const SHOWN_MAX: u16 = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListRequest {
    #[serde(default)]
    limit: Option<u16>,
    /// Those that were redriven or discarded, too.
    #[serde(default)]
    all: bool,
}

/// A record that could not be read.
#[derive(Serialize, ToSchema)]
pub(crate) struct LetterView {
    /// `partition:offset` of its record in the claims topic.
    letter: String,
    /// `open`, `redriven` or `discarded`.
    state: &'static str,
    parked_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_id: Option<String>,
    reason: String,
    problem: String,
    service: String,
    release: String,
    original_bytes: usize,
}

/// The queue, the oldest letter first.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeadLettersView {
    /// How many letters are open: neither redriven nor discarded.
    open: usize,
    /// When the oldest open letter was parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_open_at: Option<String>,
    letters: Vec<LetterView>,
}

pub(crate) async fn list(
    request: HttpRequest,
    asked: Query<ListRequest>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    desk.operator(&request, Scope::ReadCoupons).await?;
    let limit = asked.limit.unwrap_or(SHOWN);
    if !(1..=SHOWN_MAX).contains(&limit) {
        return Err(Problem::invalid("limit", format!("must be 1..={SHOWN_MAX}")));
    }
    let place = desk.log_reads.take().ok_or_else(|| {
        Problem::new(Code::Overloaded, "as many looks into the log as this process takes are under way")
    })?;
    let (kafka, layout) = (desk.kafka.clone(), desk.layout.clone());
    // The place goes with the work: a caller who hangs up does not end it.
    let reading = actix_web::web::block(move || {
        let _place = place;
        queue::read(&kafka, &layout, Payloads::LeftOut)
    });
    let letters =
        reading.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))?.map_err(|error| {
            tracing::warn!("the dead-letter queue could not be read: {error}");
            Problem::new(Code::Unavailable, "Kafka does not answer now")
        })?;
    let mut letters: Vec<Letter> = letters.letters.into_values().collect();
    letters.sort_by_key(|letter| letter.parked_at_ms);
    let open: Vec<&Letter> = letters.iter().filter(|letter| letter.resolution.is_none()).collect();
    let body = DeadLettersView {
        open: open.len(),
        oldest_open_at: open.first().map(|letter| spell(letter.parked_at_ms)),
        letters: letters
            .iter()
            .filter(|letter| asked.all || letter.resolution.is_none())
            .take(limit.into())
            .map(LetterView::of)
            .collect(),
    };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(body))
}

impl LetterView {
    fn of(letter: &Letter) -> Self {
        Self {
            letter: format!("{}:{}", letter.origin.0, letter.origin.1),
            state: letter.resolution.as_ref().map_or("open", |resolution| resolution.resolved.as_str()),
            parked_at: spell(letter.parked_at_ms),
            claim_id: letter.claim_id.clone(),
            reason: letter.reason.clone(),
            problem: letter.problem.clone(),
            service: letter.service.clone(),
            release: letter.release.clone(),
            original_bytes: letter.original_bytes,
        }
    }
}

fn spell(ms: i64) -> String {
    Timestamp::from_ms(ms).map_or_else(|_| ms.to_string(), to_rfc3339)
}
