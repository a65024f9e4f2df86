//! `local-stack exec`: servers for the time of one command.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::environment;
use crate::install;
use crate::process::ProcessIdentity;
use crate::servers::{Servers, ServersOptions};

/// Starts servers that die with us, runs the command, stops the servers.
pub(super) fn run(options: ServersOptions, words: &[OsString]) -> anyhow::Result<ExitCode> {
    let relay = Relay::listen()?;
    install::ensure(&options.needs()?, &mut super::say)?;
    let servers = Servers::start(options)?;
    let code = match relay.received() {
        Some(signal) => exit_code_of_signal(signal),
        None => run_command(&servers, words, &relay)?,
    };
    servers.stop()?;
    Ok(ExitCode::from(code))
}

fn run_command(servers: &Servers, words: &[OsString], relay: &Relay) -> anyhow::Result<u8> {
    let name = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    // It must not outlive us either: it would run on without its servers.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .args(words)
        .env(environment::KAFKA_BOOTSTRAP, servers.kafka_bootstrap())
        .env(environment::DATABASE_URL, servers.database_url())
        .env(environment::REDIS_URL, servers.redis_url());
    // At a terminal the command stays in the foreground group, where it may read and hears Ctrl-C by itself. Elsewhere it
    // gets a group of its own, so that we can pass signals to all of it.
    let own_group = !io::stdin().is_terminal();
    if own_group {
        command.process_group(0);
    }
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    relay.pass_to(ProcessIdentity::of(child.id()), own_group);
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    relay.pass_to(None, own_group);
    Ok(exit_code(status))
}

/// As a shell would say it.
fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => exit_code_of_signal(signal),
        (None, None) => 1,
    }
}

fn exit_code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

/// Passes SIGINT, SIGTERM and SIGHUP on to the command. A second one ends us at once, and the kernel ends the servers.
#[derive(Clone)]
struct Relay(Arc<Mutex<Relayed>>);

#[derive(Default)]
struct Relayed {
    received: Option<i32>,
    command: Option<ProcessIdentity>,
    own_group: bool,
}

impl Relay {
    fn listen() -> anyhow::Result<Self> {
        let relay = Self(Arc::default());
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
        let heard = relay.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                heard.hear(signal);
            }
        })?;
        Ok(relay)
    }

    fn lock(&self) -> MutexGuard<'_, Relayed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self) -> Option<i32> {
        self.lock().received
    }

    fn pass_to(&self, command: Option<ProcessIdentity>, own_group: bool) {
        let mut relayed = self.lock();
        relayed.command = command;
        relayed.own_group = own_group;
        if let Some(signal) = relayed.received {
            relayed.pass(signal);
        }
    }

    fn hear(&self, signal: i32) {
        let mut relayed = self.lock();
        if relayed.received.replace(signal).is_some() {
            std::process::exit(i32::from(exit_code_of_signal(signal)));
        }
        relayed.pass(signal);
    }
}

impl Relayed {
    /// Best effort: a command that has just ended needs no signal.
    fn pass(&self, signal: i32) {
        let (Some(command), Some(named)) = (self.command, Signal::from_named_raw(signal)) else {
            return;
        };
        if !self.own_group {
            // The terminal has sent SIGINT to the command itself.
            if signal != SIGINT {
                let _ = command.signal(named);
            }
        } else if command.is_running()
            && let Some(group) = i32::try_from(command.pid()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, named);
        }
    }
}
