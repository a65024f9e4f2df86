//! The command line of `local-stack`.

mod exec;
mod logs;
mod show;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::environment;
use crate::install;
use crate::ports::PortWish;
use crate::servers::{ExternalServers, ServersOptions};
use crate::stack::{Stack, Up, UpOptions};

/// Apache Kafka, PostgreSQL, Redis and the four services on this machine, without Docker.
#[derive(Debug, Parser)]
#[command(name = "local-stack", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing (as root) and fetch Kafka. Quick if nothing is.
    Install(External),
    /// Start everything and leave it running.
    Up(UpArguments),
    /// Stop everything and remove the data. The logs stay until the next `up`.
    Down {
        #[command(flatten)]
        directory: Directory,
        /// Keep data, secrets and ports for the next `up`.
        #[arg(long)]
        keep_data: bool,
    },
    /// Show what runs and whether it answers. Exit code 1 unless everything does.
    Status {
        #[command(flatten)]
        directory: Directory,
        /// How to show it.
        #[arg(long, short, value_enum, default_value = "table")]
        output: show::Output,
    },
    /// Show logs of all servers and services, or of one.
    Logs {
        #[command(flatten)]
        directory: Directory,
        /// Name of a server or service, as `status` shows it.
        service: Option<String>,
        /// Go on as the logs grow.
        #[arg(long, short)]
        follow: bool,
        /// How many lines of each log to begin with.
        #[arg(long, short = 'n', default_value_t = 50)]
        lines: usize,
    },
    /// Print addresses and secrets of the running stack as KEY=VALUE lines for a shell.
    Env {
        #[command(flatten)]
        directory: Directory,
    },
    /// Run a command with throw-away servers, then stop them. Exits as the command does.
    ///
    /// The command finds their addresses in LOCAL_STACK_KAFKA_BOOTSTRAP, LOCAL_STACK_DATABASE_URL (superuser, maintenance
    /// database) and LOCAL_STACK_REDIS_URL.
    Exec {
        #[command(flatten)]
        external: External,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct Directory {
    /// Folder for state, data and logs [default: .local-stack in the workspace].
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Servers that somebody else runs are used, and never started or stopped.
#[derive(Debug, Args)]
struct External {
    /// Bootstrap servers of a Kafka that runs already.
    #[arg(long, env = environment::KAFKA_BOOTSTRAP)]
    kafka_bootstrap: Option<String>,
    /// URL of a PostgreSQL that runs already: maintenance database, as a user who may create databases.
    #[arg(long, env = environment::DATABASE_URL, hide_env_values = true)]
    database_url: Option<String>,
    /// URL of a Redis that runs already.
    #[arg(long, env = environment::REDIS_URL, hide_env_values = true)]
    redis_url: Option<String>,
    /// An installed Kafka distribution, instead of fetching one.
    #[arg(long, env = environment::KAFKA_HOME)]
    kafka_home: Option<PathBuf>,
    /// Folder for what is fetched once [default: .cache in the workspace].
    #[arg(long, env = environment::CACHE)]
    cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct UpArguments {
    #[command(flatten)]
    directory: Directory,
    #[command(flatten)]
    external: External,
    /// Build and run the services with optimisation.
    #[arg(long)]
    release: bool,
    /// Start the servers only.
    #[arg(long)]
    no_services: bool,
    /// Take the services' binaries as they are.
    #[arg(long)]
    no_build: bool,
    /// Servers that speak TLS and nothing else, with throw-away certificates and a password; `env` tells what their clients need.
    #[arg(long)]
    tls: bool,
    /// PostgreSQL does not wait for the disk: faster, but a power cut may lose everything.
    #[arg(long)]
    no_sync: bool,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    partitions: u32,
    /// Address to listen on. Kafka tells its clients this address, so name the one that they can reach.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Port of the user API [default: 8080 if it is free].
    #[arg(long)]
    api_port: Option<u16>,
    /// Port of the admin API [default: 8081 if it is free].
    #[arg(long)]
    admin_port: Option<u16>,
    /// Port of the notifier [default: 8082 if it is free].
    #[arg(long)]
    notifier_port: Option<u16>,
}

impl External {
    fn options(self) -> ServersOptions {
        let set = |value: Option<String>| value.filter(|value| !value.is_empty());
        ServersOptions {
            external: ExternalServers {
                kafka_bootstrap: set(self.kafka_bootstrap),
                database_url: set(self.database_url),
                redis_url: set(self.redis_url),
            },
            kafka_home: self.kafka_home,
            cache: self.cache,
            ..ServersOptions::default()
        }
    }
}

impl UpArguments {
    fn options(self) -> UpOptions {
        let port = |given: Option<u16>, usual| given.map_or(PortWish::Prefer(usual), PortWish::Exactly);
        let servers = self.external.options();
        UpOptions {
            bind: self.bind,
            encrypted: self.tls,
            release: self.release,
            services: !self.no_services,
            build: !self.no_build,
            sync: !self.no_sync,
            partitions: self.partitions,
            external: servers.external,
            kafka_home: servers.kafka_home,
            cache: servers.cache,
            api_port: port(self.api_port, 8080),
            admin_port: port(self.admin_port, 8081),
            notifier_port: port(self.notifier_port, 8082),
        }
    }
}

/// Reads the arguments and does what they say: exit code 0 if that went well, 1 if not, 2 for arguments that make no sense.
pub fn main() -> ExitCode {
    match run(Cli::parse().command, &mut io::stdout()) {
        Ok(code) => code,
        // `local-stack logs | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match command {
        Command::Install(external) => {
            install::ensure(&external.options().needs()?, &mut say)?;
            writeln!(out, "everything is installed")?;
        }
        Command::Up(mut arguments) => {
            let stack = Stack::locate(arguments.directory.dir.take().as_deref())?;
            let headline = match stack.up(&arguments.options(), &mut say)? {
                Up::Already => "the stack is already up",
                Up::Started => "the stack is up",
            };
            writeln!(out, "{headline}\n")?;
            show::status(&stack.status()?, show::Output::Table, out)?;
            show::addresses(&stack.environment()?, out)?;
        }
        Command::Down { directory, keep_data } => {
            let stopped = Stack::locate(directory.dir.as_deref())?.down(keep_data)?;
            writeln!(out, "{}", if stopped { "the stack is down" } else { "no stack was up" })?;
        }
        Command::Status { directory, output } => {
            let status = Stack::locate(directory.dir.as_deref())?.status()?;
            show::status(&status, output, out)?;
            return Ok(if status.up { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Logs { directory, service, follow, lines } => {
            let folder = Stack::locate(directory.dir.as_deref())?.log_directory();
            logs::show(&folder, service.as_deref(), lines, follow, out)?;
        }
        Command::Env { directory } => {
            show::environment(&Stack::locate(directory.dir.as_deref())?.environment()?, out)?;
        }
        Command::Exec { external, command } => return exec::run(external.options(), &command),
    }
    Ok(ExitCode::SUCCESS)
}

/// Progress goes to stderr: stdout is for what a script wants.
fn say(what: &str) {
    // Whoever closed stderr does not want to hear it.
    let _ = writeln!(io::stderr(), "local-stack: {what}");
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
