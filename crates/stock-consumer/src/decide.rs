//! Deciding: drain a batch, fold it, publish all outcomes, await the acknowledgements, then tell states and view.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coupon_domain::brake::Brake;
use coupon_domain::ledger::UNDATED;
use coupon_domain::wire::encode_outcome;
use coupon_domain::{ClaimAnswer, CouponId, HaltReason, Ledger, Offset, Outcome};
use infrastructure_kafka::{AppendError, Batch, NewRecord, Reader};
use parking_lot::Mutex;
use service_runtime::Ended;
use service_runtime::partition::{Halt, Interrupted};
use service_runtime::trace::{self, Carried, NewSpan, Span, SpanKind, TraceHeaders};
use smallvec::SmallVec;

use crate::decode::{Decoded, decode};
use crate::resume::Resumed;
use crate::state::StatePublisher;
use crate::view::View;
use crate::worker::Desk;

/// How long a poll waits for the first record of a batch. The loop turns at least this often.
const POLL: Duration = Duration::from_millis(100);
const ACKNOWLEDGEMENT_POLL: Duration = Duration::from_secs(1);
/// The log's end is asked for so often at most.
const ASK_FOR_END: Duration = Duration::from_secs(1);

/// A partition while it is being decided.
pub(crate) struct Line<'a> {
    desk: Desk<'a>,
    ledger: Arc<Mutex<Ledger>>,
    reader: Reader,
    states: StatePublisher<'a>,
    view: View,
    brake: Brake,
    next_src: Offset,
    end: LogEnd,
}

/// The end of the claims log, as it was told last.
struct LogEnd {
    offset: i64,
    asked: Option<Instant>,
}

/// What a batch left behind.
#[derive(Default)]
struct Decided {
    /// Coupons, and how many records spoke of each.
    touched: Vec<(CouponId, u32)>,
    /// Where each of them stands.
    places: HashMap<CouponId, usize>,
    records: u32,
    deferrals: Vec<ClaimAnswer>,
    appended_at_ms: Vec<i64>,
}

impl<'a> Line<'a> {
    pub(crate) fn new(desk: Desk<'a>, resumed: Resumed) -> Self {
        let next_src = resumed.ledger.next_src();
        let ledger = Arc::new(Mutex::new(resumed.ledger));
        let config = &desk.shared.context.config.decide;
        Self {
            states: StatePublisher::new(desk),
            view: View::start(desk, Arc::clone(&ledger)),
            reader: resumed.reader,
            brake: Brake::new(config.unreadable_consecutive_max, config.unreadable_percent_max),
            ledger,
            desk,
            next_src,
            end: LogEnd { offset: 0, asked: None },
        }
    }

    /// The first undecided offset.
    pub(crate) fn next_src(&self) -> Offset {
        self.next_src
    }

    /// On assignment: every live coupon's state and view are said again, which heals whatever a zombie left last.
    pub(crate) fn take_over(&mut self) -> Result<(), Interrupted> {
        self.view.refresh_all(&self.ledger.lock());
        self.states.all_changed(&self.ledger);
        self.states.publish(&self.ledger)
    }

    /// One batch, possibly empty.
    pub(crate) fn turn(&mut self) -> Result<(), Interrupted> {
        let (records, halt) = self.drain()?;
        let batch_records_max = self.desk.shared.context.config.decide.batch_records_max;
        let is_backed_up = records.len() >= usize::try_from(batch_records_max).unwrap_or(1);
        self.view.line_is_backed_up(is_backed_up);
        if !records.is_empty() {
            let decided = self.decide(records)?;
            let waiting = if is_backed_up { self.waiting() } else { 0 };
            self.settle(&decided, waiting);
        }
        if let Some(halt) = halt {
            return Err(halt.into());
        }
        self.states.publish(&self.ledger)?;
        self.view.refresh_due(&self.ledger);
        Ok(())
    }

