//! Preparing batches: reads outcomes, accepts or skips them, and makes rows of what is new, while the batch before is being committed.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coupon_domain::accept::Accepted;
use coupon_domain::coupon_code::CouponCode;
use coupon_domain::outcome::{ClaimOutcome, CommandOutcome, Subject};
use coupon_domain::resume::RecordIdentity;
use coupon_domain::wire::{RecordError, decode_outcome};
use coupon_domain::{
    CouponId, CouponState, Definition, HaltReason, KeyRing, Offset, Outcome, OutcomeWatermark, Partition,
    Timestamp,
};
use infrastructure_kafka::Reader;
use infrastructure_postgres::batch::{IssuedCoupon, Move, OutcomeRows, has_row};
use service_runtime::Tracer;
use service_runtime::partition::{Halt, Interrupted};
use service_runtime::trace::{self, Carried};

use crate::handover::Handover;

/// How long a poll waits for the first outcome of a batch.
const POLL: Duration = Duration::from_millis(100);

/// What the writer gets.
pub(crate) enum Prepared {
    /// Claims' outcomes: possibly no row at all, where all were copies or write nothing.
    Outcomes {
        step: Move,
        rows: Box<OutcomeRows>,
        appended_at_ms: Vec<i64>,
        copies: u64,
        traces: Vec<Carried>,
    },
    /// A command's outcome, a batch of its own.
    Command { step: Move, outcome: Box<(Offset, Timestamp, CommandOutcome, CouponState)> },
    /// Nothing further can be prepared.
    Interrupted(Interrupted),
}

/// Prepares one partition's batches.
pub(crate) struct Preparer {
    pub(crate) partition: Partition,
    pub(crate) reader: Reader,
    pub(crate) keys: KeyRing,
    /// Of all coupons that are published up to the watermark.
    pub(crate) definitions: HashMap<CouponId, Arc<Definition>>,
    pub(crate) watermark: OutcomeWatermark,
    /// The first outcome behind a gap, while the missing ones are looked for further on.
    pub(crate) gap: Option<Offset>,
    pub(crate) last_record: Option<RecordIdentity>,
    pub(crate) batch_records_max: usize,
    pub(crate) drain_seconds: prometheus::Histogram,
    pub(crate) tracer: Tracer,
}

/// A batch that is being filled.
struct Batch {
    from: OutcomeWatermark,
    rows: Box<OutcomeRows>,
    appended_at_ms: Vec<i64>,
    copies: u64,
    /// Of those outcomes that carry one, while somebody takes spans.
    traces: Vec<Carried>,
}

/// An outcome, where it stands, and the trace that it carries.
type Read = (Offset, Outcome, Option<Box<Carried>>);

impl Batch {
    fn starting_at(from: OutcomeWatermark) -> Self {
        Self { from, rows: Box::default(), appended_at_ms: Vec::new(), copies: 0, traces: Vec::new() }
    }
}

