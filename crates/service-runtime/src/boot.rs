//! From `main` to exit.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::config::{self, ServiceConfig};
use crate::exit::Ended;
use crate::health::{Condition, Health};
use crate::logs;
use crate::metrics::Metrics;
use crate::ops_server::{self, Ops};
use crate::sections::LogFormat;
use crate::shutdown::{Shutdown, next_signal, reload_on_hangup};
use crate::task::Tasks;
use crate::trace::Tracer;

/// Open files that a service asks for: a connection or a stream each.
const OPEN_FILES_WANTED: u64 = 65_536;
/// How long `healthcheck` waits for its own `/readyz`.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long spans that wait for their export may hold up the end of the process.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// A service.
pub trait Service: 'static {
    /// Its name: in metrics, logs, consumer groups.
    const NAME: &'static str;
    /// What it does, in one line for `--help`.
    const ABOUT: &'static str;
    /// Its configuration.
    type Config: ServiceConfig;

    /// Runs until `context.shutdown` is requested, then drains. Whatever makes it end earlier is why the process ends.
    fn run(context: Context<Self::Config>) -> impl Future<Output = Result<(), Ended>> + Send;
}

/// What a service is given to work with.
pub struct Context<C> {
    /// Its configuration.
    pub config: Arc<C>,
    /// Where its metrics are made.
    pub metrics: Metrics,
    /// What its probes tell.
    pub health: Health,
    /// `/startupz` says no until the service has met this: once everything is checked that it waits for.
    pub checked: Arc<Condition>,
    /// `/readyz` says no until the service has met this: once it listens, and all conditions of its own exist.
    pub booted: Arc<Condition>,
    /// The wall clock.
    pub clock: Clock,
    /// The wish to end.
    pub shutdown: Shutdown,
    /// Counts the wishes (SIGHUP) that files be read again.
    pub reloads: watch::Sender<u64>,
    /// Starts tasks and threads.
    pub tasks: Tasks,
    /// Makes spans.
    pub tracer: Tracer,
}

impl<C> Clone for Context<C> {
    fn clone(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            checked: Arc::clone(&self.checked),
            booted: Arc::clone(&self.booted),
            clock: self.clock.clone(),
            shutdown: self.shutdown.clone(),
            reloads: self.reloads.clone(),
            tasks: self.tasks.clone(),
            tracer: self.tracer.clone(),
        }
    }
}

/// A service's arguments.
#[derive(Parser)]
#[command(disable_version_flag = true)]
struct Arguments {
    /// Settings in TOML or JSON; the environment (FIRSTCOME__SECTION__KEY) goes over them.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Check the configuration, connect to nothing, and exit: 0 if it is right, 2 if not.
    #[arg(long)]
    check_config: bool,
    /// Print the effective configuration with the source of each value, secrets hidden, and exit.
    #[arg(long)]
    print_config: bool,
    /// Print the versions of release, librdkafka, records and schema, and exit.
    #[arg(long, short = 'V')]
    version: bool,
    #[command(subcommand)]
    command: Option<Subcommands>,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Ask the running service's own /readyz; exit 0 if it is ready.
    Healthcheck,
}

/// The `main` of a service.
#[must_use]
pub fn main<S: Service>() -> ExitCode {
    let command = <Arguments as clap::CommandFactory>::command().name(S::NAME).about(S::ABOUT);
    let arguments = match <Arguments as clap::FromArgMatches>::from_arg_matches(&command.get_matches()) {
        Ok(arguments) => arguments,
        Err(error) => return refuse::<S>(&Ended::Configuration(error.to_string())),
    };
    match dispatch::<S>(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => refuse::<S>(&ended),
    }
}

fn refuse<S: Service>(ended: &Ended) -> ExitCode {
    complain(&format!("{}: {ended}", S::NAME));
    ExitCode::from(ended)
}

