//! Writing a partition: connects, finds its own place, commits batch after batch, and keeps an eye on its row while nothing happens.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use coupon_domain::accept::LogBounds;
use coupon_domain::wire::PersistedWatermark;
use coupon_domain::{HaltReason, KeyRing, Offset, OutcomeWatermark, Partition};
use infrastructure_kafka::{Lines, Producer};
use infrastructure_postgres::batch::{Written, write_command, write_outcomes};
use infrastructure_postgres::progress::{self, Progress};
use infrastructure_postgres::shared::Lease;
use infrastructure_postgres::{PostgresError, SharedConnections, closures, coupons};
use service_runtime::limit::QueueByPartition;
use service_runtime::partition::{Halt, Interrupted, PartitionJob, Worker};
use service_runtime::trace::{NewSpan, Span, SpanKind};
use service_runtime::{Context, Ended};

use crate::config::Config;
use crate::connections::Connections;
use crate::handover::{self, Batches};
use crate::metrics::{BEAT, LOAD_PROGRESS, ServiceMetrics, WRITE_BATCH};
use crate::persisted::Publisher;
use crate::prepare::{Prepared, Preparer};
use crate::restored::{self, Published};

/// How long the writer waits for a batch before its loop turns.
const TURN: Duration = Duration::from_secs(1);

/// What all partitions share.
pub(crate) struct Shared {
    pub(crate) context: Context<Config>,
    /// `coupon.outcomes`, for all partitions.
    pub(crate) outcomes: Lines,
    /// `coupon.persisted`, for all partitions.
    pub(crate) persisted: Lines,
    pub(crate) postgres: Arc<SharedConnections>,
    pub(crate) producer: Producer,
    pub(crate) handover: QueueByPartition,
    pub(crate) persisted_topic: String,
    pub(crate) published: Published,
    pub(crate) keys: KeyRing,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) metrics: ServiceMetrics,
}

/// Writing partitions.
pub(crate) struct Writer(pub(crate) Arc<Shared>);

impl PartitionJob for Writer {
    fn run(&self, worker: &Worker) -> Result<Infallible, Interrupted> {
        let (mut session, preparer) = Session::open(&self.0, worker)?;
        let waiting_max = self.0.context.config.write.batches_waiting_max;
        let (handover, batches) = handover::queue(waiting_max, self.0.handover.of(worker.partition()));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let preparing =
            self.0.context.tasks.thread(&format!("prepare-{}", worker.partition()), move || {
                preparer.run(&handover, &stopped);
                Ok(())
            })?;
        worker.is_ready();
        let Err(interrupted) = session.write_all(&batches);
        stop.store(true, Ordering::Release);
        drop(batches);
        while !preparing.is_finished() {
            worker.turn();
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Err(interrupted)
    }

    fn assigned(&self, partition: Partition) {
        self.0.metrics.assigned(partition);
    }

    fn halted(&self, partition: Partition, reason: HaltReason) {
        self.0.metrics.halted(partition, reason);
    }

    fn lifted(&self, partition: Partition, reason: HaltReason) {
        self.0.metrics.lifted(partition, reason);
    }

    fn revoked(&self, partition: Partition) {
        self.0.metrics.revoked(partition);
    }
}

/// Writing from one look at the partition's place on, for as long as nothing moves it but this.
struct Session<'a> {
    shared: &'a Shared,
    worker: &'a Worker,
    connections: Connections<'a>,
    system_identifier: String,
    watermark: OutcomeWatermark,
    beat: i64,
    publisher: Publisher,
    last_activity: Instant,
}

