//! One long-running child: start, wait until it answers, suspend, stop, kill, start again.

use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use crate::error::Error;
use crate::launch::{Launch, Lifetime};
use crate::log_file;
use crate::process::ProcessIdentity;
use crate::waiting::poll;

/// Asks the process, in its own protocol, whether it can work; the error is what came back instead.
pub(crate) type ReadyProbe = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// How long a dying child may take until `wait` has its status.
const REAP_DEADLINE: Duration = Duration::from_secs(10);

/// Holds one process of the stack and the means to start it again in the same way.
pub struct Supervisor {
    launch: Launch,
    stop_deadline: Duration,
    ready: ReadyProbe,
    running: Mutex<Option<Running>>,
}

struct Running {
    child: Child,
    identity: ProcessIdentity,
}

impl Supervisor {
    pub(crate) fn new(launch: Launch, stop_deadline: Duration, ready: ReadyProbe) -> Self {
        Self { launch, stop_deadline, ready, running: Mutex::new(None) }
    }

    /// Starts the process; nothing happens if it runs already.
    pub(crate) fn start(&self) -> Result<(), Error> {
        let mut running = self.lock();
        let exited = match running.as_mut() {
            Some(process) => self.poll(process)?.is_some(),
            None => true,
        };
        if exited {
            let (child, identity) = self.launch.spawn()?;
            *running = Some(Running { child, identity });
        }
        Ok(())
    }

    fn name(&self) -> &str {
        &self.launch.name
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        // Every change under the lock is a single assignment, so a panic elsewhere leaves nothing half done.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, process: &mut Running) -> Result<Option<ExitStatus>, Error> {
        process.child.try_wait().map_err(Error::io(format!("wait for {}", self.name())))
    }

    fn not_running(&self) -> Error {
        Error::NotRunning { name: self.name().to_owned() }
    }

    /// The identity of the process, as long as it runs.
    fn identity(&self) -> Result<ProcessIdentity, Error> {
        let mut running = self.lock();
        let process = running.as_mut().ok_or_else(|| self.not_running())?;
        match self.poll(process)? {
            None => Ok(process.identity),
            Some(_) => Err(self.not_running()),
        }
    }

    fn signal_tree(&self, signal: Signal) -> Result<(), Error> {
        self.identity()?.signal_tree(signal).map_err(Error::io(format!("signal {}", self.name())))
    }

    fn exit_status(&self) -> Result<Option<ExitStatus>, Error> {
        self.lock().as_mut().map_or(Ok(None), |process| self.poll(process))
    }

    /// Waits until the probe is content, or the process ends, or the deadline passes.
    pub(crate) fn wait_for(
        &self,
        deadline: Duration,
        probe: &dyn Fn() -> Result<(), String>,
    ) -> Result<(), Error> {
        let mut answer = "none yet".to_owned();
        let outcome = poll(deadline, || {
            let ready = probe();
            // Asked after the probe: a stranger on the same port must not pass for a child that failed to bind it.
            match self.exit_status() {
                Ok(None) => {}
                Ok(Some(status)) => return Some(Err(self.ended_early(status))),
                Err(error) => return Some(Err(error)),
            }
            ready.map_err(|why| answer = why).ok().map(Ok)
        });
        outcome.unwrap_or_else(|| Err(self.too_late(deadline, answer)))
    }

    fn too_late(&self, deadline: Duration, answer: String) -> Error {
        Error::NotReady {
            name: self.name().to_owned(),
            seconds: deadline.as_secs(),
            answer,
            log: self.launch.log.clone(),
            tail: log_file::tail(&self.launch.log, log_file::TAIL_LINES),
        }
    }

    fn ended_early(&self, status: ExitStatus) -> Error {
        Error::EndedEarly {
            name: self.name().to_owned(),
            status,
            log: self.launch.log.clone(),
            tail: log_file::tail(&self.launch.log, log_file::TAIL_LINES),
        }
    }

