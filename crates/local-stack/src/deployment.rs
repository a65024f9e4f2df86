//! Our services on a set of servers: what all of them share, and all four at once.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::account::Account;
use crate::cargo_build::{BuildProfile, binary};
use crate::command;
use crate::credentials::Credentials;
use crate::encryption::Encryption;
use crate::environment;
use crate::error::Error;
use crate::launch::Lifetime;
use crate::namespace::{self, Namespace};
use crate::ports::PortWish;
use crate::servers::Servers;
use crate::services::{Role, Service, ServiceSpec};
use crate::state::Journal;
use crate::supervisor::Supervised;

/// Redis takes any password of a user who needs none, but clients name no user without one.
const UNASKED: &str = "unasked";

/// What the services of one namespace have in common.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Kafka's bootstrap servers.
    pub kafka_bootstrap: String,
    /// URL of Redis, for its administrator.
    pub redis_url: String,
    /// What there is to know beside addresses, where the servers speak TLS.
    pub encryption: Option<Encryption>,
    /// Prefixes, database, number of partitions.
    pub namespace: Namespace,
    /// Secrets of tokens and claim ids.
    pub credentials: Credentials,
    /// Which of cargo's binaries are run.
    pub profile: BuildProfile,
    /// The address on which the services listen.
    pub bind: IpAddr,
    /// Where the services' logs go.
    pub log_directory: PathBuf,
    /// `Some`: the services outlive this process, and `down` finds them there.
    journal: Option<Arc<Journal>>,
}

impl Deployment {
    /// A deployment for a test: fresh secrets, loopback, binaries built like the caller, logs in a folder of the namespace.
    pub fn new(servers: &Servers, namespace: Namespace) -> Self {
        Self {
            kafka_bootstrap: servers.kafka_bootstrap().to_owned(),
            redis_url: servers.redis_url().to_owned(),
            encryption: servers.encryption().cloned(),
            log_directory: servers.log_directory().join(&namespace.name),
            namespace,
            credentials: Credentials::random(),
            profile: BuildProfile::of_caller(),
            bind: Ipv4Addr::LOCALHOST.into(),
            journal: None,
        }
    }

    /// Lets the services outlive this process.
    pub(crate) fn detach(&mut self, journal: &Arc<Journal>) {
        self.journal = Some(Arc::clone(journal));
    }

    pub(crate) fn lifetime(&self) -> Lifetime {
        match &self.journal {
            Some(journal) => Lifetime::Detached(Some(Arc::clone(journal))),
            None => Lifetime::WithParent,
        }
    }

    /// URL of Redis for one of the services' users.
    pub fn redis_url_as(&self, user: &str) -> Result<String, Error> {
        let wrong = |what: &dyn std::fmt::Display| Error::Usage(format!("the URL of Redis: {what}"));
        let mut url = Url::parse(&self.redis_url).map_err(|error| wrong(&error))?;
        let password = url.password().unwrap_or(UNASKED).to_owned();
        let named = url.set_username(user).and_then(|()| url.set_password(Some(&password)));
        named.map_err(|()| wrong(&"names no server"))?;
        Ok(url.into())
    }

    /// Creates schema and topics: `couponctl migrate`, then `couponctl topics apply`. What they complain about is in the error.
    pub fn prepare(&self) -> Result<(), Error> {
        self.couponctl(&["migrate"])?;
        self.couponctl(&["topics", "apply"])?;
        Ok(())
    }

    /// Runs `couponctl` on this namespace and returns what it printed on stdout.
    pub fn couponctl(&self, arguments: &[&str]) -> Result<String, Error> {
        self.couponctl_without(&[], arguments)
    }

    /// Runs `couponctl` on this namespace, for at most this time: an audit of millions of claims takes minutes.
    pub fn couponctl_within(&self, patience: Duration, arguments: &[&str]) -> Result<String, Error> {
        self.run_couponctl(&[], arguments, patience)
    }

    /// Runs `couponctl` without these variables.
    pub fn couponctl_without(&self, withheld: &[&str], arguments: &[&str]) -> Result<String, Error> {
        self.run_couponctl(withheld, arguments, 4 * command::SHORT)
    }