    /// Takes what is there. A record that halts the partition ends the batch: what stands before it is still decided, but for the unreadable ones
    /// right before a brake.
    fn drain(&mut self) -> Result<(Vec<Decoded>, Option<Halt>), Interrupted> {
        let Self { desk, brake, reader, .. } = self;
        let most = desk.shared.context.config.decide.batch_records_max;
        let (mut records, mut halt, mut started) = (Vec::new(), None, Instant::now());
        let mut expected = self.next_src;
        reader.drain(usize::try_from(most).unwrap_or(1), POLL, |view| {
            if records.is_empty() {
                // The wait for the first record is no work.
                started = Instant::now();
            }
            match decode(desk.partition(), &view) {
                Ok(mut decoded) if decoded.record.src_offset == expected => {
                    if brake.is_pulled_by(!decoded.pulls_the_brake()) {
                        let detail = format!("too many records before {expected} cannot be read");
                        halt = Some(Halt::new(HaltReason::DlqBrake, detail));
                        return ControlFlow::Break(());
                    }
                    decoded.trace = trace::of_record(&view);
                    expected = expected.next();
                    records.push(decoded);
                    return ControlFlow::Continue(());
                }
                Ok(decoded) => {
                    let found = decoded.record.src_offset;
                    halt = Some(Halt::new(HaltReason::OffsetGap, format!("after {expected} comes {found}")));
                }
                Err(stop) => halt = Some(stop),
            }
            ControlFlow::Break(())
        })?;
        if halt.as_ref().is_some_and(|halt| halt.reason == HaltReason::DlqBrake) {
            let readable = records.iter().rposition(|decoded| !decoded.pulls_the_brake());
            records.truncate(readable.map_or(0, |last| last + 1));
        }
        if !records.is_empty() {
            self.desk.shared.metrics.drain_seconds.observe(started.elapsed().as_secs_f64());
        }
        Ok((records, halt))
    }

    fn decide(&mut self, records: Vec<Decoded>) -> Result<Decided, Interrupted> {
        let (shared, started) = (self.desk.shared, Instant::now());
        self.bury(&records)?;
        let spans = self.begin_spans(&records);
        let outcomes = self.fold(records)?;
        let (mut batch, mut decided) = (shared.producer.batch(), Decided::default());
        let mut spans_ahead = spans.iter().peekable();
        for (index, outcome) in outcomes.iter().enumerate() {
            let span = spans_ahead.next_if(|(of, _)| *of == index);
            let trace = span.and_then(|(_, span)| span.carried());
            self.publish(&mut batch, outcome, trace)?;
            decided.note(outcome);
            shared.metrics.decided(outcome.code(), outcome.is_new());
            tell(outcome, trace);
        }
        let count = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
        shared.metrics.batch_records.observe(count.into());
        shared.metrics.fold_seconds.observe(started.elapsed().as_secs_f64());
        let waiting = Instant::now();
        self.await_acknowledgements(&batch)?;
        shared.metrics.publish_seconds.observe(waiting.elapsed().as_secs_f64());
        tracing::debug!(partition = %self.desk.partition(), offset = %self.next_src,
            duration_ms = started.elapsed().as_secs_f64() * 1_000.0, "decided {count} records");
        Ok(decided)
    }

    /// The spans of those records that carry a trace, with their places in the batch. They end once the batch is acknowledged.
    fn begin_spans(&self, records: &[Decoded]) -> Vec<(usize, Span)> {
        let traced = records.iter().enumerate().filter_map(|(index, decoded)| {
            let parent = Some(&**decoded.trace.as_ref()?);
            let tracer = &self.desk.shared.context.tracer;
            let mut span =
                tracer.begin(NewSpan { name: "decide", kind: SpanKind::Consumer, parent, links: &[] });
            span.note("partition", || self.desk.partition().to_string());
            span.note("offset", || decoded.record.src_offset.to_string());
            Some((index, span))
        });
        traced.collect()
    }

    fn fold(&mut self, records: Vec<Decoded>) -> Result<Vec<Outcome>, Interrupted> {
        let mut ledger = self.ledger.lock();
        let mut outcomes = Vec::with_capacity(records.len());
        for decoded in records {
            let outcome = ledger
                .fold(decoded.record)
                .map_err(|error| Interrupted::Halt(Halt::new(HaltReason::OffsetGap, error.to_string())))?;
            outcomes.push(outcome);
        }
        self.next_src = ledger.next_src();
        Ok(outcomes)
    }

    /// Copies what cannot be read to the dead-letter queue, before its outcome says so.
    fn bury(&self, records: &[Decoded]) -> Result<(), Interrupted> {
        let letters: Vec<_> = records.iter().filter_map(|decoded| decoded.dead_letter.clone()).collect();
        if letters.is_empty() {
            return Ok(());
        }
        let shared = self.desk.shared;
        shared.dead_letters.write(&letters, &mut || self.desk.worker.turn()).map_err(|error| lost(&error))?;
        for letter in &letters {
            tracing::warn!(
                partition = letter.origin_partition,
                offset = letter.origin_offset,
                code = letter.reason,
                // What is wrong with it may quote it, and so a user: the queue says it, not the log.
                "a record cannot be read; its copy is in the dead-letter queue: `couponctl dlq show` says why"
            );
            let labels = [shared.claims_topic.as_str(), letter.reason];
            shared.metrics.dead_letters.with_label_values(&labels).inc();
        }
        Ok(())
    }

