//! PostgreSQL: Debian's server programs on a cluster of our own.
//!
//! PostgreSQL refuses to run as root, so as root everything that touches the cluster runs as the user `postgres`.

mod cluster;
mod handshake;
mod shared_memory;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::account::Account;
use crate::address;
use crate::command;
use crate::encryption::Encryption;
use crate::environment;
use crate::error::Error;
use crate::install;
use crate::launch::Launch;
use crate::ports::PortLease;
use crate::server::{Hosting, Server};
use crate::stop_request::StopRequest;

pub(crate) use cluster::remove as remove_data;
pub(crate) use handshake::ask as ask_for_login;

/// The superuser of the cluster.
pub(crate) const SUPERUSER: &str = "postgres";
/// The database that always exists.
pub(crate) const MAINTENANCE_DATABASE: &str = "postgres";

/// A fast shutdown writes a checkpoint, which on a slow disk takes seconds.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Starts a PostgreSQL, on a fresh cluster if there is none yet, and waits until it lets clients in.
///
/// Without `sync` it does not wait for the disk: a killed server loses nothing, a machine that loses power may lose all.
pub(crate) fn start(hosting: &Hosting, sync: bool) -> Result<Server, Error> {
    let programs = program_folder()?;
    let account = Account::for_postgres()?;
    let cluster = cluster::prepare(hosting, &programs, account)?;
    start_on("postgres", &cluster, hosting, sync)
}

/// Starts a copy of the PostgreSQL behind this URL, which follows it until it is promoted, and waits until it lets clients in to read.
/// Its cluster lies beside the one of the same hosting, and goes with it.
pub(crate) fn start_standby(hosting: &Hosting, primary: &str, sync: bool) -> Result<Server, Error> {
    let programs = program_folder()?;
    let cluster = cluster::copy(hosting, &programs, Account::for_postgres()?, primary)?;
    start_on("postgres-standby", &cluster, hosting, sync)
}

fn start_on(name: &str, cluster: &Path, hosting: &Hosting, sync: bool) -> Result<Server, Error> {
    let programs = program_folder()?;
    let account = Account::for_postgres()?;
    let lease = PortLease::take(hosting.bind, hosting.port)?;
    let address = address::endpoint(hosting.bind, lease.port());

    let login = match hosting.url_password() {
        Some(password) => format!("{SUPERUSER}:{password}"),
        None => SUPERUSER.to_owned(),
    };
    let endpoint = format!("postgres://{login}@{address}/{MAINTENANCE_DATABASE}");
    let launch = Launch {
        name: name.to_owned(),
        program: programs.join("postgres"),
        arguments: arguments(hosting, cluster, lease.port(), sync),
        environment: vec![("LC_ALL".to_owned(), "C.UTF-8".to_owned())],
        account,
        lifetime: hosting.lifetime.clone(),
        log: hosting.log.clone(),
        stop_request: StopRequest::Interrupt,
    };
    let encryption = hosting.encryption.clone();
    let ready = Box::new(move || handshake::ask(address, encryption.as_ref()));
    Server::start(endpoint, vec![lease], launch, STOP_DEADLINE, ready)
}

/// Settings by command line; a later one wins over an earlier one, so the caller's own come last.
fn arguments(hosting: &Hosting, cluster: &Path, port: u16, sync: bool) -> Vec<OsString> {
    let on_off = if sync { "on" } else { "off" };
    let mut settings = vec![
        ("listen_addresses", hosting.bind.to_string()),
        ("port", port.to_string()),
        // Clients use TCP; a socket's path would be too long in a deep folder.
        ("unix_socket_directories", String::new()),
        ("max_connections", "300".to_owned()),
        ("shared_buffers", "128MB".to_owned()),
        ("max_wal_size", "2GB".to_owned()),
        // As files in the cluster they go with it; under /dev/shm they would outlive a killed server.
        ("dynamic_shared_memory_type", "mmap".to_owned()),
        ("jit", "off".to_owned()),
        ("timezone", "UTC".to_owned()),
        ("log_timezone", "UTC".to_owned()),
        ("log_line_prefix", "%m [%p] %q%u@%d ".to_owned()),
        ("fsync", on_off.to_owned()),
        ("full_page_writes", on_off.to_owned()),
    ];
    if hosting.encryption.is_some() {
        // Certificate and key lie in the cluster, under the names that PostgreSQL looks for.
        settings.push(("ssl", "on".to_owned()));
    }
    settings.extend(hosting.extra.iter().map(|(name, value)| (name.as_str(), value.clone())));

    let mut arguments: Vec<OsString> = vec!["-D".into(), cluster.as_os_str().to_owned()];
    arguments.extend(
        settings.into_iter().flat_map(|(name, value)| ["-c".into(), format!("{name}={value}").into()]),
    );
    arguments
}

/// The folder with the server's programs: the highest version among Debian's, else what `pg_config` says.
pub(crate) fn program_folder() -> Result<PathBuf, Error> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = debian.filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let folder = entry.path().join("bin");
        folder.join("postgres").is_file().then_some((version, folder))
    });
    if let Some((_, folder)) = versions.max() {
        return Ok(folder);
    }
    let mut ask = Command::new("pg_config");
    let answer = command::capture(ask.arg("--bindir"), "pg_config", command::SHORT).unwrap_or_default();
    let folder = PathBuf::from(answer.trim());
    if folder.join("postgres").is_file() { Ok(folder) } else { Err(install::missing("postgresql")) }
}

/// Runs one SQL command on the database and returns what it yields, without headings.
///
/// For creating databases and looking into them from tests; it starts a `psql` each time.
pub(crate) fn run_sql(
    database_url: &str,
    sql: &str,
    encryption: Option<&Encryption>,
) -> Result<String, Error> {
    // A client suffices when the server is elsewhere.
    let psql = match environment::find_program("psql") {
        Some(program) => program,
        None => program_folder()?.join("psql"),
    };
    let mut command = Account::Own.command(&psql);
    environment::remove_prefixed(&mut command, &["PG"]);
    command.env("PGCONNECT_TIMEOUT", "10");
    if let Some(encryption) = encryption {
        command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", encryption.ca_file());
    }
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", database_url]);
    command::capture(&mut command, "psql", command::SHORT)
}
