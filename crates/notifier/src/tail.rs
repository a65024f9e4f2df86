//! The tails: reading along all partitions of `coupon.outcomes` and `coupon.persisted`.
//!
//! A partition's base is what db-writer last said that PostgreSQL reflects: from there the outcomes are read and their chain is checked, so
//! that only genuine answers are told. [`Tails::next_offset`] is moved *before* the waiters of an outcome are told: whoever
//! registers and then sees offset T can be sure to be told of everything from T on, and has to look up only what lies before.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;

use coupon_domain::accept::LogBounds;
use coupon_domain::outcome::Subject;
use coupon_domain::wire::{PersistedWatermark, RecordError, decode_outcome, decode_persisted};
use coupon_domain::{ClaimAnswer, HaltReason, Offset, Outcome, OutcomeWatermark, Partition};
use infrastructure_kafka::{Connection, KafkaError, ReadError, Reader, RecordView};
use parking_lot::RwLock;
use service_runtime::tail::{
    CompactedTopic, PARTITIONS_CHECK, POLL, RECORDS_PER_TURN, has_grown, keep_reading,
};
use service_runtime::trace::{self, TraceContext};
use service_runtime::{Condition, Context, Ended, LoopTurn, Shutdown};
use tokio::sync::watch;

use crate::config::Config;
use crate::metrics::ServiceMetrics;
use crate::waiters::{Told, Waiters};

/// Stands where a tail does not know its place yet.
const UNKNOWN: i64 = -1;

/// The topics' full names.
pub(crate) struct Topics {
    pub(crate) outcomes: String,
    pub(crate) persisted: String,
}

/// Where the tails stand, for request handlers.
#[derive(Default)]
pub(crate) struct Tails {
    partitions: RwLock<Vec<Arc<TailState>>>,
}

pub(crate) struct TailState {
    next_offset: AtomicI64,
    next_src: AtomicI64,
    halted: watch::Sender<bool>,
    persisted: watch::Sender<Option<PersistedWatermark>>,
}

impl Default for TailState {
    fn default() -> Self {
        Self {
            next_offset: AtomicI64::new(UNKNOWN),
            next_src: AtomicI64::new(UNKNOWN),
            halted: watch::Sender::new(false),
            persisted: watch::Sender::new(None),
        }
    }
}

impl TailState {
    /// The outcome offset that the tail reads next.
    pub(crate) fn next_offset(&self) -> Offset {
        Offset::new(self.next_offset.load(Ordering::Acquire)).unwrap_or(Offset::ZERO)
    }

    /// The first claims offset whose outcome the tail has not seen.
    pub(crate) fn next_src(&self) -> Offset {
        Offset::new(self.next_src.load(Ordering::Acquire)).unwrap_or(Offset::ZERO)
    }

    /// True where the tail stands still: nobody is told by it, so look-ups must go on.
    pub(crate) fn is_halted(&self) -> bool {
        *self.halted.borrow()
    }

    /// Waits until the tail stands still.
    pub(crate) async fn until_halted(&self) {
        // Its sender is ours: the wait ends only where it is so.
        drop(self.halted.subscribe().wait_for(|halted| *halted).await);
    }

    /// What the tail has not told a waiter lies before this outcome offset, given what was so before; none while it stands still. What it passes
    /// over when it goes on lies before the place where it does.
    pub(crate) fn untold_before(&self, before: Option<Offset>) -> Option<Offset> {
        if self.is_halted() { None } else { Some(before.unwrap_or_else(|| self.next_offset())) }
    }

    /// False until the tail knows its place: whoever registered before it could be missed by tail and look-up alike.
    fn knows_its_place(&self) -> bool {
        self.next_offset.load(Ordering::Acquire) != UNKNOWN
    }

    /// How far PostgreSQL reflects the partition, as it changes.
    pub(crate) fn persisted(&self) -> watch::Receiver<Option<PersistedWatermark>> {
        self.persisted.subscribe()
    }

    fn moved(&self, watermark: &OutcomeWatermark) {
        self.next_src.store(watermark.next_src.number(), Ordering::Release);
        self.next_offset.store(watermark.next_outcome_offset.number(), Ordering::Release);
    }
}

