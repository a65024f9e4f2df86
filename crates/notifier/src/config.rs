//! The service's configuration.

use infrastructure_http::{AuthSection, HttpSection};
use infrastructure_kafka::KafkaSection;
use infrastructure_postgres::PostgresSection;
use infrastructure_redis::RedisSection;
use serde::{Deserialize, Serialize};
use service_runtime::{
    KeysSection, LogSection, OpsSection, Problem, Profile, RuntimeSections, ServiceConfig, TraceSection,
};

/// Everything that can be set.
#[derive(Clone, Serialize, Deserialize)]
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
    /// The users' listener.
    pub http: HttpSection,
    /// Kafka.
    pub kafka: KafkaSection,
    /// Redis.
    pub redis: RedisSection,
    /// PostgreSQL.
    pub postgres: PostgresSection,
    /// Tokens.
    pub auth: AuthSection,
    /// The secrets behind claim ids and stream tokens.
    pub keys: KeysSection,
    /// Telling.
    pub notify: NotifySection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            ops: OpsSection { drain_ms_max: 10_000, ..OpsSection::default() },
            log: LogSection::default(),
            trace: TraceSection::default(),
            http: HttpSection::default(),
            kafka: KafkaSection::default(),
            redis: RedisSection::default(),
            postgres: PostgresSection::default(),
            auth: AuthSection::default(),
            keys: KeysSection::default(),
            notify: NotifySection::default(),
        }
    }
}

/// The `notify` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifySection {
    /// Most event streams at once. About 14 KiB of memory each. Beyond it: 503.
    pub streams_max: u32,
    /// Most clients waiting for an answer at once, streams included. Beyond it: 503.
    pub waiters_max: u32,
    /// Most streams and waits for one claim at once; beyond it the one who came first gives way.
    pub waiters_per_claim_max: u32,
    /// Most streams and waits of one user at once, as far as they come with the user's token. Beyond it: 429.
    pub waiters_per_user_max: u32,
    /// Requests per second that one user (or one claim's stream token) may send, on average.
    pub user_requests_per_s: u32,
    /// Requests that one user may send at once.
    pub user_requests_burst: u32,
    /// Most users whose rate is remembered at once. Beyond it: 503.
    pub users_remembered_max: u32,
    /// Longest life of a stream, in s: then it ends with a hint to come back.
    pub stream_s_max: u32,
    /// Longest wait that `Prefer: wait=n` gets, in s.
    pub wait_s_max: u32,
    /// A stream that has nothing to say sends a comment this often, in ms: proxies cut idle connections.
    pub heartbeat_ms: u32,
    /// While nothing is found, the stores are looked at again this often, in ms.
    pub look_up_interval_ms: u32,
    /// When the process ends, streams are told to come back within this time, spread evenly, in ms.
    pub retry_spread_ms: u32,
}

impl Default for NotifySection {
    fn default() -> Self {
        Self {
            streams_max: 50_000,
            waiters_max: 100_000,
            waiters_per_claim_max: 3,
            waiters_per_user_max: 20,
            user_requests_per_s: 10,
            user_requests_burst: 20,
            users_remembered_max: 2_000_000,
            stream_s_max: 300,
            wait_s_max: 30,
            heartbeat_ms: 15_000,
            look_up_interval_ms: 1_000,
            retry_spread_ms: 5_000,
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
        let sections = [
            self.http.problems("http"),
            self.redis.problems(production),
            self.postgres.problems(production),
            self.auth.problems(production),
        ];
        problems.extend(sections.into_iter().flatten().map(|(path, problem)| Problem { path, problem }));
        problems.extend(self.keys.ring().err().into_iter().flatten());
        let notify = &self.notify;
        let ranges = [
            ("streams_max", notify.streams_max, 1, 1_000_000),
            ("waiters_max", notify.waiters_max, 1, 1_000_000),
            ("waiters_per_claim_max", notify.waiters_per_claim_max, 1, 1_000),
            ("waiters_per_user_max", notify.waiters_per_user_max, 1, 100_000),
            ("user_requests_per_s", notify.user_requests_per_s, 1, 10_000),
            ("user_requests_burst", notify.user_requests_burst, 1, 10_000),
            ("users_remembered_max", notify.users_remembered_max, 1, 100_000_000),
            ("stream_s_max", notify.stream_s_max, 5, 86_400),
            ("wait_s_max", notify.wait_s_max, 1, 300),
            ("heartbeat_ms", notify.heartbeat_ms, 100, 60_000),
            ("look_up_interval_ms", notify.look_up_interval_ms, 50, 60_000),
            ("retry_spread_ms", notify.retry_spread_ms, 0, 60_000),
        ];
        problems.extend(Problem::out_of_range("notify", &ranges));
        problems
    }
}
