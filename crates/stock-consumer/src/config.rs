//! The service's configuration.

use infrastructure_kafka::KafkaSection;
use infrastructure_postgres::PostgresSection;
use infrastructure_redis::RedisSection;
use serde::{Deserialize, Serialize};
use service_runtime::{
    LogSection, OpsSection, Problem, Profile, RuntimeSections, ServiceConfig, TraceSection,
};

/// Everything that can be set.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What the installation is for.
    pub profile: Profile,
    /// Probes and metrics.
    pub ops: OpsSection,
    /// Logs.
    pub log: LogSection,
    /// Traces.
    pub trace: TraceSection,
    /// Kafka.
    pub kafka: KafkaSection,
    /// Redis.
    pub redis: RedisSection,
    /// PostgreSQL.
    pub postgres: PostgresSection,
    /// Deciding.
    pub decide: DecideSection,
}

/// The `decide` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecideSection {
    /// Most records in a batch: what is decided before its outcomes are awaited.
    pub batch_records_max: u32,
    /// A coupon whose decided offset alone has moved is published again at most this often, in ms.
    pub state_interval_ms: u32,
    /// Every live coupon's state and view are refreshed at least this often, in ms.
    pub refresh_interval_ms: u32,
    /// Most deferrals waiting for the view; beyond it the oldest are dropped (they are found in PostgreSQL).
    pub view_deferrals_max: u32,
    /// Most partitions whose checkpoint is read from PostgreSQL at the same time; the others wait for their turn.
    pub checkpoint_loads_max: u32,
    /// Most unreadable records in a row; one more halts the partition. So many may have been parked by then.
    pub unreadable_consecutive_max: u32,
    /// Largest share of unreadable records among a thousand, in percent; beyond it the partition halts. 100: no brake on the share.
    pub unreadable_percent_max: u32,
    /// Most coupons with series of their own in the metrics; the others count together as `_other`.
    pub metrics_coupons_max: u32,
}

impl Default for DecideSection {
    fn default() -> Self {
        Self {
            batch_records_max: 5_000,
            state_interval_ms: 200,
            refresh_interval_ms: 10_000,
            view_deferrals_max: 10_000,
            checkpoint_loads_max: 2,
            unreadable_consecutive_max: 100,
            unreadable_percent_max: 50,
            metrics_coupons_max: 100,
        }
    }
}

impl ServiceConfig for Config {
    fn runtime(&self) -> RuntimeSections<'_> {
        RuntimeSections { profile: self.profile, ops: &self.ops, log: &self.log, trace: Some(&self.trace) }
    }

    fn problems(&self) -> Vec<Problem> {
        let production = self.profile.is_production();
        let mut problems = self.kafka.problems(production);
        let stores = [self.redis.problems(production), self.postgres.problems(production)];
        problems.extend(stores.into_iter().flatten().map(|(path, problem)| Problem { path, problem }));
        let decide = &self.decide;
        let ranges = [
            ("batch_records_max", decide.batch_records_max, 1, 100_000),
            ("state_interval_ms", decide.state_interval_ms, 10, 10_000),
            ("refresh_interval_ms", decide.refresh_interval_ms, 500, 60_000),
            ("view_deferrals_max", decide.view_deferrals_max, 0, 1_000_000),
            ("checkpoint_loads_max", decide.checkpoint_loads_max, 1, 100),
            ("unreadable_consecutive_max", decide.unreadable_consecutive_max, 1, 100_000_000),
            ("unreadable_percent_max", decide.unreadable_percent_max, 1, 100),
            ("metrics_coupons_max", decide.metrics_coupons_max, 0, 1_000),
        ];
        problems.extend(Problem::out_of_range("decide", &ranges));
        problems
    }
}