    /// The status of a process that is about to end or has ended.
    fn reap(&self) -> Result<ExitStatus, Error> {
        let status = poll(REAP_DEADLINE, || {
            self.lock().as_mut().and_then(|process| process.child.try_wait().ok().flatten())
        });
        status.ok_or_else(|| {
            let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Error::io(format!("wait for the end of {}", self.name()))(timed_out)
        })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Detached children are meant to go on. The others go at once: whoever wants a graceful end calls `terminate`.
        if matches!(self.launch.lifetime, Lifetime::WithParent)
            && let Ok(identity) = self.identity()
            && identity.kill_tree().is_ok()
        {
            let _ = self.reap();
        }
    }
}

/// What can be done to every process of the stack, server or service.
///
/// Signals go to this very process (pid and start time), never by name, and reach its children too where that matters:
/// each PostgreSQL backend is a process and a session of its own.
pub trait Supervised {
    /// What holds the process.
    fn supervisor(&self) -> &Supervisor;

    /// The pid while the process runs.
    fn pid(&self) -> Option<u32> {
        self.identity().map(ProcessIdentity::pid)
    }

    /// Pid and start time while the process runs.
    fn identity(&self) -> Option<ProcessIdentity> {
        self.supervisor().identity().ok()
    }

    /// How the process ended; `None` while it runs or before its first start.
    fn exit_status(&self) -> Result<Option<ExitStatus>, Error> {
        self.supervisor().exit_status()
    }

    /// Waits until the process answers in its own protocol.
    ///
    /// # Errors
    /// At once if the process ends, at the deadline if it does not answer; both show the end of its log.
    fn wait_ready(&self, deadline: Duration) -> Result<(), Error> {
        let supervisor = self.supervisor();
        supervisor.wait_for(deadline, &supervisor.ready)
    }

    /// Waits until the process has ended by itself, and returns how.
    fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus, Error> {
        let supervisor = self.supervisor();
        let ended = poll(deadline, || supervisor.exit_status().transpose());
        ended.unwrap_or_else(|| Err(supervisor.too_late(deadline, "it still runs".to_owned())))
    }

    /// Asks the process to end and waits for it. After the deadline it is killed, which the status then shows.
    fn terminate(&self) -> Result<ExitStatus, Error> {
        let supervisor = self.supervisor();
        let request = supervisor.launch.stop_request.signal();
        supervisor
            .identity()?
            .stop(request, supervisor.stop_deadline)
            .map_err(Error::io(format!("stop {}", supervisor.name())))?;
        supervisor.reap()
    }

    /// Kills the process and its children without a warning (SIGKILL), as a crash or a power cut would.
    fn kill(&self) -> Result<ExitStatus, Error> {
        let supervisor = self.supervisor();
        supervisor.identity()?.kill_tree().map_err(Error::io(format!("kill {}", supervisor.name())))?;
        supervisor.reap()
    }

    /// Ends the process in good order if it runs, and starts it again: same ports, same data, same environment.
    /// Does not wait until it is ready.
    fn restart(&self) -> Result<(), Error> {
        match self.terminate() {
            Ok(_) | Err(Error::NotRunning { .. }) => self.supervisor().start(),
            Err(error) => Err(error),
        }
    }

    /// Suspends the process and its children (SIGSTOP): connections stay open, nothing answers.
    fn suspend(&self) -> Result<(), Error> {
        self.supervisor().signal_tree(Signal::STOP)
    }

    /// Lets a suspended process go on (SIGCONT).
    fn resume(&self) -> Result<(), Error> {
        self.supervisor().signal_tree(Signal::CONT)
    }

    /// Tells the process that its terminal is gone (SIGHUP), which services take for the wish to read files again.
    fn hang_up(&self) -> Result<(), Error> {
        self.supervisor().signal_tree(Signal::HUP)
    }

    /// The file with everything it printed.
    fn log(&self) -> PathBuf {
        self.supervisor().launch.log.clone()
    }

    /// The last lines it printed.
    fn log_tail(&self, lines: usize) -> String {
        log_file::tail(&self.supervisor().launch.log, lines)
    }
}