impl<'a> Session<'a> {
    /// Connects, looks whether the database was put back in time, loads the partition's own place, and prepares from there on.
    fn open(shared: &'a Shared, worker: &'a Worker) -> Result<(Self, Preparer), Interrupted> {
        let partition = worker.partition();
        let mut connections = Connections::new(shared, worker);
        let mut lease = connections.lease()?;
        let connection = lease.connection();
        let opening = async {
            // First, so that a partition that is not there yet has a beat that can be raised.
            progress::load_or_create(connection, partition).await?;
            let store = restored::examine(connection, connections.published()).await?;
            let progress = progress::load_or_create(connection, partition).await?;
            // What is published is raised by whoever publishes it: no two records have the same beat.
            let beat = progress::beat(connection, partition, &progress.watermark).await?;
            let coupons = coupons::in_partition(connection, partition).await?;
            Ok((store, progress, beat, coupons))
        };
        let opening = shared.metrics.postgres.measure(LOAD_PROGRESS, opening);
        let opened = worker.block_on(&shared.runtime, opening)?;
        connections.was_examined(&lease);
        lease.give_back_after(opened.as_ref());
        let (store, progress, beat, coupons) = opened.map_err(interruption)?;
        shared.metrics.redemptions_closed.set(i64::from(store.closure.is_some()));
        let beat =
            beat.ok_or_else(|| Interrupted::Restart("the watermark moved under the look".to_owned()))?;

        let reader = shared.outcomes.reader(partition.number());
        let found = reader.bounds(partition.number())?;
        let offset = |number| Offset::new(number).map_err(|error| Interrupted::Wait(error.to_string()));
        let bounds = LogBounds { start: offset(found.start)?, end: offset(found.end)? };
        let start = progress.watermark.start_in(bounds).map_err(|reason| {
            let place = progress.watermark.next_outcome_offset;
            Halt::new(
                reason,
                format!("PostgreSQL has read up to {place}, but the outcomes log ends at {}", bounds.end),
            )
        })?;
        let to_read = infrastructure_kafka::LogBounds { start: start.number(), ..found };
        reader.assign_within(&[(partition.number(), to_read)])?;
        tracing::info!(%partition, offset = %start, next_src = %progress.watermark.next_src, "writing");

        let config = &shared.context.config.write;
        let preparer = Preparer {
            partition,
            reader,
            keys: shared.keys.clone(),
            definitions: coupons.into_iter().map(|state| (state.coupon_id, state.definition)).collect(),
            watermark: progress.watermark,
            gap: None,
            last_record: progress.last_record,
            batch_records_max: usize::try_from(config.batch_records_max).unwrap_or(1),
            drain_seconds: shared.metrics.drain_seconds.clone(),
            tracer: shared.context.tracer.clone(),
        };
        let publisher = Publisher::start(
            &shared.runtime,
            &shared.context.tasks,
            shared.producer.clone(),
            shared.persisted_topic.clone(),
            Duration::from_millis(shared.context.config.write.persisted_interval_ms.into()),
        );
        let session = Self {
            connections,
            system_identifier: store.stand.system_identifier,
            watermark: progress.watermark,
            beat,
            publisher,
            last_activity: Instant::now(),
            shared,
            worker,
        };
        session.publish();
        Ok((session, preparer))
    }

