//! Work by partition: a thread for each partition that the group gives us, which starts over, waits, or stands still, and stops when the
//! partition goes to somebody else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coupon_domain::{HaltReason, Offset, Partition};
use infrastructure_kafka::{AssignmentHandler, KafkaError, Membership, ReadError};
use parking_lot::Mutex;

use crate::exit::Ended;
use crate::health::{Condition, Health, LoopTurn};
use crate::sections::OpsSection;
use crate::shutdown::Shutdown;
use crate::task::Tasks;

/// How long a worker waits before it looks again at what it waits for. Each look counts as a turn of its loop.
const RETRY: Duration = Duration::from_secs(1);
/// Where a halt may pass (a gap that is filled, a store that is put back) it is looked at again so much later.
const HALT_RETRY: Duration = Duration::from_secs(10);
/// How long a worker may take to finish its batch when its partition goes to somebody else. Later it only repeats what the other does.
const REVOKE_PATIENCE: Duration = Duration::from_secs(5);

/// Why a partition stands still.
#[derive(Debug)]
pub struct Halt {
    /// The named reason.
    pub reason: HaltReason,
    /// What was found, where.
    pub detail: String,
}

impl Halt {
    /// A halt.
    #[must_use]
    pub fn new(reason: HaltReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Why a worker is not at work.
#[derive(Debug)]
pub enum Interrupted {
    /// Look again in a second.
    Wait(String),
    /// Start over at once: what it read or wrote has moved under it.
    Restart(String),
    /// Stand still: only a person, a command or a release lifts it.
    Halt(Halt),
    /// The partition is no longer ours.
    Stopped,
    /// The process must end.
    Ended(Ended),
}

impl From<KafkaError> for Interrupted {
    fn from(error: KafkaError) -> Self {
        match error {
            KafkaError::Fatal(reason) => Self::Ended(Ended::Fatal(reason)),
            other => Self::Wait(other.to_string()),
        }
    }
}

impl From<ReadError> for Interrupted {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::OutOfRange { .. } => Self::Restart(error.to_string()),
            ReadError::Kafka(error) => error.into(),
        }
    }
}

impl From<Halt> for Interrupted {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl From<Ended> for Interrupted {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// What is done with a partition.
pub trait PartitionJob: Send + Sync + 'static {
    /// Works until something interrupts it. Called again after [`Interrupted::Wait`] and [`Interrupted::Restart`].
    fn run(&self, worker: &Worker) -> Result<Infallible, Interrupted>;

    /// The partition is ours from now on: its series begin.
    fn assigned(&self, partition: Partition);

    /// The partition stands still.
    fn halted(&self, partition: Partition, reason: HaltReason);

    /// It is tried again.
    fn lifted(&self, partition: Partition, reason: HaltReason);

    /// The partition is no longer ours: its series go.
    fn revoked(&self, partition: Partition);
}

/// A worker, as its job sees it.
pub struct Worker {
    partition: Partition,
    turn: LoopTurn,
    ready: Condition,
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicI64>,
}

impl Worker {
    /// Which partition.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// Proves that the loop turns.
    pub fn turn(&self) {
        self.turn.turn();
    }

    /// The partition is worked on from now on.
    pub fn is_ready(&self) {
        self.ready.met();
    }

    /// Everything before this offset is done; for lag figures.
    pub fn done_up_to(&self, next: Offset) {
        self.progress.store(next.number(), Ordering::Relaxed);
    }

    /// Ends the job where the partition is no longer ours.
    ///
    /// # Errors
    /// [`Interrupted::Stopped`].
    pub fn check_stop(&self) -> Result<(), Interrupted> {
        if self.stop.load(Ordering::Acquire) { Err(Interrupted::Stopped) } else { Ok(()) }
    }

    /// Runs a future to its end, turning the loop every second.
    ///
    /// # Errors
    /// [`Interrupted::Stopped`]: the partition is no longer ours; the future is dropped.
    pub fn block_on<T>(
        &self,
        runtime: &tokio::runtime::Handle,
        future: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        let mut future = std::pin::pin!(future);
        loop {
            let second = async { tokio::time::timeout(RETRY, future.as_mut()).await };
            if let Ok(output) = runtime.block_on(second) {
                self.turn();
                return Ok(output);
            }
            self.turn();
            self.check_stop()?;
        }
    }

