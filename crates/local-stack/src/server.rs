//! One of the three servers, started by us, and what all three have in common.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::encryption::Encryption;
use crate::error::Error;
use crate::launch::{Launch, Lifetime};
use crate::ports::{PortLease, PortWish};
use crate::supervisor::{ReadyProbe, Supervised, Supervisor};
use crate::waiting::poll;

/// A cold JVM on a busy small machine needs most of this; a server that cannot start says so much earlier.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(90);

/// How long one attempt of a ready check may wait for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the last writers in a folder may take to go.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);

/// Where and how a server is to live.
#[derive(Debug, Clone)]
pub(crate) struct Hosting {
    /// The folder below which each server has a folder for its data.
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) bind: IpAddr,
    pub(crate) port: PortWish,
    /// Asked for on every address but loopback, and on encrypted connections.
    pub(crate) password: String,
    /// `Some`: the server speaks TLS and nothing else.
    pub(crate) encryption: Option<Encryption>,
    pub(crate) lifetime: Lifetime,
    /// Settings in the server's own words, which win over ours.
    pub(crate) extra: Vec<(String, String)>,
}

impl Hosting {
    /// Makes the server's own folder.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.data.join(name);
        create_folder(&folder)?;
        Ok(folder)
    }

    /// The password for URLs, if the server asks for one.
    pub(crate) fn url_password(&self) -> Option<&str> {
        (!self.bind.is_loopback() || self.encryption.is_some()).then_some(self.password.as_str())
    }
}

/// A running server of our own: Kafka, PostgreSQL or Redis.
pub struct Server {
    endpoint: String,
    supervisor: Supervisor,
    ports: Vec<PortLease>,
}

impl Server {
    /// Starts the process and waits until the probe is content.
    pub(crate) fn start(
        endpoint: String,
        ports: Vec<PortLease>,
        launch: Launch,
        stop_deadline: Duration,
        ready: ReadyProbe,
    ) -> Result<Self, Error> {
        let server = Self { endpoint, supervisor: Supervisor::new(launch, stop_deadline, ready), ports };
        let started = server.supervisor.start().and_then(|()| server.wait_ready(START_DEADLINE));
        if let Err(error) = started {
            // It may have ended by itself; detached ones would otherwise go on without anybody who knows them.
            let _ = server.kill();
            return Err(error);
        }
        Ok(server)
    }

    /// The address for clients: bootstrap servers for Kafka, a URL for the other two.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Starts the server after a `kill` or `terminate`, on the same port with the same data, and waits until it is ready.
    pub fn start_again(&self) -> Result<(), Error> {
        self.supervisor.start()?;
        self.wait_ready(START_DEADLINE)
    }

    /// The port that clients connect to.
    pub fn port(&self) -> Option<u16> {
        self.ports.first().map(PortLease::port)
    }
}

impl Supervised for Server {
    fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("endpoint", &self.endpoint).field("pid", &self.pid()).finish()
    }
}

/// A connection for one ready check, on which nothing waits for long.
pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connection =
        TcpStream::connect_timeout(&address, PROBE_TIMEOUT).map_err(|error| error.to_string())?;
    let limited = connection
        .set_read_timeout(Some(PROBE_TIMEOUT))
        .and_then(|()| connection.set_write_timeout(Some(PROBE_TIMEOUT)));
    limited.map_err(|error| error.to_string())?;
    Ok(connection)
}

/// Sends a request and reads the first bytes of the answer.
pub(crate) fn exchange<const N: usize>(
    connection: &mut (impl Read + Write),
    request: &[u8],
) -> Result<[u8; N], String> {
    let mut answer = [0; N];
    connection
        .write_all(request)
        .and_then(|()| connection.read_exact(&mut answer))
        .map_err(|error| error.to_string())?;
    Ok(answer)
}

pub(crate) fn create_folder(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(Error::io(format!("create {}", folder.display())))
}

/// Removes the folder if it exists, also if a process that was killed has children that still write their last files into it.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), Error> {
    let removed = poll(REMOVE_DEADLINE, || match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Ok(())),
        done => Some(done),
    });
    removed
        .unwrap_or(Err(io::ErrorKind::DirectoryNotEmpty.into()))
        .map_err(Error::io(format!("remove {}", folder.display())))
}

pub(crate) fn write_file(path: &Path, content: &str) -> Result<(), Error> {
    std::fs::write(path, content).map_err(Error::io(format!("write {}", path.display())))
}
