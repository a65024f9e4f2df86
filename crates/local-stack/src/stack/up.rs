//! Bringing the stack up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Kept, Stack, stop};
use crate::cargo_build::{BuildProfile, build_services};
use crate::credentials::KEY_ID;
use crate::deployment::{Deployment, Services};
use crate::encryption::Encryption;
use crate::error::Error;
use crate::install;
use crate::namespace::Namespace;
use crate::open_files::raise_open_files;
use crate::ports::PortWish;
use crate::scratch::data_folder;
use crate::server::{create_folder, remove_folder};
use crate::servers::{ExternalServers, ServerPorts, Servers, ServersOptions};
use crate::services::Role;
use crate::state::{Journal, Phase, State};

/// The namespace of the one deployment that `up` makes.
const NAMESPACE: &str = "local";

/// On a small machine four services start at once, each of which waits for the others' topics.
const SERVICES_DEADLINE: Duration = Duration::from_secs(120);

/// How [`Stack::up`] brings the stack up.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// The address to listen on.
    pub bind: IpAddr,
    /// Servers that speak TLS and nothing else.
    pub encrypted: bool,
    /// Build and run with optimisation.
    pub release: bool,
    /// Start our services, too.
    pub services: bool,
    /// Build the services first.
    pub build: bool,
    /// PostgreSQL waits for the disk.
    pub sync: bool,
    /// Number of partitions of each topic.
    pub partitions: u32,
    /// Servers that are used instead of starting one.
    pub external: ExternalServers,
    /// An installed Kafka distribution, instead of `KAFKA_HOME` or what is fetched.
    pub kafka_home: Option<PathBuf>,
    /// Folder for what is fetched once, instead of `LOCAL_STACK_CACHE` or the workspace's `.cache`.
    pub cache: Option<PathBuf>,
    /// Port of the gateway's user API.
    pub api_port: PortWish,
    /// Port of the gateway's admin API.
    pub admin_port: PortWish,
    /// Port of the notifier's API.
    pub notifier_port: PortWish,
}

impl Default for UpOptions {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            encrypted: false,
            release: false,
            services: true,
            build: true,
            sync: true,
            partitions: 3,
            external: ExternalServers::default(),
            kafka_home: None,
            cache: None,
            api_port: PortWish::Prefer(8080),
            admin_port: PortWish::Prefer(8081),
            notifier_port: PortWish::Prefer(8082),
        }
    }
}

/// How [`Stack::up`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// It was up before; nothing was changed.
    Already,
    /// It is up now.
    Started,
}

impl Stack {
    /// Installs what is missing, builds, starts servers and services, and waits until all are ready.
    ///
    /// If it fails, what it started is stopped. `say` hears about the steps that take time.
    pub fn up(&self, options: &UpOptions, say: &mut dyn FnMut(&str)) -> Result<Up, Error> {
        let _lock = self.lock()?;
        if let Some(state) = self.state()? {
            if state.is_up() {
                return Ok(Up::Already);
            }
            self.clear_stale(&state)?;
        }
        let logs = self.log_directory();
        remove_folder(&logs)?;
        create_folder(&logs)?;

        let journal = Arc::new(Journal::create(self.state_path(), State::starting(options.sync))?);
        match self.start(options, &journal, say) {
            Ok(environment) => {
                journal.update(|state| {
                    state.environment = environment;
                    state.phase = Phase::Up;
                })?;
                Ok(Up::Started)
            }
            Err(error) => {
                stop(&journal.state())?;
                self.forget_state()?;
                Err(error)
            }
        }
    }

    /// Makes room after a stack that is no longer up. Data that `down` did not remove is used again, except where the
    /// machine went down before it was on disk.
    fn clear_stale(&self, state: &State) -> Result<(), Error> {
        let dead: Vec<&str> = state.dead().map(|record| record.name.as_str()).collect();
        if state.phase == Phase::Up && state.running().next().is_some() {
            return Err(Error::PartlyUp { dead: dead.join(", ") });
        }
        stop(state)?;
        if !state.sync && !state.is_of_this_boot() {
            self.remove_data()?;
        }
        self.forget_state()
    }

