//! A coupon's ledger, now: each accepted claim once, by its final answer, else by its latest.
//!
//! PostgreSQL counts what lies below its watermark; the tails of outcomes and claims behind it tell the rest, so that the sum is that of the log
//! as it is, however far db-writer is behind. What is remembered nowhere is counted nowhere: claims that came after the coupon was retired, and those that were answered by what their
//! user holds already (rules 2).

use std::collections::HashMap;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::outcome::Subject;
use coupon_domain::wire::{Input, decode_claims_record, decode_outcome};
use coupon_domain::{CouponId, Offset};
use infrastructure_http::{Code, Problem, Scope};
use infrastructure_kafka::{Connection, LogBounds, LogCursor, ReadError, Reader, Topic, TopicLayout};
use infrastructure_postgres::batch::has_row;
use infrastructure_postgres::claim_counts::{self, ClaimCounts, Standing};
use serde::Serialize;
use utoipa::ToSchema;

use crate::desk::Desk;
use crate::paths::parse_coupon;

/// Most records behind PostgreSQL's watermark that are read for one ledger.
const TAIL_RECORDS_MAX: i64 = 200_000;

/// A coupon's claims, counted: `accepted` is the sum of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct LedgerView {
    #[schema(value_type = String)]
    coupon_id: Option<CouponId>,
    /// Distinct claims in the log.
    accepted: i64,
    /// They hold a coupon.
    granted: i64,
    /// Another final answer.
    rejected: i64,
    /// `not_open` or `paused` is their latest answer.
    deferred: i64,
    /// In the log, and not answered yet.
    undecided: i64,
    /// Their latest record cannot be read and lies in the dead-letter queue.
    dead_lettered: i64,
    /// The end of the log that was counted: the next claims offset.
    log_offset: i64,
    /// Decided before this claims offset.
    decided_offset: i64,
    /// In PostgreSQL before this claims offset.
    persisted_offset: i64,
}

pub(crate) async fn get(
    request: HttpRequest,
    path: Path<String>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    desk.operator(&request, Scope::ReadCoupons).await?;
    let coupon_id = parse_coupon(&path)?;
    let place = desk.log_reads.take().ok_or_else(|| {
        Problem::new(Code::Overloaded, "as many ledgers as this process takes are being counted")
    })?;
    let counted = desk
        .ask_postgres("count_claims", async |connection| claim_counts::count(connection, coupon_id).await)
        .await?;
    let (kafka, layout) = (desk.kafka.clone(), desk.layout.clone());
    // The place goes with the work: a caller who hangs up does not end it.
    let reading = actix_web::web::block(move || {
        let _place = place;
        read_tail(&kafka, &layout, coupon_id, &counted)
    });
    let tail = reading.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))??;
    let macs = tail.claims.keys().copied();
    let known = desk
        .ask_postgres("claim_standings", async |connection| {
            claim_counts::standings(connection, coupon_id, macs, counted.next_src).await
        })
        .await?;
    let view = add_up(coupon_id, &counted, &tail, &known);
    if view.accepted == 0 && desk.states.get(coupon_id).is_none() {
        return Err(Problem::new(Code::UnknownCoupon, format!("nothing is known of coupon {coupon_id}")));
    }
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(view))
}

/// What lies behind PostgreSQL's watermark.
#[derive(Debug, Default)]
struct Tail {
    /// The coupon's claims there, by the macs of their ids; none: without an answer yet.
    claims: HashMap<[u8; 16], Option<Standing>>,
    decided_offset: i64,
    log_offset: i64,
}

impl Tail {
    /// A later answer counts; what is final stays.
    fn answered(&mut self, mac: [u8; 16], standing: Standing) {
        let entry = self.claims.entry(mac).or_default();
        if !entry.is_some_and(Standing::is_final) {
            *entry = Some(standing);
        }
    }
}

fn read_tail(
    kafka: &Connection,
    layout: &TopicLayout,
    coupon_id: CouponId,
    counted: &ClaimCounts,
) -> Result<Tail, Problem> {
    let partition = coupon_id.partition().number();
    let mut tail = Tail { decided_offset: counted.next_src.number(), ..Tail::default() };
    let outcomes = Reader::new(kafka, &layout.name(Topic::Outcomes), "ledger").map_err(away)?;
    let log = outcomes.bounds(partition).map_err(away)?;
    let bounds = behind(log, counted.next_outcome_offset)?;
    let claims = Reader::new(kafka, &layout.name(Topic::Claims), "ledger").map_err(away)?;
    // Asked for last, so that everything decided lies before it.
    let claims_log = claims.bounds(partition).map_err(away)?;
    let mut cursor = LogCursor::new(&outcomes, partition, bounds).map_err(away)?;
    while let Some(entry) = cursor.next().map_err(unread)? {
        let outcome = decode_outcome(entry.payload.as_deref().unwrap_or_default()).map_err(|error| {
            Problem::new(Code::Unavailable, format!("the outcome at {}: {error}", entry.offset))
        })?;
        let src = outcome.src_offset.number();
        // Copies say nothing new.
        if src < tail.decided_offset {
            continue;
        }
        if src > tail.decided_offset {
            let detail = "outcomes that PostgreSQL has not seen are gone; a restarted stock-consumer publishes them again";
            return Err(Problem::new(Code::Unavailable, detail));
        }
        tail.decided_offset = outcome.src_offset.next().number();
        match &outcome.subject {
            Subject::Claim(claim) if claim.claim_id.coupon_id == coupon_id && has_row(claim) => {
                tail.answered(claim.claim_id.mac, Standing::of(claim.code));
            }
            Subject::Invalid(invalid) => {
                if let Some(claim_id) = invalid.claim_id.filter(|claim_id| claim_id.coupon_id == coupon_id) {
                    tail.answered(claim_id.mac, Standing::DeadLettered);
                }
            }
            Subject::Claim(_) | Subject::Command(_) => {}
        }
    }
    let undecided = behind(claims_log, Offset::new(tail.decided_offset).unwrap_or(Offset::ZERO))?;
    tail.log_offset = claims_log.end;
    let mut cursor = LogCursor::new(&claims, partition, undecided).map_err(away)?;
    while let Some(entry) = cursor.next().map_err(unread)? {
        if let Ok(Input::Claim(claim)) = decode_claims_record(entry.payload.as_deref())
            && claim.claim_id.coupon_id == coupon_id
        {
            tail.claims.entry(claim.claim_id.mac).or_default();
        }
    }
    Ok(tail)
}