impl Tails {
    /// The tail of a partition, if the topics have it and it knows its place.
    pub(crate) fn of(&self, partition: Partition) -> Option<Arc<TailState>> {
        self.entry(partition).filter(|tail| tail.knows_its_place())
    }

    fn entry(&self, partition: Partition) -> Option<Arc<TailState>> {
        self.partitions.read().get(partition.index()).cloned()
    }

    fn grow(&self, count: usize) {
        let mut partitions = self.partitions.write();
        while partitions.len() < count {
            partitions.push(Arc::default());
        }
    }
}

/// Starts both tails, each on a thread of its own.
pub(crate) fn start(
    context: &Context<Config>,
    connection: &Connection,
    topics: Topics,
    tails: &Arc<Tails>,
    waiters: &Arc<Waiters>,
    metrics: &Arc<ServiceMetrics>,
) -> Result<(), Ended> {
    let health = &context.health;
    let persisted = PersistedTail {
        topic: topics.persisted,
        connection: connection.clone(),
        tails: Arc::clone(tails),
        turn: health.watch_loop("persisted-tail"),
        ready: health.ready_condition("persisted", "coupon.persisted has not been read to its end"),
        shutdown: context.shutdown.clone(),
        caught_up: Arc::default(),
    };
    let outcomes = OutcomesTail {
        topic: topics.outcomes,
        connection: connection.clone(),
        tails: Arc::clone(tails),
        waiters: Arc::clone(waiters),
        metrics: Arc::clone(metrics),
        turn: Arc::new(health.watch_loop("outcomes-tail")),
        ready: health.ready_condition("outcomes", "coupon.outcomes has not been read to its end"),
        shutdown: context.shutdown.clone(),
        bases_known: Arc::clone(&persisted.caught_up),
        partitions: Vec::new(),
    };
    context.tasks.thread("persisted-tail", move || persisted.run())?;
    context.tasks.thread("outcomes-tail", move || outcomes.run())?;
    Ok(())
}

/// How a tail's turn ended.
enum Turn {
    GoOn,
    /// The set of partitions or the log itself has moved: assign anew.
    StartOver,
}

struct PersistedTail {
    topic: String,
    connection: Connection,
    tails: Arc<Tails>,
    turn: LoopTurn,
    ready: Condition,
    shutdown: Shutdown,
    caught_up: Arc<AtomicBool>,
}

impl PersistedTail {
    fn run(self) -> Result<(), Ended> {
        let Self { topic, connection, tails, turn, ready, shutdown, caught_up } = self;
        let topic = CompactedTopic {
            connection: &connection,
            name: &topic,
            purpose: "persisted tail",
            shutdown: &shutdown,
            turn: &turn,
            places: RefCell::default(),
        };
        let begin = |places: &[i64]| tails.grow(places.len());
        let at_end = |_: &Reader| {
            caught_up.store(true, Ordering::Release);
            ready.met();
        };
        keep_reading(&turn, &shutdown, || topic.read(begin, |record| take_persisted(&tails, record), at_end))
    }
}

fn take_persisted(tails: &Tails, record: &RecordView<'_>) {
    let Some(payload) = record.payload() else { return };
    match decode_persisted(payload) {
        Ok(watermark) => {
            if let Some(tail) = tails.entry(watermark.partition) {
                tail.persisted.send_replace(Some(watermark));
            }
        }
        Err(error) => {
            tracing::error!(
                runbook = "UpgradeAndRollback",
                partition = record.partition(),
                offset = record.offset(),
                "a watermark: {error}"
            );
        }
    }
}

struct OutcomesTail {
    topic: String,
    connection: Connection,
    tails: Arc<Tails>,
    waiters: Arc<Waiters>,
    metrics: Arc<ServiceMetrics>,
    turn: Arc<LoopTurn>,
    ready: Condition,
    shutdown: Shutdown,
    bases_known: Arc<AtomicBool>,
    partitions: Vec<TailedPartition>,
}

struct TailedPartition {
    partition: Partition,
    state: Arc<TailState>,
    watermark: OutcomeWatermark,
    halted: Option<HaltReason>,
}

impl OutcomesTail {
    fn run(mut self) -> Result<(), Ended> {
        let (turn, shutdown) = (Arc::clone(&self.turn), self.shutdown.clone());
        keep_reading(&turn, &shutdown, || self.read(&turn))
    }

