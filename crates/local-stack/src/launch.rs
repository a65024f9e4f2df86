//! How a long-running child is started: as which user, with which lifetime, writing to which log.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crate::account::Account;
use crate::environment;
use crate::error::Error;
use crate::process::ProcessIdentity;
use crate::spawner;
use crate::state::Journal;
use crate::stop_request::StopRequest;

/// Variables that configure servers and services; children get only the ones that we pass.
const FOREIGN_PREFIXES: [&str; 4] = ["FIRSTCOME__", "PG", "KAFKA_", "LOCAL_STACK_"];

/// What happens to a child when the process that started it ends.
#[derive(Debug, Clone)]
pub(crate) enum Lifetime {
    /// It is killed by the kernel, however its parent ended.
    WithParent,
    /// It goes on in a session of its own; the journal tells a later `down` what to stop.
    Detached(Option<Arc<Journal>>),
}

/// Everything needed to start a process, and to start it again.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) account: Account,
    pub(crate) lifetime: Lifetime,
    pub(crate) log: PathBuf,
    pub(crate) stop_request: StopRequest,
}

impl Launch {
    /// Starts the process; its identity is in the journal before this returns.
    pub(crate) fn spawn(&self) -> Result<(Child, ProcessIdentity), Error> {
        let mut command = self.command()?;
        let spawned = match self.lifetime {
            Lifetime::WithParent => spawner::spawn(command),
            Lifetime::Detached(_) => command.spawn(),
        };
        let mut child = spawned.map_err(Error::io(format!("start {}", self.name)))?;
        // Not yet waited for, so its entry in /proc exists even if it has ended already.
        let Some(identity) = ProcessIdentity::of(child.id()) else {
            let _ = child.kill();
            return Err(Error::Usage("/proc is not mounted; local-stack needs it".to_owned()));
        };
        if let Lifetime::Detached(Some(journal)) = &self.lifetime {
            journal.record(&self.name, identity, self.stop_request)?;
        }
        Ok((child, identity))
    }

    fn command(&self) -> Result<Command, Error> {
        let opening = Error::io(format!("open {}", self.log.display()));
        let output = OpenOptions::new().create(true).append(true).open(&self.log).map_err(opening)?;
        let errors = output.try_clone().map_err(Error::io("duplicate a log file's descriptor"))?;

        // Each wrapper executes the next program in its own place, so the child's pid is the server's.
        let mut line: Vec<OsString> = Vec::new();
        match self.lifetime {
            Lifetime::WithParent => {
                // One call of setpriv for both: a change of user clears the death signal, and setpriv sets it last.
                line.extend(["setpriv", "--pdeathsig", "KILL"].map(OsString::from));
                line.extend(self.account.setpriv_options());
            }
            Lifetime::Detached(_) => {
                line.push("setsid".into());
                line.extend(self.account.setpriv());
            }
        }
        line.push(self.program.clone().into_os_string());
        line.extend(self.arguments.iter().cloned());

        let mut words = line.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::null()).stdout(output).stderr(errors).current_dir("/");
        if matches!(self.lifetime, Lifetime::WithParent) {
            // Ctrl-C in a terminal goes to the foreground group; servers are stopped in order, by us.
            // (A detached child gets a whole session from setsid, which would fork if it led a group already.)
            command.process_group(0);
        }
        environment::remove_prefixed(&mut command, &FOREIGN_PREFIXES);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}