fn dispatch<S: Service>(arguments: &Arguments) -> Result<(), Ended> {
    if arguments.version {
        say(&versions::<S>());
        return Ok(());
    }
    let loaded =
        config::load::<S::Config>(arguments.config.as_deref(), environment()).map_err(|problems| {
            let lines: Vec<String> =
                problems.iter().map(|problem| format!("\n  {}: {}", problem.path, problem.problem)).collect();
            Ended::Configuration(format!("the configuration is wrong:{}", lines.concat()))
        })?;
    if arguments.print_config {
        say(&loaded.print());
        return Ok(());
    }
    if arguments.check_config {
        say("the configuration is valid\n");
        return Ok(());
    }
    let printed = loaded.print();
    let settings = loaded.config;
    if matches!(arguments.command, Some(Subcommands::Healthcheck)) {
        return healthcheck(settings.runtime().ops.listen);
    }
    start::<S>(settings, &printed)
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn start<S: Service>(settings: S::Config, printed: &str) -> Result<(), Ended> {
    let runtime = settings.runtime();
    let production = runtime.profile.is_production();
    let format = runtime.log.format.unwrap_or(if production { LogFormat::Json } else { LogFormat::Text });
    let filter = logs::start(S::NAME, format, &runtime.log.filter).map_err(Ended::Configuration)?;
    tracing::info!(config = printed, "{} {} starts", S::NAME, crate::RELEASE);
    raise_open_files();

    let (listen, drain_ms_max) = (runtime.ops.listen, runtime.ops.drain_ms_max);
    let health = Health::new(Duration::from_millis(runtime.ops.loop_stall_ms_max.into()));
    let (tasks, ends) = Tasks::new();
    let tracer = match runtime.trace {
        Some(section) => Tracer::new(S::NAME, section).map_err(Ended::Configuration)?,
        None => Tracer::default(),
    };
    let finished = tracer.clone();
    let context = Context {
        metrics: Metrics::new(S::NAME),
        checked: Arc::new(health.startup_condition("checks", "not done yet")),
        booted: Arc::new(health.ready_condition("boot", "starting")),
        health,
        clock: Clock::system(),
        shutdown: Shutdown::default(),
        reloads: watch::Sender::new(0),
        tasks,
        tracer,
        config: Arc::new(settings),
    };
    ops_server::start(
        listen,
        Ops {
            health: context.health.clone(),
            metrics: context.metrics.clone(),
            filter,
            clock: context.clock.clone(),
        },
    )?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Ended::Fatal(format!("no runtime: {error}")))?;
    let ended = tokio.block_on(supervise::<S>(context, ends, drain_ms_max));
    finished.flush(FLUSH_PATIENCE);
    // Clients of librdkafka may take as long as their session to be dropped; what had to be drained has been.
    std::process::exit(match ended {
        Ok(()) => 0,
        Err(ended) => {
            tracing::error!(runbook = "CouponRestartLoop", code = ended.code(), "the process ends: {ended}");
            ended.code().into()
        }
    })
}

/// Runs the service until it ends, is asked to end, or something in it fails.
async fn supervise<S: Service>(
    context: Context<S::Config>,
    mut ends: mpsc::Receiver<Ended>,
    drain_ms_max: u32,
) -> Result<(), Ended> {
    // Before anything else: a signal that nobody waits for yet would end the process.
    reload_on_hangup(&context.tasks, context.reloads.clone())
        .map_err(|error| Ended::Fatal(format!("no signal handlers: {error}")))?;
    let running = S::run(context.clone());
    tokio::pin!(running);
    let signal = tokio::select! {
        result = &mut running => return result,
        Some(ended) = ends.recv() => return Err(ended),
        signal = next_signal() => signal.map_err(|error| Ended::Fatal(format!("no signal handlers: {error}")))?,
    };
    tracing::info!(signal, "draining");
    context.health.start_draining();
    context.shutdown.request();
    tokio::select! {
        result = &mut running => {
            tracing::info!("drained");
            result
        }
        Some(ended) = ends.recv() => Err(ended),
        () = tokio::time::sleep(Duration::from_millis(drain_ms_max.into())) => Err(Ended::DrainTooLong(drain_ms_max)),
        Ok(signal) = next_signal() => {
            tracing::warn!(signal, "a second signal: the process ends now");
            std::process::exit(128 + signal)
        }
    }
}

fn raise_open_files() {
    match rlimit::increase_nofile_limit(OPEN_FILES_WANTED) {
        Ok(got) if got < OPEN_FILES_WANTED => {
            tracing::warn!(
                "{got} open files are allowed, {OPEN_FILES_WANTED} are wanted: raise the hard limit (ulimit -Hn)"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("the limit of open files cannot be raised: {error}"),
    }
}

fn versions<S: Service>() -> String {
    format!(
        "{} {}\nlibrdkafka {}\nrecords claims {} outcomes {} state {} persisted {}, rules {}\nschema {}\n",
        S::NAME,
        crate::RELEASE,
        infrastructure_kafka::librdkafka_version(),
        coupon_domain::wire::CLAIMS_RECORD_VERSION,
        coupon_domain::wire::OUTCOME_RECORD_VERSION,
        coupon_domain::wire::STATE_RECORD_VERSION,
        coupon_domain::wire::PERSISTED_RECORD_VERSION,
        coupon_domain::coupon::RULES_NEWEST,
        infrastructure_postgres::migrations::SCHEMA_VERSION,
    )
}

/// Asks `/readyz` of the service that runs with the same configuration. By hand: the image has no shell and no curl.
fn healthcheck(listen: SocketAddr) -> Result<(), Ended> {
    let ip = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    let ask = || -> std::io::Result<String> {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::new(ip, listen.port()), HEALTHCHECK_TIMEOUT)?;
        stream.set_read_timeout(Some(HEALTHCHECK_TIMEOUT))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(16 * 1024).read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
        Ok(answer) => {
            let reasons = answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_owned();
            Err(Ended::Fatal(format!("not ready: {reasons}")))
        }
        Err(error) => Err(Ended::Fatal(format!("no answer from {ip}:{}: {error}", listen.port()))),
    }
}

#[expect(clippy::print_stdout, reason = "what the user asked to be printed")]
fn say(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "before logging has started")]
fn complain(text: &str) {
    eprintln!("{text}");
}
