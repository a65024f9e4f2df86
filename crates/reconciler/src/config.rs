//! The reconciler's configuration.

use infrastructure_kafka::KafkaSection;
use infrastructure_postgres::PostgresSection;
use infrastructure_redis::RedisSection;
use serde::{Deserialize, Serialize};
use service_runtime::{LogSection, OpsSection, Problem, Profile, RuntimeSections, ServiceConfig};

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
    /// Kafka.
    pub kafka: KafkaSection,
    /// Redis.
    pub redis: RedisSection,
    /// PostgreSQL.
    pub postgres: PostgresSection,
    /// Auditing.
    pub reconcile: ReconcileSection,
    /// What is shown.
    pub metrics: MetricsSection,
}

/// The `reconcile` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReconcileSection {
    /// How often lag is looked at, and least time between two passes of the audit, in seconds.
    pub interval_s: u32,
    /// Largest share of time that passes take, in percent: after a long one the next waits longer.
    pub busy_percent_max: u32,
    /// How often a pass begins anew with the first record of the logs, in seconds; in between a pass goes on from the last one.
    pub recount_s: u32,
    /// A pass that takes longer, in seconds, fails `/livez`.
    pub pass_s_max: u32,
}

impl Default for ReconcileSection {
    fn default() -> Self {
        Self { interval_s: 10, busy_percent_max: 25, recount_s: 21_600, pass_s_max: 3_600 }
    }
}

/// The `metrics` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSection {
    /// Most coupons with series of their own; the others count together as `_other`.
    pub coupons_max: u32,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { coupons_max: 100 }
    }
}

impl ServiceConfig for Config {
    fn runtime(&self) -> RuntimeSections<'_> {
        RuntimeSections { profile: self.profile, ops: &self.ops, log: &self.log, trace: None }
    }

    fn problems(&self) -> Vec<Problem> {
        let production = self.profile.is_production();
        let mut problems = self.kafka.problems(production);
        let stores = [self.redis.problems(production), self.postgres.problems(production)];
        problems.extend(stores.into_iter().flatten().map(|(path, problem)| Problem { path, problem }));
        let reconcile = &self.reconcile;
        let ranges = [
            ("interval_s", reconcile.interval_s, 1, 3_600),
            ("busy_percent_max", reconcile.busy_percent_max, 1, 100),
            ("recount_s", reconcile.recount_s, 1, 604_800),
            ("pass_s_max", reconcile.pass_s_max, 60, 86_400),
        ];
        problems.extend(Problem::out_of_range("reconcile", &ranges));
        problems
            .extend(Problem::out_of_range("metrics", &[("coupons_max", self.metrics.coupons_max, 0, 300)]));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let config = Config {
            reconcile: ReconcileSection { interval_s: 0, busy_percent_max: 101, recount_s: 0, pass_s_max: 1 },
            metrics: MetricsSection { coupons_max: 301 },
            ..Config::default()
        };
        let problems: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        for path in [
            "reconcile.interval_s",
            "reconcile.busy_percent_max",
            "reconcile.recount_s",
            "reconcile.pass_s_max",
            "metrics.coupons_max",
        ] {
            assert!(problems.iter().any(|found| found == path), "{path}: {problems:?}");
        }
    }
}
