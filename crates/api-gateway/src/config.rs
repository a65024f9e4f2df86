//! The service's configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use coupon_domain::{KeyId, KeyRing};
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
    /// The operators' listener.
    pub admin: HttpSection,
    /// Kafka.
    pub kafka: KafkaSection,
    /// Redis.
    pub redis: RedisSection,
    /// PostgreSQL.
    pub postgres: PostgresSection,
    /// Tokens.
    pub auth: AuthSection,
    /// The secrets behind claim ids and coupon codes.
    pub keys: GatewayKeysSection,
    /// Taking claims.
    pub claims: ClaimsSection,
    /// Wallets and redemptions.
    pub wallet: WalletSection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            ops: OpsSection { drain_ms_max: 10_000, ..OpsSection::default() },
            log: LogSection::default(),
            trace: TraceSection::default(),
            http: HttpSection::default(),
            admin: HttpSection {
                listen: SocketAddr::from(([0, 0, 0, 0], 8081)),
                workers: 1,
                connections_per_worker_max: 1_000,
                body_bytes_max: 16 * 1024,
                ..HttpSection::default()
            },
            kafka: KafkaSection::default(),
            redis: RedisSection::default(),
            postgres: PostgresSection::default(),
            auth: AuthSection::default(),
            keys: GatewayKeysSection::default(),
            claims: ClaimsSection::default(),
            wallet: WalletSection::default(),
        }
    }
}

/// The `keys` section, and which of the keys new coupons get.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayKeysSection {
    /// The key that coupons published from now on are given for life.
    pub active_id: Option<String>,
    /// Secrets by key id; in prod from `secret_files`.
    pub secrets: BTreeMap<String, String>,
    /// Files with secrets, by key id.
    pub secret_files: BTreeMap<String, PathBuf>,
}

impl GatewayKeysSection {
    /// The keys, and the id of the active one.
    ///
    /// # Errors
    /// Everything that is wrong with ids and secrets, at once.
    pub fn ring(&self) -> Result<(KeyRing, KeyId), Vec<Problem>> {
        let all = KeysSection { secrets: self.secrets.clone(), secret_files: self.secret_files.clone() };
        let active = self.active_id.as_deref().filter(|id| self.secrets.contains_key(*id));
        let active = active.and_then(|id| id.parse::<KeyId>().ok()).ok_or_else(|| {
            Problem::new("keys.active_id", "must name one of the keys in keys.secrets (or secret_files)")
        });
        match (all.ring(), active) {
            (Ok(ring), Ok(active)) => Ok((ring, active)),
            (ring, active) => Err(ring.err().into_iter().flatten().chain(active.err()).collect()),
        }
    }
}

/// The `claims` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimsSection {
    /// Most POSTs of claims being worked on at once. Beyond it: 503 at once.
    pub in_flight_max: u32,
    /// Requests per second that one user may send, on average.
    pub user_requests_per_s: u32,
    /// Requests that one user may send at once.
    pub user_requests_burst: u32,
    /// Most users whose rate is remembered at once. Beyond it: 503.
    pub users_remembered_max: u32,
    /// Most keys (slots) of one user that this gateway takes for one coupon of which several may be had; where the coupon allows more of itself, as many as that. Beyond it: 429.
    pub slots_per_user_max: u32,
    /// A line in which something has waited for its decision for so long, in ms, gets no new coupons.
    pub line_late_ms: u32,
    /// How long a stream token opens its claim's events, in s.
    pub stream_token_s: u32,
    /// Where clients reach the notifier, for links and Locations; empty: under the same name as the gateway.
    pub notifier_url: String,
}

impl Default for ClaimsSection {
    fn default() -> Self {
        Self {
            in_flight_max: 20_000,
            user_requests_per_s: 5,
            user_requests_burst: 10,
            users_remembered_max: 2_000_000,
            slots_per_user_max: 32,
            line_late_ms: 30_000,
            stream_token_s: 600,
            notifier_url: String::new(),
        }
    }
}

/// The `wallet` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalletSection {
    /// Most requests for wallets and redemptions being worked on at once; they share `postgres.pool_size_max` connections. Beyond it: 503 at once.
    pub requests_max: u32,
    /// Whoever redeemed and hears no beat of the database for so long, in ms, publishes one itself: what a restore takes along is noticed, but for so much.
    pub beat_interval_ms: u32,
}

impl Default for WalletSection {
    fn default() -> Self {
        Self { requests_max: 1_000, beat_interval_ms: 10_000 }
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
            self.admin.problems("admin"),
            self.redis.problems(production),
            self.postgres.problems(production),
            self.auth.problems(production),
            self.auth.admin_problems(production),
        ];
        problems.extend(sections.into_iter().flatten().map(|(path, problem)| Problem { path, problem }));
        problems.extend(self.keys.ring().err().into_iter().flatten());
        let claims = &self.claims;
        let ranges = [
            ("in_flight_max", claims.in_flight_max, 1, 1_000_000),
            ("user_requests_per_s", claims.user_requests_per_s, 1, 10_000),
            ("user_requests_burst", claims.user_requests_burst, 1, 10_000),
            ("users_remembered_max", claims.users_remembered_max, 1, 100_000_000),
            ("slots_per_user_max", claims.slots_per_user_max, 1, 10_000),
            ("line_late_ms", claims.line_late_ms, 1_000, 600_000),
            ("stream_token_s", claims.stream_token_s, 10, 86_400),
        ];
        problems.extend(Problem::out_of_range("claims", &ranges));
        let wallet = [
            ("requests_max", self.wallet.requests_max, 1, 100_000),
            ("beat_interval_ms", self.wallet.beat_interval_ms, 1_000, 60_000),
        ];
        problems.extend(Problem::out_of_range("wallet", &wallet));
        problems
    }
}