/// The part of a log from an offset on.
fn behind(log: LogBounds, from: Offset) -> Result<LogBounds, Problem> {
    let start = from.number().max(log.start).min(log.end);
    if log.end - start > TAIL_RECORDS_MAX {
        let detail = format!(
            "PostgreSQL is more than {TAIL_RECORDS_MAX} records behind the log: ask again later, or use couponctl audit"
        );
        return Err(Problem::new(Code::Unavailable, detail));
    }
    Ok(LogBounds { start, end: log.end })
}

fn add_up(
    coupon_id: CouponId,
    counted: &ClaimCounts,
    tail: &Tail,
    known: &HashMap<[u8; 16], Standing>,
) -> LedgerView {
    let mut view = LedgerView {
        coupon_id: Some(coupon_id),
        granted: counted.granted,
        rejected: counted.rejected,
        deferred: counted.deferred,
        dead_lettered: counted.dead_lettered,
        log_offset: tail.log_offset,
        decided_offset: tail.decided_offset,
        persisted_offset: counted.next_src.number(),
        ..LedgerView::default()
    };
    for (mac, newer) in &tail.claims {
        match (known.get(mac), newer) {
            // A repeat of what was final, or a press that is not answered yet: what it was it still is.
            (Some(before), _) if before.is_final() => {}
            (Some(_), None) => {}
            (None, None) => view.undecided += 1,
            (before, Some(now)) => {
                if let Some(before) = before {
                    *view.column(*before) -= 1;
                }
                *view.column(*now) += 1;
            }
        }
    }
    view.accepted = view.granted + view.rejected + view.deferred + view.undecided + view.dead_lettered;
    view
}

impl LedgerView {
    fn column(&mut self, standing: Standing) -> &mut i64 {
        match standing {
            Standing::Granted => &mut self.granted,
            Standing::Rejected => &mut self.rejected,
            Standing::Deferred => &mut self.deferred,
            Standing::DeadLettered => &mut self.dead_lettered,
        }
    }
}

fn away(error: impl std::fmt::Display) -> Problem {
    tracing::warn!("the log could not be read for a ledger: {error}");
    Problem::new(Code::Unavailable, "Kafka does not answer now")
}

fn unread(error: ReadError) -> Problem {
    away(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coupon_domain::Partition;

    #[test]
    fn each_claim_counts_once_by_its_newest_standing() {
        let coupon_id = CouponId::new(Partition::new(0).unwrap(), uuid::Uuid::from_u128(1));
        let counted = ClaimCounts {
            next_src: Offset::new(10).unwrap(),
            next_outcome_offset: Offset::new(10).unwrap(),
            granted: 2,
            rejected: 1,
            deferred: 3,
            dead_lettered: 1,
        };
        let mut tail = Tail { log_offset: 20, decided_offset: 18, ..Tail::default() };
        // A deferral turned into a grant, a dead letter into a rejection, a winner pressed again, somebody new, two undecided of whom one is new.
        tail.answered([1; 16], Standing::Granted);
        tail.answered([2; 16], Standing::DeadLettered);
        tail.answered([2; 16], Standing::Rejected);
        tail.answered([2; 16], Standing::DeadLettered);
        tail.answered([3; 16], Standing::Granted);
        tail.answered([4; 16], Standing::Rejected);
        tail.claims.insert([5; 16], None);
        tail.claims.insert([6; 16], None);
        let known = HashMap::from([
            ([1; 16], Standing::Deferred),
            ([2; 16], Standing::DeadLettered),
            ([3; 16], Standing::Granted),
            ([5; 16], Standing::Deferred),
        ]);
        let view = add_up(coupon_id, &counted, &tail, &known);
        assert_eq!((view.granted, view.rejected, view.deferred), (3, 3, 2));
        assert_eq!((view.undecided, view.dead_lettered, view.accepted), (1, 0, 9));
        assert_eq!((view.log_offset, view.decided_offset, view.persisted_offset), (20, 18, 10));
    }

    #[test]
    fn a_tail_that_is_too_long_is_refused_by_name() {
        let log = LogBounds { start: 5, end: TAIL_RECORDS_MAX + 10 };
        assert_eq!(behind(log, Offset::new(10).unwrap()).unwrap().start, 10);
        assert!(behind(log, Offset::new(9).unwrap()).is_err());
        let emptied = LogBounds { start: 50, end: 50 };
        assert_eq!(behind(emptied, Offset::new(9).unwrap()).unwrap(), emptied);
    }
}