    fn start(
        &self,
        options: &UpOptions,
        journal: &Arc<Journal>,
        say: &mut dyn FnMut(&str),
    ) -> Result<BTreeMap<String, String>, Error> {
        create_folder(&data_folder(&self.directory))?;
        let mut kept = Kept::load(self)?;
        let servers_options = ServersOptions {
            directory: Some(self.directory.clone()),
            bind: options.bind,
            encrypted: options.encrypted,
            sync: options.sync,
            die_with_parent: false,
            external: options.external.clone(),
            ports: ServerPorts {
                kafka: kept.port("kafka"),
                postgres: kept.port("postgres"),
                redis: kept.port("redis"),
            },
            password: Some(kept.password.clone()),
            kafka_home: options.kafka_home.clone(),
            cache: options.cache.clone(),
            ..ServersOptions::default()
        };
        install::ensure(&servers_options.needs()?, say)?;
        let profile = if options.release { BuildProfile::Release } else { BuildProfile::Debug };
        if options.services && options.build {
            say("building the services");
            build_services(profile)?;
        }
        if let Some(shortfall) = raise_open_files()?.shortfall() {
            say(&shortfall);
        }

        // Saved before the cluster is made with its password.
        kept.save(self)?;
        let began = Instant::now();
        let servers = Servers::start_recorded(servers_options, Some(Arc::clone(journal)))?;
        let namespace = Namespace::named(&servers, NAMESPACE, options.partitions)?;
        say(&format!("Kafka, PostgreSQL and Redis are ready after {:.1} s", began.elapsed().as_secs_f32()));
        for (name, server) in
            [("kafka", servers.kafka()), ("postgres", servers.postgres()), ("redis", servers.redis())]
        {
            kept.ports.extend(server.ok().and_then(|server| Some((name.to_owned(), server.port()?))));
        }

        let mut deployment = Deployment::new(&servers, namespace);
        deployment.credentials = kept.credentials.clone();
        deployment.profile = profile;
        deployment.bind = options.bind;
        deployment.log_directory = self.log_directory();
        deployment.detach(journal);
        let mut environment = shared_environment(&deployment);
        if options.services {
            deployment.prepare()?;
            let services = self.start_services(options, &deployment, &mut kept)?;
            say(&format!("the services are ready after {:.1} s", began.elapsed().as_secs_f32()));
            environment.extend(service_environment(&services));
        }
        kept.save(self)?;
        Ok(environment)
    }

    fn start_services(
        &self,
        options: &UpOptions,
        deployment: &Deployment,
        kept: &mut Kept,
    ) -> Result<Services, Error> {
        let services = deployment.start_all_on(|role, listener| match (role, listener) {
            (Role::ApiGateway, "http") => options.api_port,
            (Role::ApiGateway, "admin") => options.admin_port,
            (Role::Notifier, "http") => options.notifier_port,
            _ => kept.port(&port_name(role, listener)),
        })?;
        services.wait_ready(SERVICES_DEADLINE)?;
        for service in services.all() {
            kept.ports.insert(port_name(service.role(), "ops"), service.ops_port());
        }
        Ok(services)
    }
}

fn port_name(role: Role, listener: &str) -> String {
    format!("{}.{listener}", role.name())
}

/// What does not depend on running services.
fn shared_environment(deployment: &Deployment) -> BTreeMap<String, String> {
    let Deployment { namespace, credentials, .. } = deployment;
    let pairs = [
        ("PROFILE", "dev".to_owned()),
        ("KAFKA_BOOTSTRAP", deployment.kafka_bootstrap.clone()),
        ("DATABASE_URL", namespace.database_url.clone()),
        ("REDIS_URL", deployment.redis_url.clone()),
        ("TOPIC_PREFIX", namespace.topic_prefix.clone()),
        ("TOPIC_PARTITIONS", namespace.partitions.to_string()),
        ("GROUP_PREFIX", namespace.group_prefix.clone()),
        ("REDIS_PREFIX", namespace.redis_key_prefix.clone()),
        ("JWT_SECRET", credentials.jwt_secret.clone()),
        ("JWT_ISSUER", credentials.jwt_issuer.clone()),
        ("JWT_AUDIENCE", credentials.jwt_audience.clone()),
        ("ADMIN_JWT_AUDIENCE", credentials.admin_jwt_audience.clone()),
        ("KEY_ID", KEY_ID.to_owned()),
        ("KEY_SECRET", credentials.key_secret.clone()),
    ];
    let encryption = deployment.encryption.iter().flat_map(Encryption::settings);
    let encryption = encryption.map(|(name, value)| (format!("FIRSTCOME__{name}"), value));
    pairs.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(encryption).collect()
}

fn service_environment(services: &Services) -> impl Iterator<Item = (String, String)> {
    let pairs = [
        ("API_URL", services.api_gateway.api_url()),
        ("ADMIN_URL", services.api_gateway.admin_url()),
        ("NOTIFIER_URL", services.notifier.api_url()),
        ("GATEWAY_OPS_URL", Some(services.api_gateway.ops_url())),
        ("STOCK_CONSUMER_OPS_URL", Some(services.stock_consumer.ops_url())),
        ("DB_WRITER_OPS_URL", Some(services.db_writer.ops_url())),
        ("NOTIFIER_OPS_URL", Some(services.notifier.ops_url())),
    ];
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
}
