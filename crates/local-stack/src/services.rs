//! One of our services as a child process.

mod settings;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::account::Account;
use crate::address;
use crate::deployment::Deployment;
use crate::error::Error;
use crate::http::get;
use crate::launch::Launch;
use crate::ports::{PortLease, PortWish};
use crate::server::create_folder;
use crate::stop_request::StopRequest;
use crate::supervisor::{Supervised, Supervisor};

/// A little more than the longest drain budget of a service.
const STOP_DEADLINE: Duration = Duration::from_secs(25);

/// The services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Takes claims and the operators' commands.
    ApiGateway,
    /// Decides claims.
    StockConsumer,
    /// Writes outcomes to PostgreSQL.
    DbWriter,
    /// Tells users their outcomes.
    Notifier,
    /// Audits in a loop; nothing waits for it, and it is started only where it is wanted.
    Reconciler,
}

impl Role {
    /// Those that make up the pipeline, in the order in which they are started: each after those that it links to.
    pub const ALL: [Self; 4] = [Self::StockConsumer, Self::DbWriter, Self::Notifier, Self::ApiGateway];

    /// Its name, that of its binary and that of its log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiGateway => "api-gateway",
            Self::StockConsumer => "stock-consumer",
            Self::DbWriter => "db-writer",
            Self::Notifier => "notifier",
            Self::Reconciler => "reconciler",
        }
    }

    fn has_user_api(self) -> bool {
        matches!(self, Self::ApiGateway | Self::Notifier)
    }

    fn has_admin_api(self) -> bool {
        self == Self::ApiGateway
    }
}

/// What is particular to one service of a [`Deployment`].
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// Which service.
    pub role: Role,
    /// Name of its log and in messages; the role's name unless several of one role run.
    pub instance: String,
    /// The program; `None`: the role's binary in cargo's target folder.
    pub binary: Option<PathBuf>,
    /// Port of the user API, if the role has one.
    pub http_port: PortWish,
    /// Port of the admin API, if the role has one.
    pub admin_port: PortWish,
    /// Port of probes and metrics.
    pub ops_port: PortWish,
    /// Base URL of the notifier, for the gateway's links.
    pub notifier_url: Option<String>,
    /// More variables, which win over ours.
    pub extra_environment: Vec<(String, String)>,
    /// Variables that it does not get.
    pub withheld: Vec<String>,
}

impl ServiceSpec {
    /// The service as it is, on free ports.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            instance: role.name().to_owned(),
            binary: None,
            http_port: PortWish::Any,
            admin_port: PortWish::Any,
            ops_port: PortWish::Any,
            notifier_url: None,
            extra_environment: Vec::new(),
            withheld: Vec::new(),
        }
    }

    /// Sets the name that tells this one from others of its role.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }

    /// Sets the base URL of the notifier.
    #[must_use]
    pub fn notifier_url(mut self, url: impl Into<String>) -> Self {
        self.notifier_url = Some(url.into());
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extra_environment.push((name.into(), value.into()));
        self
    }

    /// Withholds a variable that it would get from us.
    #[must_use]
    pub fn without(mut self, name: impl Into<String>) -> Self {
        self.withheld.push(name.into());
        self
    }
}

/// Where a service listens.
#[derive(Debug, Clone, Copy)]
struct Listeners {
    http: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    ops: SocketAddr,
}

/// A service that was started. It dies with this process and with this handle, unless its deployment is detached.
pub struct Service {
    role: Role,
    listeners: Listeners,
    environment: Vec<(String, String)>,
    supervisor: Supervisor,
    _ports: Vec<PortLease>,
}

impl Service {
    /// Starts the service; does not wait until it is ready.
    pub fn start(deployment: &Deployment, spec: &ServiceSpec) -> Result<Self, Error> {
        let program = match &spec.binary {
            Some(binary) => binary.clone(),
            None => crate::cargo_build::binary(deployment.profile, spec.role.name())?,
        };
        let mut ports = Vec::new();
        let mut listen = |wish| -> Result<SocketAddr, Error> {
            let lease = PortLease::take(deployment.bind, wish)?;
            let address = SocketAddr::new(deployment.bind, lease.port());
            ports.push(lease);
            Ok(address)
        };
        let listeners = Listeners {
            http: spec.role.has_user_api().then(|| listen(spec.http_port)).transpose()?,
            admin: spec.role.has_admin_api().then(|| listen(spec.admin_port)).transpose()?,
            ops: listen(spec.ops_port)?,
        };
        let environment =
            settings::environment(&settings::Context { deployment, spec, listeners: &listeners });
        create_folder(&deployment.log_directory)?;
        let launch = Launch {
            name: spec.instance.clone(),
            program,
            arguments: Vec::new(),
            environment: environment.clone(),
            account: Account::Own,
            lifetime: deployment.lifetime(),
            log: deployment.log_directory.join(format!("{}.log", spec.instance)),
            stop_request: StopRequest::Terminate,
        };
        let ready_url = format!("{}/readyz", url(listeners.ops));
        let ready = Box::new(move || get(&ready_url));
        let supervisor = Supervisor::new(launch, STOP_DEADLINE, ready);
        supervisor.start()?;
        Ok(Self { role: spec.role, listeners, environment, supervisor, _ports: ports })
    }

    /// Which service this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Base URL of the user API (api-gateway, notifier).
    pub fn api_url(&self) -> Option<String> {
        self.listeners.http.map(url)
    }

    /// Base URL of the admin API (api-gateway).
    pub fn admin_url(&self) -> Option<String> {
        self.listeners.admin.map(url)
    }

    /// Base URL of probes and metrics.
    pub fn ops_url(&self) -> String {
        url(self.listeners.ops)
    }

    /// Port of probes and metrics.
    pub fn ops_port(&self) -> u16 {
        self.listeners.ops.port()
    }

    /// The variables that it was started with.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Waits until `/startupz` says that configuration, topics and schema are right; the replay may still go on.
    pub fn wait_started(&self, deadline: Duration) -> Result<(), Error> {
        let started_url = format!("{}/startupz", self.ops_url());
        self.supervisor.wait_for(deadline, &|| get(&started_url))
    }
}

impl Supervised for Service {
    fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Service")
            .field("role", &self.role)
            .field("pid", &self.pid())
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

fn url(listener: SocketAddr) -> String {
    format!("http://{}", address::endpoint(listener.ip(), listener.port()))
}