    fn run(&self, job: &dyn PartitionJob) -> Result<(), Ended> {
        let partition = self.partition;
        loop {
            let Err(interrupted) = job.run(self);
            self.progress.store(-1, Ordering::Relaxed);
            match interrupted {
                Interrupted::Stopped => return Ok(()),
                Interrupted::Ended(ended) => return Err(ended),
                Interrupted::Restart(reason) => {
                    tracing::warn!(%partition, "the partition starts over: {reason}");
                    self.ready.unmet(reason);
                    self.turn();
                }
                Interrupted::Wait(reason) => {
                    tracing::warn!(%partition, "the partition waits: {reason}");
                    self.ready.unmet(reason);
                    if self.wait_or_stop(RETRY) {
                        return Ok(());
                    }
                }
                Interrupted::Halt(halt) => {
                    if self.stand_still(job, &halt) {
                        return Ok(());
                    }
                    job.lifted(partition, halt.reason);
                }
            }
            if self.check_stop().is_err() {
                return Ok(());
            }
        }
    }

    /// True where the worker was stopped meanwhile. Only what can pass without a restart is tried again.
    fn stand_still(&self, job: &dyn PartitionJob, halt: &Halt) -> bool {
        let (partition, reason, remedy) = (self.partition, halt.reason, halt.reason.remedy());
        tracing::error!(runbook = "CouponPartitionHalted", %partition, %reason, remedy, "the partition stands still: {}", halt.detail);
        self.ready.unmet(format!("halted, {reason}: {}; {remedy}", halt.detail));
        job.halted(partition, reason);
        if halt.reason.may_pass() {
            return self.wait_or_stop(HALT_RETRY);
        }
        while !self.wait_or_stop(RETRY) {}
        true
    }

    /// Waits; true where the worker was stopped meanwhile.
    fn wait_or_stop(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && self.check_stop().is_ok() {
            self.turn();
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.check_stop().is_err()
    }
}

struct Running {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicI64>,
    thread: JoinHandle<()>,
}

/// The workers of this process, seen from outside.
#[derive(Clone, Default)]
pub struct Workers(Arc<Mutex<BTreeMap<Partition, Running>>>);

impl Workers {
    /// How far each partition is done, for those that are being worked on.
    #[must_use]
    pub fn progress(&self) -> Vec<(Partition, Offset)> {
        let progress = |running: &Running| Offset::new(running.progress.load(Ordering::Relaxed)).ok();
        self.0
            .lock()
            .iter()
            .filter_map(|(partition, running)| Some((*partition, progress(running)?)))
            .collect()
    }
}

/// How often progress is committed, for lag figures only.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Commits progress until the process shall end, and then leaves the group: that revokes all partitions, and their workers stop after the
/// batch under way.
///
/// # Errors
/// [`Ended::Fatal`]: the membership ended by itself, or did not end in time.
pub async fn serve(
    shutdown: &Shutdown,
    membership: Membership,
    workers: &Workers,
    ops: &OpsSection,
) -> Result<(), Ended> {
    let mut commits = tokio::time::interval(COMMIT_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            _ = commits.tick() => {}
        }
        if membership.has_ended() {
            break;
        }
        for (partition, next) in workers.progress() {
            membership.commit(partition.number(), next.number());
        }
    }
    let patience = Duration::from_millis(ops.drain_ms_max.into());
    tokio::task::block_in_place(|| membership.leave(patience))
        .map_err(|error| Ended::Fatal(error.to_string()))
}

/// Starts and stops workers as the group shares out partitions.
pub struct PartitionWorkers {
    job: Arc<dyn PartitionJob>,
    workers: Workers,
    health: Health,
    tasks: Tasks,
    turn: LoopTurn,
    joined: Condition,
}

impl PartitionWorkers {
    /// Workers that do `job`.
    #[must_use]
    pub fn new(job: Arc<dyn PartitionJob>, health: &Health, tasks: &Tasks) -> Self {
        Self {
            job,
            workers: Workers::default(),
            health: health.clone(),
            tasks: tasks.clone(),
            turn: health.watch_loop("membership"),
            joined: health.ready_condition("membership", "the consumer group has not been joined yet"),
        }
    }

    /// The workers, for those who look at them from outside.
    #[must_use]
    pub fn workers(&self) -> Workers {
        self.workers.clone()
    }

