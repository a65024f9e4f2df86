//! Where everything is: a configuration file in the services' words, `FIRSTCOME__` variables, and on top the short flags and variables that
//! `local-stack env` prints.

use std::path::PathBuf;

use clap::Args;
use coupon_domain::{KeyRing, Timestamp};
use infrastructure_http::TokenMint;
use infrastructure_kafka::{Connection, KafkaMetrics, KafkaSection, TopicLayout};
use infrastructure_postgres::PostgresSection;
use infrastructure_redis::RedisSection;
use serde::{Deserialize, Serialize};
use service_runtime::{
    Clock, KeysSection, LogSection, Metrics, OpsSection, Problem, Profile, RuntimeSections, ServiceConfig,
    catalogue, config, metrics,
};

use crate::exit::Failure;

/// The id of a key that was given as a secret alone.
const GIVEN_KEY: &str = "given";

/// Flags of every command.
#[derive(Args, Clone)]
#[command(next_help_heading = "The installation")]
pub(crate) struct Settings {
    /// Settings in TOML or JSON: profile and the sections kafka, postgres, redis, keys, in the services' words. A service's own file has more, and is refused.
    #[arg(long, env = "COUPONCTL_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// prod (the default) or dev.
    #[arg(long, env = "PROFILE", global = true)]
    profile: Option<String>,
    /// Kafka brokers, host:port, comma-separated.
    #[arg(long, env = "KAFKA_BOOTSTRAP", global = true)]
    kafka_bootstrap: Option<String>,
    /// Put before every topic name.
    #[arg(long, env = "TOPIC_PREFIX", global = true)]
    topic_prefix: Option<String>,
    /// Fewest partitions of every topic.
    #[arg(long, env = "TOPIC_PARTITIONS", global = true)]
    topic_partitions: Option<u16>,
    /// PostgreSQL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    database_url: Option<String>,
    /// Redis.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, global = true)]
    redis_url: Option<String>,
    /// Put before every Redis key.
    #[arg(long, env = "REDIS_PREFIX", global = true)]
    redis_prefix: Option<String>,
    /// The gateway's user API.
    #[arg(long, env = "API_URL", default_value = "http://localhost:8080", global = true)]
    pub(crate) api_url: String,
    /// The gateway's admin API.
    #[arg(long, env = "ADMIN_URL", default_value = "http://localhost:8081", global = true)]
    pub(crate) admin_url: String,
    /// The notifier.
    #[arg(long, env = "NOTIFIER_URL", default_value = "http://localhost:8082", global = true)]
    pub(crate) notifier_url: String,
    /// An operator's token for the admin API; else one is made with the secret.
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true, global = true)]
    pub(crate) admin_token: Option<String>,
    /// A file with such a token.
    #[arg(
        long,
        env = "ADMIN_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "admin_token",
        global = true
    )]
    admin_token_file: Option<PathBuf>,
    /// The HS256 secret of a dev installation, to make tokens with.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true, global = true)]
    jwt_secret: Option<String>,
    /// A private key to make tokens with, in PEM: Ed25519, P-256 or RSA; the services know its public key by --jwt-key-id.
    #[arg(
        long,
        env = "JWT_KEY_FILE",
        value_name = "FILE",
        conflicts_with = "jwt_secret",
        requires = "jwt_key_id",
        global = true
    )]
    jwt_key_file: Option<PathBuf>,
    /// The kid of that key.
    #[arg(long, env = "JWT_KEY_ID", value_name = "KID", global = true)]
    jwt_key_id: Option<String>,
    /// The secret behind claim ids and codes, where the configuration has no keys section. For dev.
    #[arg(long, env = "KEY_SECRET", hide_env_values = true, global = true)]
    key_secret: Option<String>,
    /// The issuer of tokens.
    #[arg(long, env = "JWT_ISSUER", default_value = "firstcome", global = true)]
    jwt_issuer: String,
    /// The audience of users' tokens.
    #[arg(long, env = "JWT_AUDIENCE", default_value = "firstcome", global = true)]
    jwt_audience: String,
    /// The audience of operators' tokens.
    #[arg(long, env = "ADMIN_JWT_AUDIENCE", default_value = "firstcome-admin", global = true)]
    admin_jwt_audience: String,
}

/// The part of the services' configuration that the command line knows.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ToolConfig {
    profile: Profile,
    kafka: KafkaSection,
    postgres: PostgresSection,
    redis: RedisSection,
    keys: KeysSection,
    #[serde(skip)]
    ops: OpsSection,
    #[serde(skip)]
    log: LogSection,
}

impl ServiceConfig for ToolConfig {
    fn runtime(&self) -> RuntimeSections<'_> {
        RuntimeSections { profile: self.profile, ops: &self.ops, log: &self.log, trace: None }
    }

    /// Each command checks the sections that it needs, once the flags are on top.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

