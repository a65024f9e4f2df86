//! The three servers together: started at once, or used where somebody else runs them.

mod options;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::address;
use crate::credentials;
use crate::encryption::Encryption;
use crate::error::Error;
use crate::kafka;
use crate::launch::Lifetime;
use crate::open_files::raise_open_files;
use crate::ports::PortWish;
use crate::postgres;
use crate::redis;
use crate::scratch::{Scratch, data_folder};
use crate::server::{Hosting, Server, create_folder};
use crate::state::Journal;
use crate::supervisor::Supervised;

pub use options::{ExternalServers, ServerPorts, ServersOptions};

#[derive(Debug)]
enum Source {
    Own(Box<Server>),
    External(String),
}

impl Source {
    fn start_or_use(
        external: Option<&String>,
        start: impl FnOnce() -> Result<Server, Error>,
    ) -> Result<Self, Error> {
        match external {
            Some(address) => Ok(Self::External(address.clone())),
            None => Ok(Self::Own(Box::new(start()?))),
        }
    }

    fn address(&self) -> &str {
        match self {
            Self::Own(server) => server.endpoint(),
            Self::External(address) => address,
        }
    }

    fn own(&self) -> Option<&Server> {
        match self {
            Self::Own(server) => Some(server),
            Self::External(_) => None,
        }
    }
}

/// Kafka, PostgreSQL and Redis, each ready when this exists.
///
/// With `die_with_parent` (the default), dropping it kills them and removes a temporary folder.
#[derive(Debug)]
pub struct Servers {
    kafka: Source,
    postgres: Source,
    redis: Source,
    encryption: Option<Encryption>,
    options: ServersOptions,
    directory: PathBuf,
    // Last: removed when the servers above are gone.
    _scratch: Option<Scratch>,
}

impl Servers {
    /// Starts the servers side by side and waits until each answers in its own protocol (about four seconds).
    pub fn start(options: ServersOptions) -> Result<Self, Error> {
        Self::start_recorded(options, None)
    }

    pub(crate) fn start_recorded(
        options: ServersOptions,
        journal: Option<Arc<Journal>>,
    ) -> Result<Self, Error> {
        let (directory, scratch) = match (&options.directory, options.die_with_parent) {
            (Some(directory), _) => {
                let directory = std::path::absolute(directory);
                (directory.map_err(Error::io("tell the current folder"))?, None)
            }
            (None, true) => {
                let scratch = Scratch::create()?;
                (scratch.path().to_owned(), Some(scratch))
            }
            (None, false) => {
                return Err(Error::Usage("servers that outlive this process need a directory".to_owned()));
            }
        };
        let lifetime =
            if options.die_with_parent { Lifetime::WithParent } else { Lifetime::Detached(journal) };
        create_folder(&data_folder(&directory))?;
        create_folder(&directory.join("logs"))?;
        raise_open_files()?;

        let password = options.password.clone().unwrap_or_else(|| credentials::random_text(32));
        let encryption = options.encrypted.then(|| {
            Encryption::prepare(&data_folder(&directory), address::reachable(options.bind), &password)
        });
        let encryption = encryption.transpose()?;
        let hosting = |name: &str, port: PortWish, extra: &[(String, String)]| Hosting {
            data: data_folder(&directory),
            log: directory.join(format!("logs/{name}.log")),
            bind: options.bind,
            port,
            password: password.clone(),
            encryption: encryption.clone(),
            lifetime: lifetime.clone(),
            extra: extra.to_vec(),
        };
        let for_kafka = hosting("kafka", options.ports.kafka, &options.kafka_settings);
        let for_postgres = hosting("postgres", options.ports.postgres, &options.postgres_settings);
        let for_redis = hosting("redis", options.ports.redis, &options.redis_settings);
        let external = &options.external;

        let (kafka, postgres, redis) = std::thread::scope(|scope| {
            let kafka = scope.spawn(|| {
                Source::start_or_use(external.kafka_bootstrap.as_ref(), || {
                    kafka::start(&for_kafka, &options.kafka_source()?.libraries()?)
                })
            });
            let postgres = scope.spawn(|| {
                Source::start_or_use(external.database_url.as_ref(), || {
                    postgres::start(&for_postgres, options.sync)
                })
            });
            let redis = scope
                .spawn(|| Source::start_or_use(external.redis_url.as_ref(), || redis::start(&for_redis)));
            (joined(kafka.join()), joined(postgres.join()), joined(redis.join()))
        });
        match (kafka, postgres, redis) {
            (Ok(kafka), Ok(postgres), Ok(redis)) => {
                Ok(Self { kafka, postgres, redis, encryption, options, directory, _scratch: scratch })
            }
            (kafka, postgres, redis) => Err(first_error([kafka, postgres, redis])),
        }
    }

    /// Kafka's bootstrap servers.
    pub fn kafka_bootstrap(&self) -> &str {
        self.kafka.address()
    }

    /// URL of PostgreSQL's maintenance database, as a user who may create databases.
    pub fn database_url(&self) -> &str {
        self.postgres.address()
    }