    fn start(&self, number: i32) -> Result<(), Ended> {
        let partition = Partition::new(number).map_err(|error| Ended::Refused(error.to_string()))?;
        let name = format!("partition-{partition}");
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(-1)));
        let worker = Worker {
            partition,
            turn: self.health.watch_loop(name.as_str()),
            ready: self.health.ready_condition(&name, "starting"),
            stop: Arc::clone(&stop),
            progress: Arc::clone(&progress),
        };
        let job = Arc::clone(&self.job);
        job.assigned(partition);
        let thread = self.tasks.thread(&name, move || worker.run(job.as_ref()))?;
        self.workers.0.lock().insert(partition, Running { stop, progress, thread });
        Ok(())
    }
}

impl AssignmentHandler for PartitionWorkers {
    fn assigned(&mut self, partitions: &[i32]) {
        for number in partitions {
            if let Err(ended) = self.start(*number) {
                self.tasks.end(ended);
            }
        }
        self.joined.met();
    }

    fn revoked(&mut self, partitions: &[i32]) {
        let mut stopping = Vec::new();
        for partition in partitions.iter().filter_map(|number| Partition::new(*number).ok()) {
            if let Some(running) = self.workers.0.lock().remove(&partition) {
                running.stop.store(true, Ordering::Release);
                stopping.push((partition, running));
            }
        }
        let deadline = Instant::now() + REVOKE_PATIENCE;
        for (partition, running) in stopping {
            while !running.thread.is_finished() && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            if !running.thread.is_finished() {
                tracing::warn!(%partition, "given away in the middle of a batch; whatever it still does are copies");
            }
            self.job.revoked(partition);
        }
    }

    fn turn(&mut self) {
        self.turn.turn();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Script {
        runs: Mutex<Vec<i32>>,
        halted: Mutex<Vec<(Partition, HaltReason)>>,
        revoked: Mutex<Vec<Partition>>,
    }

    impl PartitionJob for Script {
        fn run(&self, worker: &Worker) -> Result<Infallible, Interrupted> {
            let number = worker.partition().number();
            self.runs.lock().push(number);
            match number {
                0 => loop {
                    worker.is_ready();
                    worker.done_up_to(Offset::new(7).unwrap());
                    worker.check_stop()?;
                    std::thread::yield_now();
                },
                1 if self.runs.lock().iter().filter(|run| **run == 1).count() == 1 => {
                    Err(Interrupted::Restart("the log moved".to_owned()))
                }
                1 => Err(Halt::new(HaltReason::OffsetGap, "a hole").into()),
                _ => Err(Ended::Fatal("broken".to_owned()).into()),
            }
        }

        fn assigned(&self, _: Partition) {}

        fn halted(&self, partition: Partition, reason: HaltReason) {
            self.halted.lock().push((partition, reason));
        }

        fn lifted(&self, _: Partition, _: HaltReason) {}

        fn revoked(&self, partition: Partition) {
            self.revoked.lock().push(partition);
        }
    }

    fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "the condition was never met");
            std::thread::yield_now();
        }
    }

    #[test]
    fn workers_start_halt_alone_and_stop_when_revoked() {
        let (script, health) = (Arc::new(Script::default()), Health::new(Duration::from_secs(15)));
        let (tasks, _ends) = Tasks::new();
        let mut workers = PartitionWorkers::new(Arc::<Script>::clone(&script), &health, &tasks);
        assert!(health.ready().unwrap_err()[0].starts_with("membership"));
        workers.assigned(&[0, 1]);
        let progress = workers.workers();
        until(|| progress.progress() == [(Partition::new(0).unwrap(), Offset::new(7).unwrap())]);
        until(|| script.halted.lock().len() == 1);
        assert_eq!(*script.halted.lock(), [(Partition::new(1).unwrap(), HaltReason::OffsetGap)]);
        let reasons = health.ready().unwrap_err();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert!(reasons[0].contains("halted, offset_gap: a hole; restart stock-consumer"), "{reasons:?}");
        workers.revoked(&[0, 1]);
        assert_eq!(script.revoked.lock().len(), 2);
        assert!(progress.progress().is_empty());
        until(|| health.ready().is_ok());
    }

    #[test]
    fn a_worker_that_cannot_go_on_ends_the_process() {
        let (tasks, mut ends) = Tasks::new();
        let health = Health::new(Duration::from_secs(15));
        let mut workers = PartitionWorkers::new(Arc::new(Script::default()), &health, &tasks);
        workers.assigned(&[2]);
        assert_eq!(ends.blocking_recv().unwrap().to_string(), "broken");
    }
}