impl Settings {
    fn load(&self) -> Result<ToolConfig, Failure> {
        let loaded = config::load::<ToolConfig>(self.config.as_deref(), environment()).map_err(wrong)?;
        let mut tool = loaded.config;
        if let Some(profile) = &self.profile {
            tool.profile = match profile.as_str() {
                "prod" => Profile::Prod,
                "dev" => Profile::Dev,
                _ => return Err(Failure::Usage("--profile: must be prod or dev".to_owned())),
            };
        }
        let set = |key: &mut String, flag: &Option<String>| {
            if let Some(value) = flag {
                key.clone_from(value);
            }
        };
        set(&mut tool.kafka.bootstrap_servers, &self.kafka_bootstrap);
        set(&mut tool.kafka.topic_prefix, &self.topic_prefix);
        set(&mut tool.redis.key_prefix, &self.redis_prefix);
        tool.kafka.partitions = self.topic_partitions.unwrap_or(tool.kafka.partitions);
        tool.postgres.url = self.database_url.clone().or(tool.postgres.url);
        tool.redis.url = self.redis_url.clone().or(tool.redis.url);
        Ok(tool)
    }

    /// How to reach Kafka, and which topics there shall be.
    pub(crate) fn kafka(&self) -> Result<(Connection, TopicLayout), Failure> {
        let tool = self.load()?;
        let production = tool.profile.is_production();
        let problems = tool.kafka.problems(production);
        if !problems.is_empty() {
            return Err(wrong(problems));
        }
        let layout = tool.kafka.layout(production);
        Ok((Connection::new(tool.kafka, "couponctl", unwatched_metrics()), layout))
    }

    /// How to reach PostgreSQL.
    pub(crate) fn postgres(&self) -> Result<PostgresSection, Failure> {
        let tool = self.load()?;
        let problems = tool.postgres.problems(tool.profile.is_production());
        if problems.is_empty() { Ok(tool.postgres) } else { Err(wrong(named(problems))) }
    }

    /// How to reach Redis.
    pub(crate) fn redis(&self) -> Result<RedisSection, Failure> {
        let tool = self.load()?;
        let problems = tool.redis.problems(tool.profile.is_production());
        if problems.is_empty() { Ok(tool.redis) } else { Err(wrong(named(problems))) }
    }

    /// The keys behind claim ids.
    pub(crate) fn keys(&self) -> Result<KeyRing, Failure> {
        let mut keys = self.load()?.keys;
        if let Some(secret) = &self.key_secret {
            keys.secrets.entry(GIVEN_KEY.to_owned()).or_insert_with(|| secret.clone());
        }
        keys.ring().map_err(wrong)
    }

    /// A user's token.
    pub(crate) fn user_token(&self, user: &str, valid_s: u32) -> Result<String, Failure> {
        self.mint(user, &self.jwt_audience, None, valid_s)
    }

    /// An operator's token: the given one, or one with this scope.
    pub(crate) fn operator_token(
        &self,
        operator: &str,
        scope: &str,
        valid_s: u32,
    ) -> Result<String, Failure> {
        match (&self.admin_token, &self.admin_token_file) {
            (Some(token), _) => Ok(token.clone()),
            (None, Some(file)) => Ok(read("--admin-token-file", file)?.trim().to_owned()),
            (None, None) => self.mint(operator, &self.admin_jwt_audience, Some(scope), valid_s),
        }
    }

    fn mint(&self, sub: &str, audience: &str, scope: Option<&str>, valid_s: u32) -> Result<String, Failure> {
        let mint = match (&self.jwt_secret, &self.jwt_key_file) {
            (Some(secret), _) => TokenMint::new(secret, &self.jwt_issuer),
            (None, Some(file)) => {
                let pem = read("--jwt-key-file", file)?;
                let kid = self.jwt_key_id.as_deref().unwrap_or_default();
                TokenMint::with_private_key(pem.as_bytes(), kid, &self.jwt_issuer).map_err(|problem| {
                    Failure::Usage(format!("--jwt-key-file {}: {problem}", file.display()))
                })?
            }
            (None, None) => {
                let remedy = "--jwt-secret (JWT_SECRET) or --jwt-key-file (JWT_KEY_FILE) is needed to make a token; or give --admin-token";
                return Err(Failure::Usage(remedy.to_owned()));
            }
        };
        let expires_at: Timestamp = Clock::system().now().plus_ms(i64::from(valid_s) * 1_000);
        mint.mint(sub, audience, scope, expires_at)
            .map_err(|error| Failure::Failed(format!("the token cannot be signed: {error}")))
    }
}

fn read(flag: &str, file: &std::path::Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("{flag} {}: {error}", file.display())))
}

fn named(problems: Vec<(String, String)>) -> Vec<Problem> {
    problems.into_iter().map(|(path, problem)| Problem { path, problem }).collect()
}

fn wrong(problems: Vec<Problem>) -> Failure {
    let lines: Vec<String> =
        problems.iter().map(|problem| format!("\n  {}: {}", problem.path, problem.problem)).collect();
    Failure::Usage(format!("the configuration is wrong:{}", lines.concat()))
}

/// Collectors that nobody scrapes: a command lives for seconds.
fn unwatched_metrics() -> KafkaMetrics {
    let unwatched = Metrics::new("couponctl");
    metrics::kafka(&unwatched, &unwatched.int_gauges(&catalogue::DEPENDENCY_UP))
}

#[expect(clippy::disallowed_methods, reason = "the environment of the command line, read once")]
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
