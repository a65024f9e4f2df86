//! The stack of `local-stack up`: it outlives the command, and its state directory knows what to stop.

mod status;
mod up;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::credentials::{Credentials, random_text};
use crate::error::Error;
use crate::lock_file::LockFile;
use crate::ports::PortWish;
use crate::postgres;
use crate::scratch::data_folder;
use crate::server::{create_folder, remove_folder};
use crate::state::{ProcessRecord, State, read_json, write_json};
use crate::waiting::poll;
use crate::workspace::Workspace;

pub use status::{ProcessStatus, StackStatus};
pub use up::{Up, UpOptions};

/// A server that writes its last checkpoint may need a while.
const STOP_DEADLINE: Duration = Duration::from_secs(40);

/// Whoever holds the lock for longer is at work.
const LOCK_DEADLINE: Duration = Duration::from_secs(1);

/// Servers are stopped after the services that use them.
const SERVERS: [&str; 3] = ["kafka", "postgres", "redis"];

/// The stack of one state directory.
#[derive(Debug, Clone)]
pub struct Stack {
    directory: PathBuf,
}

/// What must stay the same for as long as the data does: it lies beside the data and goes with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    credentials: Credentials,
    password: String,
    /// So that addresses that somebody noted are right after the next `up`, too.
    ports: BTreeMap<String, u16>,
}

impl Kept {
    /// What the data in the directory was made with, or something new.
    fn load(stack: &Stack) -> Result<Self, Error> {
        let fresh =
            || Self { credentials: Credentials::random(), password: random_text(32), ports: BTreeMap::new() };
        Ok(read_json(&stack.kept_path())?.unwrap_or_else(fresh))
    }

    fn save(&self, stack: &Stack) -> Result<(), Error> {
        write_json(&stack.kept_path(), self)
    }

    fn port(&self, name: &str) -> PortWish {
        self.ports.get(name).map_or(PortWish::Any, |port| PortWish::Prefer(*port))
    }
}

impl Stack {
    /// The stack of this directory, or of the workspace's `.local-stack`.
    pub fn locate(directory: Option<&Path>) -> Result<Self, Error> {
        let directory = match directory {
            Some(directory) => {
                std::path::absolute(directory).map_err(Error::io("tell the current folder"))?
            }
            None => Workspace::find()?.state_directory(),
        };
        Ok(Self { directory })
    }

    /// Where state, data and logs lie.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the logs lie.
    #[must_use]
    pub fn log_directory(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// What `local-stack env` prints.
    ///
    /// # Errors
    /// [`Error::NotUp`] if no stack is up here.
    pub fn environment(&self) -> Result<BTreeMap<String, String>, Error> {
        self.state()?
            .filter(State::is_up)
            .map(|state| state.environment)
            .ok_or_else(|| Error::NotUp { directory: self.directory.clone() })
    }

    /// Stops everything and removes data (unless `keep_data`), state and lock; the logs stay. False if nothing was up.
    pub fn down(&self, keep_data: bool) -> Result<bool, Error> {
        if !self.directory.is_dir() {
            return Ok(false);
        }
        let _lock = self.lock()?;
        let state = self.state()?;
        let was_up = state.is_some();
        if let Some(state) = state {
            stop(&state)?;
        }
        if !keep_data {
            self.remove_data()?;
        }
        self.forget_state()?;
        Ok(was_up)
    }

    fn lock(&self) -> Result<LockFile, Error> {
        create_folder(&self.directory)?;
        let path = self.directory.join("lock");
        // Not refused at the first try: a child that an `up` was just forking when it was killed holds its lock until it
        // becomes the program that it is to run.
        let lock = poll(LOCK_DEADLINE, || LockFile::try_acquire(&path).transpose());
        lock.unwrap_or(Err(io::ErrorKind::WouldBlock.into())).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::Busy { lock: path.clone() },
            _ => Error::io(format!("lock {}", path.display()))(error),
        })
    }

    fn state_path(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    fn kept_path(&self) -> PathBuf {
        data_folder(&self.directory).join("kept.json")
    }

    fn state(&self) -> Result<Option<State>, Error> {
        read_json(&self.state_path())
    }

    fn forget_state(&self) -> Result<(), Error> {
        let path = self.state_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()))(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn remove_data(&self) -> Result<(), Error> {
        let data = data_folder(&self.directory);
        postgres::remove_data(&data)?;
        remove_folder(&data)
    }
}

/// Ends every process that still runs: the services side by side, then the servers side by side.
fn stop(state: &State) -> Result<(), Error> {
    let (servers, services): (Vec<_>, Vec<_>) =
        state.running().partition(|record| SERVERS.contains(&record.name.as_str()));
    stop_side_by_side(&services)?;
    stop_side_by_side(&servers)
}

fn stop_side_by_side(records: &[&ProcessRecord]) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = records
            .iter()
            .map(|record| {
                scope.spawn(|| {
                    let stopped = record.identity.stop(record.stop_request.signal(), STOP_DEADLINE);
                    stopped.map_err(Error::io(format!("stop {}", record.name)))
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