impl Preparer {
    /// Prepares until told to stop, or until something is in the way.
    pub(crate) fn run(mut self, writer: &Handover, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) && self.prepare(writer).is_continue() {}
    }

    fn prepare(&mut self, writer: &Handover) -> ControlFlow<()> {
        let (outcomes, trouble) = self.drain();
        let mut batch = Batch::starting_at(self.watermark);
        for read in outcomes {
            if let Err(interrupted) = self.take(read, &mut batch, writer)? {
                self.flush(&mut batch, writer)?;
                return give_up(writer, interrupted);
            }
        }
        self.flush(&mut batch, writer)?;
        match (trouble, self.gap) {
            (Some(interrupted), _) => give_up(writer, interrupted),
            (None, Some(gap)) if self.reader.is_at_end() => {
                let missing =
                    format!("outcomes from src {} on are missing before it", self.watermark.next_src);
                give_up(writer, halt(HaltReason::OffsetGap, gap.number(), &missing))
            }
            (None, _) => ControlFlow::Continue(()),
        }
    }

    /// Takes what is there. An outcome that cannot be read ends the batch; what stands before it is still written.
    fn drain(&self) -> (Vec<Read>, Option<Interrupted>) {
        let (mut outcomes, mut trouble, mut started) = (Vec::new(), None, Instant::now());
        let is_recording = self.tracer.is_recording();
        let drained = self.reader.drain(self.batch_records_max, POLL, |record| {
            if outcomes.is_empty() {
                started = Instant::now();
            }
            let offset = Offset::new(record.offset());
            match (offset, decode_outcome(record.payload().unwrap_or_default())) {
                (Ok(offset), Ok(outcome)) => {
                    let trace = if is_recording { trace::of_record(&record) } else { None };
                    outcomes.push((offset, outcome, trace));
                    return ControlFlow::Continue(());
                }
                (_, Err(error @ RecordError::NewerVersion { .. })) => {
                    trouble = Some(halt(HaltReason::NewerVersion, record.offset(), &error));
                }
                (_, Err(error)) => trouble = Some(halt(HaltReason::ChainMismatch, record.offset(), &error)),
                (Err(error), Ok(_)) => trouble = Some(halt(HaltReason::LogMismatch, record.offset(), &error)),
            }
            ControlFlow::Break(())
        });
        if !outcomes.is_empty() {
            self.drain_seconds.observe(started.elapsed().as_secs_f64());
        }
        match drained {
            Ok(_) => (outcomes, trouble),
            Err(error) => (outcomes, Some(error.into())),
        }
    }

    /// Takes one outcome into the batch. Breaks where the writer has hung up.
    fn take(
        &mut self,
        (outcome_offset, outcome, trace): Read,
        batch: &mut Batch,
        writer: &Handover,
    ) -> ControlFlow<(), Result<(), Interrupted>> {
        if self.passes_over(outcome_offset, outcome.src_offset) {
            return ControlFlow::Continue(Ok(()));
        }
        let before = self.watermark;
        match self.watermark.accept(outcome_offset, &outcome) {
            Err(reason) => {
                return ControlFlow::Continue(Err(halt(reason, outcome_offset.number(), &"unexpected")));
            }
            Ok(Accepted::Skip) => {
                batch.copies += 1;
                return ControlFlow::Continue(Ok(()));
            }
            Ok(Accepted::Take) => batch.traces.extend(trace.map(|carried| *carried)),
        }
        let identity = RecordIdentity::of_outcome(&outcome);
        let (src_offset, appended_at, is_new) = (outcome.src_offset, outcome.appended_at, outcome.is_new());
        match outcome.subject {
            Subject::Claim(claim) if is_new && has_row(&claim) => {
                if let Err(interrupted) = self.add_claim(src_offset, appended_at, &claim, batch) {
                    self.watermark = before;
                    return ControlFlow::Continue(Err(interrupted));
                }
            }
            Subject::Command(mut command) if is_new && command.state.is_some() => {
                let after = self.watermark;
                self.watermark = before;
                self.flush(batch, writer)?;
                self.watermark = after;
                self.last_record = Some(identity);
                if let Some(state) = command.state.take() {
                    self.definitions.insert(state.coupon_id, Arc::clone(&state.definition));
                    let step = self.step(before);
                    let outcome = Box::new((src_offset, appended_at, *command, state));
                    writer.give(Prepared::Command { step, outcome })?;
                }
                *batch = Batch::starting_at(after);
                return ControlFlow::Continue(Ok(()));
            }
            Subject::Invalid(invalid) => {
                if let Some(claim_id) = invalid.claim_id {
                    batch.rows.push_parked(src_offset, &claim_id);
                }
            }
            Subject::Claim(_) | Subject::Command(_) => {}
        }
        self.last_record = Some(identity);
        ControlFlow::Continue(Ok(()))
    }

    /// True for an outcome that is not taken now because others are missing before it. Where retention took outcomes that we have not read, a
    /// restarted stock-consumer publishes them again, and all that followed: further on in the log. Until they are found nothing moves, so that
    /// the search can begin anew.
    fn passes_over(&mut self, outcome_offset: Offset, src_offset: Offset) -> bool {
        if src_offset == self.watermark.next_src {
            if let Some(gap) = self.gap.take() {
                tracing::info!(partition = %self.partition, %gap, offset = %outcome_offset, "the missing outcomes are found");
            }
            return false;
        }
        if src_offset > self.watermark.next_src {
            self.gap.get_or_insert(outcome_offset);
        }
        self.gap.is_some()
    }

    fn add_claim(
        &self,
        src_offset: Offset,
        appended_at: Timestamp,
        claim: &ClaimOutcome,
        batch: &mut Batch,
    ) -> Result<(), Interrupted> {
        if let Some(issue_no) = claim.issue_no {
            let coupon_id = claim.claim_id.coupon_id;
            let definition = self.definitions.get(&coupon_id).ok_or_else(|| {
                halt(
                    HaltReason::Constraint,
                    src_offset.number(),
                    &format!("coupon {coupon_id} is not in the database"),
                )
            })?;
            let key = self.keys.get(definition.key_id()).ok_or_else(|| {
                halt(
                    HaltReason::KeyMissing,
                    src_offset.number(),
                    &format!("coupon {coupon_id} needs key {}", definition.key_id()),
                )
            })?;
            let issued = IssuedCoupon {
                per_user_limit: definition.per_user_limit(),
                code: CouponCode::mint(key, coupon_id, issue_no).to_string(),
                expires_at: definition.expiry().map(|expiry| expiry.of(appended_at)),
            };
            batch.rows.push_issued(src_offset, appended_at, claim, issued);
        }
        batch.rows.push_claim(src_offset, appended_at, claim);
        batch.appended_at_ms.push(appended_at.ms());
        Ok(())
    }

    /// Hands the batch over, if the watermark has moved since it began.
    fn flush(&self, batch: &mut Batch, writer: &Handover) -> ControlFlow<()> {
        if batch.from == self.watermark {
            return ControlFlow::Continue(());
        }
        let step = self.step(batch.from);
        let Batch { rows, appended_at_ms, copies, traces, .. } =
            std::mem::replace(batch, Batch::starting_at(self.watermark));
        writer.give(Prepared::Outcomes { step, rows, appended_at_ms, copies, traces })
    }

    fn step(&self, from: OutcomeWatermark) -> Move {
        Move { partition: self.partition, from, to: self.watermark, last_record: self.last_record.clone() }
    }
}

fn halt(reason: HaltReason, outcome_offset: i64, detail: &dyn std::fmt::Display) -> Interrupted {
    Interrupted::Halt(Halt::new(reason, format!("the outcome at {outcome_offset}: {detail}")))
}

/// The last word: the writer decides what becomes of it.
fn give_up(writer: &Handover, interrupted: Interrupted) -> ControlFlow<()> {
    writer.give(Prepared::Interrupted(interrupted))?;
    ControlFlow::Break(())
}
