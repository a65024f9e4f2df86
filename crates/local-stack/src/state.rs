//! What the state directory remembers between `up` and `down`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::process::ProcessIdentity;
use crate::stop_request::StopRequest;

/// How far `up` came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// `up` is at work, or was interrupted.
    Starting,
    /// Everything was ready.
    Up,
}

/// One process of the stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) identity: ProcessIdentity,
    pub(crate) stop_request: StopRequest,
}

/// The content of `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Pids and start times mean nothing after a reboot.
    boot_id: String,
    /// Whether the servers flush to disk; without, the data of a machine that crashed is not to be trusted.
    pub(crate) sync: bool,
    pub(crate) processes: Vec<ProcessRecord>,
    /// What `local-stack env` prints.
    pub(crate) environment: BTreeMap<String, String>,
}

impl State {
    pub(crate) fn starting(sync: bool) -> Self {
        Self {
            phase: Phase::Starting,
            boot_id: boot_id(),
            sync,
            processes: Vec::new(),
            environment: BTreeMap::new(),
        }
    }

    /// Whether everything came up and still runs.
    pub(crate) fn is_up(&self) -> bool {
        self.phase == Phase::Up && self.is_of_this_boot() && self.dead().next().is_none()
    }

    /// Whether the machine has been running since.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot_id == boot_id()
    }

    /// Whether this very process of the stack still runs.
    pub(crate) fn is_running(&self, record: &ProcessRecord) -> bool {
        self.is_of_this_boot() && record.identity.is_running()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &ProcessRecord> {
        self.processes.iter().filter(|record| self.is_running(record))
    }

    pub(crate) fn dead(&self) -> impl Iterator<Item = &ProcessRecord> {
        self.processes.iter().filter(|record| !self.is_running(record))
    }
}

/// Keeps `state.json` up to date while servers start, so that an interrupted `up` leaves nothing that `down` cannot find.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    state: Mutex<State>,
}

impl Journal {
    pub(crate) fn create(path: PathBuf, state: State) -> Result<Self, Error> {
        let journal = Self { path, state: Mutex::new(state) };
        journal.update(|_| ())?;
        Ok(journal)
    }

    /// Notes a process that was just started, in place of an earlier one of that name.
    pub(crate) fn record(
        &self,
        name: &str,
        identity: ProcessIdentity,
        stop_request: StopRequest,
    ) -> Result<(), Error> {
        self.update(|state| {
            state.processes.retain(|record| record.name != name);
            state.processes.push(ProcessRecord { name: name.to_owned(), identity, stop_request });
        })
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), Error> {
        let mut state = self.lock();
        change(&mut state);
        write_json(&self.path, &*state)
    }

    pub(crate) fn state(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file of the state directory; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|reason| Error::State { path: path.to_owned(), reason })
}

/// Writes a file of the state directory in one step, readable by its owner only: it contains secrets.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = fs::File::create(&new)?;
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        fs::rename(&new, path)
    };
    write().map_err(Error::io(format!("write {}", path.display())))
}

/// Another one after each boot; empty where the kernel does not say.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_boot_is_not_running() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let journal = Journal::create(path.clone(), State::starting(true)).unwrap();
        journal.record("me", own, StopRequest::Terminate).unwrap();
        journal.record("me", own, StopRequest::Interrupt).unwrap();

        let mut state: State = read_json(&path).unwrap().unwrap();
        assert_eq!(state.running().count(), 1);
        assert_eq!(state.processes[0].stop_request, StopRequest::Interrupt);
        state.boot_id = "an earlier boot".to_owned();
        assert_eq!(state.running().count(), 0);
        assert_eq!(state.dead().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_unreadable_state_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert!(read_json::<State>(&path).unwrap().is_none());
        fs::write(&path, "{").unwrap();
        let error = read_json::<State>(&path).unwrap_err().to_string();
        assert!(error.contains("remove the folder"), "{error}");
    }
}