    fn run_couponctl(
        &self,
        withheld: &[&str],
        arguments: &[&str],
        patience: Duration,
    ) -> Result<String, Error> {
        let database_url = self.namespace.database_url_as(namespace::OWNER)?;
        let redis_url = self.redis_url_as("auditor")?;
        let mut couponctl = Account::Own.command(&binary(self.profile, "couponctl")?);
        environment::remove_prefixed(&mut couponctl, &["FIRSTCOME__", "PG"]);
        couponctl
            .env("PROFILE", "dev")
            .env("DATABASE_URL", database_url)
            .env("KAFKA_BOOTSTRAP", &self.kafka_bootstrap)
            .env("TOPIC_PREFIX", &self.namespace.topic_prefix)
            .env("TOPIC_PARTITIONS", self.namespace.partitions.to_string())
            .env("REDIS_URL", redis_url)
            .env("REDIS_PREFIX", &self.namespace.redis_key_prefix)
            .env("KEY_SECRET", &self.credentials.key_secret)
            .env("JWT_SECRET", &self.credentials.jwt_secret)
            .env("JWT_ISSUER", &self.credentials.jwt_issuer)
            .env("JWT_AUDIENCE", &self.credentials.jwt_audience)
            .env("ADMIN_JWT_AUDIENCE", &self.credentials.admin_jwt_audience)
            .args(arguments);
        for (name, value) in self.encryption.iter().flat_map(Encryption::settings) {
            couponctl.env(format!("FIRSTCOME__{name}"), value);
        }
        for variable in withheld {
            couponctl.env_remove(variable);
        }
        command::capture(&mut couponctl, &format!("couponctl {}", arguments.join(" ")), patience)
    }

    /// Starts one service; does not wait until it is ready.
    pub fn start(&self, spec: &ServiceSpec) -> Result<Service, Error> {
        Service::start(self, spec)
    }

    /// Starts all four services on free ports; does not wait until they are ready.
    pub fn start_all(&self) -> Result<Services, Error> {
        self.start_all_on(|_, _| PortWish::Any)
    }

    /// Starts all four services; `port` is asked for the port of each listener (`http`, `admin`, `ops`).
    pub fn start_all_on(&self, port: impl Fn(Role, &'static str) -> PortWish) -> Result<Services, Error> {
        let start = |role: Role, notifier_url: Option<String>| {
            let spec = ServiceSpec {
                http_port: port(role, "http"),
                admin_port: port(role, "admin"),
                ops_port: port(role, "ops"),
                notifier_url,
                ..ServiceSpec::new(role)
            };
            self.start(&spec)
        };
        let stock_consumer = start(Role::StockConsumer, None)?;
        let db_writer = start(Role::DbWriter, None)?;
        let notifier = start(Role::Notifier, None)?;
        let api_gateway = start(Role::ApiGateway, notifier.api_url())?;
        Ok(Services { stock_consumer, db_writer, notifier, api_gateway })
    }
}

/// One of each service.
#[derive(Debug)]
pub struct Services {
    /// Decides claims.
    pub stock_consumer: Service,
    /// Writes outcomes to PostgreSQL.
    pub db_writer: Service,
    /// Tells users their outcomes.
    pub notifier: Service,
    /// Takes claims.
    pub api_gateway: Service,
}

impl Services {
    /// All four.
    pub fn all(&self) -> [&Service; 4] {
        [&self.stock_consumer, &self.db_writer, &self.notifier, &self.api_gateway]
    }

    /// Waits until each is ready, each with this deadline.
    pub fn wait_ready(&self, deadline: Duration) -> Result<(), Error> {
        self.all().into_iter().try_for_each(|service| service.wait_ready(deadline))
    }

    /// Asks all of them to end, side by side, and returns how each did.
    pub fn terminate(&self) -> Result<Vec<(Role, ExitStatus)>, Error> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .all()
                .map(|service| scope.spawn(|| Ok((service.role(), service.terminate()?))))
                .into_iter()
                .collect();
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ended.collect()
        })
    }
}
