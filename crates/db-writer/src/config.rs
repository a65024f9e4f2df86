//! The service's configuration.

use infrastructure_kafka::KafkaSection;
use infrastructure_postgres::PostgresSection;
use serde::{Deserialize, Serialize};
use service_runtime::{
    KeysSection, LogSection, OpsSection, Problem, Profile, RuntimeSections, ServiceConfig, TraceSection,
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
    /// PostgreSQL.
    pub postgres: PostgresSection,
    /// The secrets behind coupon codes.
    pub keys: KeysSection,
    /// Writing.
    pub write: WriteSection,
}

/// The `write` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WriteSection {
    /// Most outcomes in a batch.
    pub batch_records_max: u32,
    /// Most batches that are prepared while one is being committed.
    pub batches_waiting_max: u32,
    /// A partition that stands still looks at its own row, and raises its beat, this often, in ms.
    pub idle_interval_ms: u32,
    /// A partition's watermark is published at most this often, in ms.
    pub persisted_interval_ms: u32,
}

impl Default for WriteSection {
    fn default() -> Self {
        Self {
            batch_records_max: 5_000,
            batches_waiting_max: 2,
            idle_interval_ms: 10_000,
            persisted_interval_ms: 250,
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
        let postgres = self.postgres.problems(production);
        problems.extend(postgres.into_iter().map(|(path, problem)| Problem { path, problem }));
        problems.extend(self.keys.ring().err().into_iter().flatten());
        let write = &self.write;
        let ranges = [
            ("batch_records_max", write.batch_records_max, 1, 50_000),
            ("batches_waiting_max", write.batches_waiting_max, 1, 100),
            ("idle_interval_ms", write.idle_interval_ms, 500, 60_000),
            ("persisted_interval_ms", write.persisted_interval_ms, 0, 10_000),
        ];
        problems.extend(Problem::out_of_range("write", &ranges));
        problems
    }
}
