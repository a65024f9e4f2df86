//! What every worker of the service shares, and the job it does: start, take over, decide.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use coupon_domain::{HaltReason, Offset, Partition};
use infrastructure_kafka::{Connection, DeadLetterWriter, Lines, Producer};
use infrastructure_redis::{ViewMaintenance, ViewWriter};
use parking_lot::Mutex;
use service_runtime::limit::QueueByPartition;
use service_runtime::partition::{Interrupted, PartitionJob, Worker};
use service_runtime::{Context, Limit};

use crate::config::Config;
use crate::decide::Line;
use crate::metrics::ServiceMetrics;
use crate::resume::resume;
use crate::state::publish_halt;

/// What all partitions share.
pub(crate) struct Shared {
    pub(crate) context: Context<Config>,
    pub(crate) connection: Connection,
    /// `coupon.claims`, for all partitions.
    pub(crate) claims: Lines,
    /// `coupon.outcomes`, for all partitions.
    pub(crate) outcomes: Lines,
    /// `coupon.state`, for all partitions.
    pub(crate) states: Lines,
    pub(crate) producer: Producer,
    pub(crate) dead_letters: DeadLetterWriter,
    pub(crate) claims_topic: String,
    pub(crate) outcomes_topic: String,
    pub(crate) state_topic: String,
    pub(crate) view_writer: ViewWriter,
    pub(crate) view_maintenance: ViewMaintenance,
    pub(crate) view_deferrals: QueueByPartition,
    pub(crate) checkpoint_loads: Limit,
    /// What was published of each partition: its first undecided offset.
    pub(crate) decided: Mutex<HashMap<Partition, Offset>>,
    /// Redis' `maxmemory-policy`, as it said last.
    pub(crate) redis_policy: Mutex<Option<String>>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) metrics: ServiceMetrics,
}

/// A worker at its partition.
#[derive(Clone, Copy)]
pub(crate) struct Desk<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) worker: &'a Worker,
}

impl Desk<'_> {
    pub(crate) fn partition(&self) -> Partition {
        self.worker.partition()
    }
}

/// Deciding a partition.
pub(crate) struct Decider(pub(crate) Arc<Shared>);

impl PartitionJob for Decider {
    fn run(&self, worker: &Worker) -> Result<Infallible, Interrupted> {
        let desk = Desk { shared: &self.0, worker };
        let mut line = Line::new(desk, resume(desk)?);
        line.take_over()?;
        tracing::info!(partition = %worker.partition(), offset = %line.next_src(), "deciding");
        worker.is_ready();
        loop {
            worker.check_stop()?;
            worker.turn();
            line.turn()?;
            worker.done_up_to(line.next_src());
        }
    }

    fn assigned(&self, partition: Partition) {
        self.0.metrics.assigned(partition);
    }

    fn halted(&self, partition: Partition, reason: HaltReason) {
        self.0.metrics.halted(partition, reason);
        publish_halt(&self.0, partition, reason);
    }

    fn lifted(&self, partition: Partition, reason: HaltReason) {
        self.0.metrics.lifted(partition, reason);
    }

    fn revoked(&self, partition: Partition) {
        self.0.metrics.revoked(partition);
    }
}