    fn publish(
        &self,
        batch: &mut Batch<'_>,
        outcome: &Outcome,
        trace: Option<&Carried>,
    ) -> Result<(), Interrupted> {
        let payload = encode_outcome(outcome);
        let coupon_id = outcome.coupon_id().map(|coupon_id| coupon_id.to_string());
        let trace = trace.map(TraceHeaders::new);
        let headers: SmallVec<[(&str, &[u8]); 2]> = trace.iter().flat_map(TraceHeaders::iter).collect();
        let record = NewRecord {
            topic: &self.desk.shared.outcomes_topic,
            partition: self.desk.partition().number(),
            key: coupon_id.as_deref().unwrap_or_default().as_bytes(),
            payload: Some(&payload),
            headers: &headers,
        };
        batch.produce(record, &mut || self.desk.worker.turn()).map_err(|error| lost(&error))
    }

    fn await_acknowledgements(&self, batch: &Batch<'_>) -> Result<(), Interrupted> {
        while batch.wait(ACKNOWLEDGEMENT_POLL).map_err(|error| lost(&error))?.is_err() {
            self.desk.worker.turn();
        }
        Ok(())
    }

    /// About how many records wait in line. The log's end is asked for where what was known of it is reached; nothing depends on the answer but how the view is
    /// laid out, so none is no trouble.
    fn waiting(&mut self) -> u64 {
        let is_due = self.end.asked.is_none_or(|asked| asked.elapsed() >= ASK_FOR_END);
        if self.end.offset <= self.next_src.number() && is_due {
            self.end.asked = Some(Instant::now());
            match self.reader.bounds(self.desk.partition().number()) {
                Ok(bounds) => self.end.offset = bounds.end,
                Err(error) => tracing::debug!("the end of the claims log was not told: {error}"),
            }
        }
        u64::try_from(self.end.offset - self.next_src.number()).unwrap_or(0)
    }

    /// The batch is durable: now others may hear of it. Behind it so many records wait in line, of which each coupon is thought to have as large a share as of the
    /// batch.
    fn settle(&mut self, decided: &Decided, waiting: u64) {
        let shared = self.desk.shared;
        let now = shared.context.clock.now().ms();
        for appended_at in &decided.appended_at_ms {
            let elapsed = Duration::from_millis(u64::try_from(now - appended_at).unwrap_or(0));
            shared.metrics.claim_to_decided_seconds.observe(elapsed.as_secs_f64());
        }
        shared.metrics.watermark("outcomes", self.desk.partition(), self.next_src.number());
        self.states.touched(decided.touched.iter().map(|(coupon_id, _)| *coupon_id));
        let with_share = decided.touched.iter().map(|(coupon_id, records)| {
            let share = waiting.saturating_mul((*records).into()) / u64::from(decided.records.max(1));
            (*coupon_id, u32::try_from(share).unwrap_or(u32::MAX))
        });
        self.view.advance(&self.ledger.lock(), with_share, &decided.deferrals);
    }
}

/// A line for each record, for those who look closely.
fn tell(outcome: &Outcome, trace: Option<&Carried>) {
    if !tracing::enabled!(tracing::Level::TRACE) {
        return;
    }
    let claim_id = ClaimAnswer::of(outcome).map(|answer| tracing::field::display(answer.claim_id));
    let context = trace.map(|carried| carried.context);
    tracing::trace!(
        offset = %outcome.src_offset,
        code = outcome.code(),
        coupon.id = outcome.coupon_id().map(tracing::field::display),
        claim.id = claim_id,
        trace_id = context.map(|context| tracing::field::display(context.trace_id_hex())),
        span_id = context.map(|context| tracing::field::display(context.span_id_hex())),
        "decided"
    );
}

/// A record that was not acknowledged may or may not be in the log; the restart finds out.
fn lost(error: &AppendError) -> Interrupted {
    Interrupted::Ended(Ended::Fatal(format!("an outcome was not acknowledged: {error}")))
}

impl Decided {
    fn note(&mut self, outcome: &Outcome) {
        self.records += 1;
        if outcome.appended_at != UNDATED {
            self.appended_at_ms.push(outcome.appended_at.ms());
        }
        let Some(coupon_id) = outcome.coupon_id() else {
            return;
        };
        // Mostly it is the same one again.
        match self.touched.last_mut() {
            Some((last, records)) if *last == coupon_id => *records += 1,
            _ => {
                let next = self.touched.len();
                let place = *self.places.entry(coupon_id).or_insert(next);
                match self.touched.get_mut(place) {
                    Some((_, records)) => *records += 1,
                    None => self.touched.push((coupon_id, 1)),
                }
            }
        }
        self.deferrals
            .extend(ClaimAnswer::of(outcome).filter(|answer| !answer.is_final && answer.code.is_deferral()));
    }
}