    /// URL of Redis.
    pub fn redis_url(&self) -> &str {
        self.redis.address()
    }

    /// What clients need to know beside addresses, where the servers speak TLS.
    pub fn encryption(&self) -> Option<&Encryption> {
        self.encryption.as_ref()
    }

    /// Our own Kafka, to break it.
    pub fn kafka(&self) -> Result<&Server, Error> {
        self.kafka.own().ok_or(Error::External { server: "Kafka" })
    }

    /// Our own PostgreSQL, to break it.
    pub fn postgres(&self) -> Result<&Server, Error> {
        self.postgres.own().ok_or(Error::External { server: "PostgreSQL" })
    }

    /// A physical copy of our own PostgreSQL, with the same system identifier, on a port of its own: it follows the other until it is told
    /// to `pg_promote()`. One at a time, and not where the servers speak TLS.
    pub fn start_standby(&self) -> Result<Server, Error> {
        let primary = self.postgres()?;
        if self.encryption.is_some() {
            return Err(Error::Usage("a standby follows in the open alone".to_owned()));
        }
        let hosting = Hosting {
            data: data_folder(&self.directory),
            log: self.directory.join("logs/postgres-standby.log"),
            bind: self.options.bind,
            port: PortWish::Any,
            password: credentials::random_text(32),
            encryption: None,
            lifetime: Lifetime::WithParent,
            extra: self.options.postgres_settings.clone(),
        };
        postgres::start_standby(&hosting, primary.endpoint(), self.options.sync)
    }

    /// Our own Redis, to break it.
    pub fn redis(&self) -> Result<&Server, Error> {
        self.redis.own().ok_or(Error::External { server: "Redis" })
    }

    /// Runs one of Kafka's own command-line tools against this Kafka and returns what it printed on stdout.
    ///
    /// `class` is its Java class, such as `org.apache.kafka.tools.TopicCommand`. Takes a second or two.
    pub fn kafka_tool(&self, class: &str, arguments: &[&str]) -> Result<String, Error> {
        let client =
            self.encryption.as_ref().map(|encryption| encryption.kafka_client().display().to_string());
        let mut all = vec!["--bootstrap-server", self.kafka_bootstrap()];
        all.extend(client.iter().flat_map(|file| ["--command-config", file.as_str()]));
        all.extend(arguments);
        kafka::run_tool(&self.options.kafka_source()?.libraries()?, class, &all)
    }

    /// Runs one SQL command on the database of this URL and returns what it yields, without headings. It starts a `psql`.
    pub fn run_sql(&self, database_url: &str, sql: &str) -> Result<String, Error> {
        postgres::run_sql(database_url, sql, self.encryption.as_ref())
    }

    /// Where servers and services write their logs.
    pub fn log_directory(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// Ends our own servers in good order, side by side. Dropping kills them instead.
    pub fn stop(self) -> Result<(), Error> {
        let own = [&self.kafka, &self.postgres, &self.redis].map(Source::own);
        let ended = std::thread::scope(|scope| {
            let threads = own.map(|server| scope.spawn(move || server.map_or(Ok(()), end)));
            threads.map(|thread| joined(thread.join()))
        });
        ended.into_iter().collect()
    }
}

fn end(server: &Server) -> Result<(), Error> {
    match server.terminate() {
        Ok(_) | Err(Error::NotRunning { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn joined<T>(outcome: std::thread::Result<Result<T, Error>>) -> Result<T, Error> {
    // A panic of ours in a helper thread goes on in the caller's.
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Ends what did start: if they were detached, nobody else would.
fn first_error(outcomes: [Result<Source, Error>; 3]) -> Error {
    let mut first = None;
    for outcome in outcomes {
        match outcome {
            Ok(source) => {
                let _ = source.own().map(Supervised::kill);
            }
            Err(error) => first = first.or(Some(error)),
        }
    }
    first.unwrap_or_else(|| Error::Usage("a server did not start".to_owned()))
}

/// The servers for the tests of this process, started at their first use.
///
/// Those that `LOCAL_STACK_KAFKA_BOOTSTRAP`, `LOCAL_STACK_DATABASE_URL` and `LOCAL_STACK_REDIS_URL` name are used
/// (`local-stack exec` sets all three, so that a whole test run shares one stack); the others are started for this process
/// and die with it. Tests take a [`crate::namespace`] of their own and never flush, stop or break these servers.
///
/// # Panics
/// If a server is missing or does not start: that is a failed test, never a skipped one.
pub fn servers_for_tests() -> &'static Servers {
    static SERVERS: OnceLock<Result<Servers, Error>> = OnceLock::new();
    let external = ExternalServers::from_environment();
    let servers =
        SERVERS.get_or_init(|| Servers::start(ServersOptions { external, ..ServersOptions::default() }));
    match servers {
        Ok(servers) => servers,
        #[expect(clippy::panic, reason = "a missing server fails the test, and its message names the remedy")]
        Err(error) => panic!("no servers for tests: {error}"),
    }
}