    fn read(&mut self, turn: &LoopTurn) -> Result<(), KafkaError> {
        if !self.bases_known.load(Ordering::Acquire) {
            std::thread::park_timeout(POLL);
            return Ok(());
        }
        let reader = Reader::new(&self.connection, &self.topic, "outcomes tail")?;
        self.add_partitions(&reader)?;
        reader.assign_within(&self.bounds_to_read(&reader)?)?;
        let mut checked = Instant::now();
        while !self.shutdown.is_requested() {
            turn.turn();
            if let Turn::StartOver = self.drain(&reader)? {
                return Ok(());
            }
            if reader.is_at_end() {
                // Also where a partition stands still: all replicas halt at the same record, and look-ups still tell its users.
                self.ready.met();
            }
            if checked.elapsed() >= PARTITIONS_CHECK {
                checked = Instant::now();
                if self.pass_gaps() {
                    return Ok(());
                }
                if has_grown(&reader, self.partitions.len())? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes in partitions that were not there before, each with its base.
    fn add_partitions(&mut self, reader: &Reader) -> Result<(), KafkaError> {
        let count = reader.partition_count()?;
        self.tails.grow(usize::try_from(count).unwrap_or(0));
        let known = i32::try_from(self.partitions.len()).unwrap_or(i32::MAX);
        for partition in (known..count).filter_map(|number| Partition::new(number).ok()) {
            let Some(state) = self.tails.entry(partition) else { continue };
            let base = state.persisted.borrow().clone();
            let watermark = match base {
                Some(persisted) => watermark_of(&persisted),
                None if reader.bounds(partition.number())?.start == 0 => OutcomeWatermark::genesis(partition),
                None => {
                    let reason = "its outcomes no longer reach back to the beginning, and db-writer has not published a watermark yet";
                    return Err(KafkaError::Unreachable(format!("partition {partition}: {reason}")));
                }
            };
            state.moved(&watermark);
            self.metrics.tailing(partition);
            self.partitions.push(TailedPartition { partition, state, watermark, halted: None });
        }
        Ok(())
    }

    /// Where to read each partition that does not stand still.
    fn bounds_to_read(
        &mut self,
        reader: &Reader,
    ) -> Result<Vec<(i32, infrastructure_kafka::LogBounds)>, KafkaError> {
        let mut to_read = Vec::new();
        for tailed in &mut self.partitions {
            let found = reader.bounds(tailed.partition.number())?;
            let offset = |number| Offset::new(number).unwrap_or(Offset::ZERO);
            let bounds = LogBounds { start: offset(found.start), end: offset(found.end) };
            match tailed.watermark.start_in(bounds) {
                Ok(start) if tailed.halted.is_none() => {
                    // What retention took is not read again; only look-ups can find it.
                    tailed.watermark.next_outcome_offset = start;
                    tailed.state.moved(&tailed.watermark);
                    let log = infrastructure_kafka::LogBounds { start: start.number(), ..found };
                    to_read.push((tailed.partition.number(), log));
                }
                Ok(_) => {}
                Err(reason) => {
                    tailed.halt(reason, "the outcomes log ends before what was read of it", &self.metrics);
                }
            }
        }
        Ok(to_read)
    }

    fn drain(&mut self, reader: &Reader) -> Result<Turn, KafkaError> {
        let Self { partitions, waiters, metrics, .. } = self;
        let mut halted_one = false;
        let drained = reader.drain(RECORDS_PER_TURN, POLL, |record| {
            let index = usize::try_from(record.partition()).unwrap_or(usize::MAX);
            if let Some(tailed) = partitions.get_mut(index) {
                halted_one |= !tailed.take(&record, waiters, metrics);
            }
            ControlFlow::Continue(())
        });
        for tailed in partitions.iter() {
            metrics.watermark(tailed.partition, tailed.watermark.next_src.number());
        }
        match drained {
            // A partition that stands still is no longer read.
            Ok(_) if halted_one => Ok(Turn::StartOver),
            Ok(_) => Ok(Turn::GoOn),
            Err(ReadError::OutOfRange { .. }) => Ok(Turn::StartOver),
            Err(ReadError::Kafka(error)) => Err(error),
        }
    }

    /// Goes on behind gaps that PostgreSQL has come over meanwhile. True where there was one.
    fn pass_gaps(&mut self) -> bool {
        let mut passed = false;
        for tailed in &mut self.partitions {
            let persisted = tailed.state.persisted.borrow().clone();
            let Some(persisted) = persisted else { continue };
            if tailed.halted == Some(HaltReason::OffsetGap) && persisted.next_src > tailed.watermark.next_src
            {
                tailed.go_on_from(&persisted, &self.metrics);
                passed = true;
            }
        }
        passed
    }
}

impl TailedPartition {
    /// Takes a record; false where the partition stands still because of it.
    fn take(&mut self, record: &RecordView<'_>, waiters: &Waiters, metrics: &ServiceMetrics) -> bool {
        if self.halted.is_some() {
            return true;
        }
        let outcome = match decode_outcome(record.payload().unwrap_or_default()) {
            Ok(outcome) => outcome,
            Err(error) => {
                let reason = match error {
                    RecordError::NewerVersion { .. } => HaltReason::NewerVersion,
                    RecordError::Malformed(_) => HaltReason::ChainMismatch,
                };
                self.halt(reason, &format!("the outcome at {}: {error}", record.offset()), metrics);
                return false;
            }
        };
        let offset = Offset::new(record.offset()).unwrap_or(Offset::ZERO);
        if let Err(reason) = self.watermark.accept(offset, &outcome) {
            self.halt(reason, &format!("the outcome at {offset}"), metrics);
            return false;
        }
        // First the place, then the waiters: see above.
        self.state.moved(&self.watermark);
        tell(&outcome, waiters, record);
        true
    }

    fn halt(&mut self, reason: HaltReason, detail: &str, metrics: &ServiceMetrics) {
        if self.halted.is_none() {
            tracing::error!(runbook = "CouponPartitionHalted", partition = %self.partition, %reason, remedy = reason.remedy(),
                "the tail stands still, users are told by look-ups alone: {detail}");
        }
        self.halted = Some(reason);
        self.state.halted.send_replace(true);
        metrics.halted(self.partition, reason);
    }

    fn go_on_from(&mut self, persisted: &PersistedWatermark, metrics: &ServiceMetrics) {
        tracing::info!(partition = %self.partition, offset = %persisted.next_outcome_offset, "the tail goes on behind the gap");
        self.watermark = watermark_of(persisted);
        self.state.moved(&self.watermark);
        if let Some(reason) = self.halted.take() {
            metrics.lifted(self.partition, reason);
        }
        // Last: whoever looks things up meanwhile does so until the tail's new place is known.
        self.state.halted.send_replace(false);
    }
}

fn watermark_of(persisted: &PersistedWatermark) -> OutcomeWatermark {
    OutcomeWatermark {
        next_src: persisted.next_src,
        next_outcome_offset: persisted.next_outcome_offset,
        chain: persisted.chain,
    }
}

/// A line for each answer that somebody waits for.
fn told(answer: &ClaimAnswer, context: Option<TraceContext>) {
    tracing::trace!(
        claim.id = %answer.claim_id,
        code = answer.code.as_str(),
        trace_id = context.map(|context| tracing::field::display(context.trace_id_hex())),
        span_id = context.map(|context| tracing::field::display(context.span_id_hex())),
        "told"
    );
}

/// Tells those who wait. A copy of an earlier outcome says nothing wrong, so copies are told as well.
fn tell(outcome: &Outcome, waiters: &Waiters, record: &RecordView<'_>) {
    match &outcome.subject {
        Subject::Claim(claim) => {
            let answer = ClaimAnswer {
                claim_id: claim.claim_id,
                code: claim.code,
                is_final: claim.is_final,
                decided_offset: outcome.decided_offset,
                decided_at: outcome.appended_at,
                issue_no: claim.issue_no,
                user_nth: claim.user_nth,
                rank: claim.rank,
                granted_claim_id: claim.granted_claim_id,
            };
            waiters.tell(&claim.claim_id, || {
                let context = trace::of_record(record).map(|carried| carried.context);
                told(&answer, context);
                Told::Answer(answer, context)
            });
        }
        Subject::Invalid(invalid) => {
            if let Some(claim_id) = invalid.claim_id {
                waiters.tell(&claim_id, || Told::Parked(outcome.src_offset));
            }
        }
        Subject::Command(_) => {}
    }
}
