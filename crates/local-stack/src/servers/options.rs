//! How the three servers are started, or where somebody else runs them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::environment;
use crate::error::Error;
use crate::install::Needs;
use crate::kafka::KafkaSource;
use crate::ports::PortWish;

/// Servers that somebody else runs, by address. They are used, and never started or stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalServers {
    /// Bootstrap servers, `host:port` with commas between.
    pub kafka_bootstrap: Option<String>,
    /// URL of the maintenance database, as a user who may create databases.
    pub database_url: Option<String>,
    /// URL of a Redis.
    pub redis_url: Option<String>,
}

impl ExternalServers {
    /// What `LOCAL_STACK_KAFKA_BOOTSTRAP`, `LOCAL_STACK_DATABASE_URL` and `LOCAL_STACK_REDIS_URL` name.
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            kafka_bootstrap: environment::variable(environment::KAFKA_BOOTSTRAP),
            database_url: environment::variable(environment::DATABASE_URL),
            redis_url: environment::variable(environment::REDIS_URL),
        }
    }
}

/// The ports that the servers shall have.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerPorts {
    /// The broker's port.
    pub kafka: PortWish,
    /// PostgreSQL's port.
    pub postgres: PortWish,
    /// Redis's port.
    pub redis: PortWish,
}

/// How [`crate::Servers::start`] starts. The default is what a test wants: throw-away, on loopback, dying with its process.
#[derive(Debug, Clone)]
pub struct ServersOptions {
    /// Where data and logs go. `None`: a temporary folder that goes with the servers.
    pub directory: Option<PathBuf>,
    /// The address to listen on. Beyond loopback, PostgreSQL and Redis ask for a password (it is in their URLs), Kafka does not.
    pub bind: IpAddr,
    /// Our own servers speak TLS and nothing else, with throw-away certificates, and ask for a password: [`crate::Servers::encryption`].
    pub encrypted: bool,
    /// Whether PostgreSQL waits for the disk.
    pub sync: bool,
    /// Whether the servers are killed when this process ends, however it ends. If not, they go on after this process and
    /// after the handle is dropped, and `directory` must be given.
    pub die_with_parent: bool,
    /// Servers that are used instead of starting one.
    pub external: ExternalServers,
    /// The ports that the servers shall have.
    pub ports: ServerPorts,
    /// The password for addresses beyond loopback and for encrypted servers; `None`: a random one. Must stay the same for as long as the data does.
    pub password: Option<String>,
    /// An installed Kafka distribution, instead of `KAFKA_HOME` or what is fetched.
    pub kafka_home: Option<PathBuf>,
    /// Folder for what is fetched once, instead of `LOCAL_STACK_CACHE` or the workspace's `.cache`.
    pub cache: Option<PathBuf>,
    /// More lines for `server.properties`, such as `("log.retention.check.interval.ms", "1000")`. They win over ours.
    pub kafka_settings: Vec<(String, String)>,
    /// More settings for PostgreSQL. They win over ours.
    pub postgres_settings: Vec<(String, String)>,
    /// More lines for `redis.conf`, such as `("appendonly", "yes")`. They win over ours.
    pub redis_settings: Vec<(String, String)>,
}

impl Default for ServersOptions {
    fn default() -> Self {
        Self {
            directory: None,
            bind: Ipv4Addr::LOCALHOST.into(),
            encrypted: false,
            sync: false,
            die_with_parent: true,
            external: ExternalServers::default(),
            ports: ServerPorts::default(),
            password: None,
            kafka_home: None,
            cache: None,
            kafka_settings: Vec::new(),
            postgres_settings: Vec::new(),
            redis_settings: Vec::new(),
        }
    }
}

impl ServersOptions {
    pub(crate) fn kafka_source(&self) -> Result<KafkaSource, Error> {
        KafkaSource::find(self.kafka_home.as_deref(), self.cache.as_deref())
    }

    /// What this machine must have for these servers.
    pub(crate) fn needs(&self) -> Result<Needs, Error> {
        Ok(Needs {
            postgres: self.external.database_url.is_none(),
            redis: self.external.redis_url.is_none(),
            kafka: self.external.kafka_bootstrap.is_none().then(|| self.kafka_source()).transpose()?,
        })
    }
}