    fn write_all(&mut self, batches: &Batches) -> Result<Infallible, Interrupted> {
        let idle = Duration::from_millis(self.shared.context.config.write.idle_interval_ms.into());
        loop {
            self.worker.turn();
            self.worker.check_stop()?;
            match batches.next_within(TURN) {
                Ok(Prepared::Interrupted(interrupted)) => return Err(self.reconsider(interrupted)?),
                Ok(prepared) => self.write(prepared)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Ended::Fatal("the preparing thread ended".to_owned()).into());
                }
            }
            if self.last_activity.elapsed() >= idle {
                self.beat()?;
            }
        }
    }

    fn write(&mut self, prepared: Prepared) -> Result<(), Interrupted> {
        let (shared, started) = (self.shared, Instant::now());
        let mut span = self.begin_span(&prepared);
        let mut lease = self.lease()?;
        let (connection, postgres) = (lease.connection(), &shared.metrics.postgres);
        let (written, to) = match &prepared {
            Prepared::Outcomes { step, rows, .. } => {
                let writing = postgres.measure(WRITE_BATCH, write_outcomes(connection, step, rows));
                (self.worker.block_on(&shared.runtime, writing)?, step.to)
            }
            Prepared::Command { step, outcome } => {
                let (src_offset, appended_at, command, state) = outcome.as_ref();
                let writing = write_command(connection, step, *src_offset, *appended_at, command, state);
                let writing = postgres.measure(WRITE_BATCH, writing);
                (self.worker.block_on(&shared.runtime, writing)?, step.to)
            }
            Prepared::Interrupted(_) => return Ok(()),
        };
        lease.give_back_after(written.as_ref());
        if let Err(error) = &written {
            span.failed(if error.is_passing() { "unreachable" } else { "refused" });
        }
        match written.map_err(interruption)? {
            Written::Conflict => {
                span.failed("conflict");
                shared.metrics.conflicts.inc();
                let reason = "the watermark was moved by somebody else, or the database went back in time";
                Err(Interrupted::Restart(reason.to_owned()))
            }
            Written::Committed { beat } => {
                let took = started.elapsed();
                shared.metrics.write_seconds.observe(took.as_secs_f64());
                tracing::debug!(partition = %self.worker.partition(), offset = %to.next_outcome_offset,
                    duration_ms = took.as_secs_f64() * 1_000.0, "a batch is committed");
                self.count(&prepared);
                self.moved(to, beat)
            }
        }
    }

    /// The span of a batch: linked to the traces of the claims in it. Where it is one claim alone, its span is the batch's parent.
    fn begin_span(&self, prepared: &Prepared) -> Span {
        let Prepared::Outcomes { rows, traces, .. } = prepared else { return Span::none() };
        if traces.is_empty() {
            return Span::none();
        }
        let links: Vec<_> = traces.iter().map(|carried| carried.context).collect();
        let parent = traces.first().filter(|_| rows.claims() == 1);
        let new = NewSpan { name: "write batch", kind: SpanKind::Consumer, parent, links: &links };
        let mut span = self.shared.context.tracer.begin(new);
        span.note("partition", || self.worker.partition().to_string());
        span.note("claims", || rows.claims().to_string());
        span
    }

    /// A connection to write through. Through one that this partition has not used yet it first looks at its own place and at the store's: a
    /// database that was put back in time is met by a new connection.
    fn lease(&mut self) -> Result<Lease, Interrupted> {
        let mut lease = self.connections.lease()?;
        if self.connections.is_examined(&lease) {
            return Ok(lease);
        }
        let (partition, published) = (self.worker.partition(), self.connections.published());
        let connection = lease.connection();
        let examining = async {
            let store = restored::examine(connection, published).await?;
            Ok((store, progress::load(connection, partition).await?))
        };
        let examining = self.shared.metrics.postgres.measure(LOAD_PROGRESS, examining);
        let examined = self.worker.block_on(&self.shared.runtime, examining)?;
        let (store, progress) = match examined {
            Ok(examined) => examined,
            Err(error) => {
                lease.give_back_after(Err::<(), _>(&error));
                return Err(interruption(error));
            }
        };
        self.shared.metrics.redemptions_closed.set(i64::from(store.closure.is_some()));
        let is_as_it_was_left = store.stand.system_identifier == self.system_identifier
            && progress.is_some_and(|found| found.watermark == self.watermark && found.beat >= self.beat);
        if !is_as_it_was_left {
            lease.give_back();
            return Err(Interrupted::Restart("a new connection shows another watermark".to_owned()));
        }
        self.connections.was_examined(&lease);
        Ok(lease)
    }

    /// Behind a write. A beat that did not rise was given by another database than the one before, though the connection is the same: whoever
    /// starts over compares.
    fn moved(&mut self, watermark: OutcomeWatermark, beat: i64) -> Result<(), Interrupted> {
        if beat <= self.beat {
            return Err(Interrupted::Restart(format!("beat {} was followed by {beat}", self.beat)));
        }
        self.watermark = watermark;
        self.beat = beat;
        self.last_activity = Instant::now();
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let partition = self.worker.partition();
        let OutcomeWatermark { next_src, next_outcome_offset, chain } = self.watermark;
        self.worker.done_up_to(next_outcome_offset);
        self.shared.metrics.persisted(partition, next_src.number());
        let watermark = PersistedWatermark {
            partition,
            next_src,
            next_outcome_offset,
            chain,
            system_identifier: self.system_identifier.clone(),
            beat: self.beat,
            stamp: Some(rand::random()),
        };
        self.shared.published.will_see(&watermark);
        self.publisher.publish(watermark);
    }

    fn count(&self, prepared: &Prepared) {
        let metrics = &self.shared.metrics;
        let now = self.shared.context.clock.now().ms();
        match prepared {
            Prepared::Outcomes { rows, appended_at_ms, copies, .. } => {
                metrics.claims_written.inc_by(rows.claims().try_into().unwrap_or(0));
                metrics.coupons_written.inc_by(rows.issued().try_into().unwrap_or(0));
                metrics.copies_skipped.inc_by(*copies);
                metrics.batch_records.observe(u32::try_from(rows.claims()).unwrap_or(u32::MAX).into());
                for appended_at in appended_at_ms {
                    let elapsed = Duration::from_millis(u64::try_from(now - appended_at).unwrap_or(0));
                    metrics.claim_to_persisted_seconds.observe(elapsed.as_secs_f64());
                }
            }
            Prepared::Command { .. } => {
                metrics.commands_written.inc();
                metrics.batch_records.observe(1.0);
            }
            Prepared::Interrupted(_) => {}
        }
    }

    /// While nothing happens: is the row still as it was left? A database that was put back in time says less than it did.
    fn beat(&mut self) -> Result<(), Interrupted> {
        let (partition, watermark) = (self.worker.partition(), self.watermark);
        let mut lease = self.lease()?;
        let connection = lease.connection();
        let raising = async {
            let beat = progress::beat(connection, partition, &watermark).await?;
            Ok((beat, closures::standing(connection.as_pooled()).await?))
        };
        let raising = self.shared.metrics.postgres.measure(BEAT, raising);
        let raised = self.worker.block_on(&self.shared.runtime, raising)?;
        lease.give_back_after(raised.as_ref());
        let (beat, closure) = raised.map_err(interruption)?;
        self.shared.metrics.redemptions_closed.set(i64::from(closure.is_some()));
        match beat {
            Some(beat) => self.moved(watermark, beat),
            None => Err(Interrupted::Restart("the watermark is not where it was left".to_owned())),
        }
    }

    /// Before a gap is believed, the row is read again: it may be the database that went back, not the log that lost something.
    fn reconsider(&mut self, interrupted: Interrupted) -> Result<Interrupted, Interrupted> {
        if !matches!(interrupted, Interrupted::Halt(_)) {
            return Ok(interrupted);
        }
        let partition = self.worker.partition();
        let mut lease = self.lease()?;
        let loading = progress::load(lease.connection(), partition);
        let loading = self.shared.metrics.postgres.measure(LOAD_PROGRESS, loading);
        let loaded = self.worker.block_on(&self.shared.runtime, loading)?;
        lease.give_back_after(loaded.as_ref());
        let found: Option<Progress> = loaded.map_err(interruption)?;
        match found {
            Some(progress) if progress.watermark == self.watermark => Ok(interrupted),
            _ => Ok(Interrupted::Restart("the watermark is not where it was left".to_owned())),
        }
    }
}

/// What an error of PostgreSQL means for the partition. A constraint's refusal is never skipped.
pub(crate) fn interruption(error: PostgresError) -> Interrupted {
    match error {
        PostgresError::Constraint { .. } | PostgresError::Torn(_) => {
            Interrupted::Halt(Halt::new(HaltReason::Constraint, error.to_string()))
        }
        PostgresError::Unreachable(_) | PostgresError::Timeout(_) | PostgresError::Schema(_) => {
            Interrupted::Wait(error.to_string())
        }
    }
}
