//! What can go wrong with a stack, each with the remedy in its message.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a stack could not be installed, started, used or stopped.
///
/// Nothing here is worth an automatic retry: each message says what a person has to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file, a socket or a process.
    #[error("cannot {action}: {reason}")]
    Io {
        /// What was tried, as the rest of a sentence that starts with "cannot".
        action: String,
        /// What the operating system said. Not the error's `source`: whoever prints the chain would read it twice.
        reason: io::Error,
    },

    /// Something that has to be installed is missing, and we may not or could not install it.
    #[error("{what} is missing. Remedy: {remedy}")]
    Missing {
        /// What is missing, in words.
        what: String,
        /// The one command to run.
        remedy: String,
    },

    /// A program that runs to its end (initdb, mvn, cargo, psql, couponctl …) failed.
    #[error("{what} failed ({status}):\n{output}")]
    CommandFailed {
        /// What the program was run for.
        what: String,
        /// Its exit status, or why there is none.
        status: String,
        /// The end of what it printed.
        output: String,
    },

    /// A server or service ended before it was ready.
    #[error("{name} ended before it was ready ({status}); the end of {}:\n{tail}", log.display())]
    EndedEarly {
        /// The process's name in this stack.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },

    /// A server or service did not do what was waited for (become ready, end) in time.
    #[error("{name} kept us waiting for {seconds} s (last answer: {answer}); the end of {}:\n{tail}", log.display())]
    NotReady {
        /// The process's name in this stack.
        name: String,
        /// How long we waited.
        seconds: u64,
        /// What the last attempt met.
        answer: String,
        /// Its log file.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },

    /// The operation needs a process that is not running.
    #[error("{name} is not running; start it with restart()")]
    NotRunning {
        /// The process's name in this stack.
        name: String,
    },

    /// No port could be leased.
    #[error("no free port {range} on {bind}; stop what holds them or choose another --bind")]
    NoFreePort {
        /// The ports that were tried.
        range: String,
        /// The address they were tried on.
        bind: std::net::IpAddr,
    },

    /// Neither the current folder nor one above it is this project.
    #[error("no workspace with crates/local-stack at or above {}; change into the project, or pass --dir and set LOCAL_STACK_CACHE", start.display())]
    WorkspaceNotFound {
        /// Where the search began.
        start: PathBuf,
    },

    /// Another `up` or `down` of the same stack is at work.
    #[error("another `local-stack up` or `down` holds {}; wait for it to end", lock.display())]
    Busy {
        /// The lock file.
        lock: PathBuf,
    },

    /// A server was given by address; we neither own nor control it.
    #[error(
        "{server} was given by address, so it cannot be controlled from here; start an own stack with Servers::start"
    )]
    External {
        /// Which server.
        server: &'static str,
    },

    /// Some of the stack's processes have ended.
    #[error(
        "the stack is partly up: {dead} not running (see `local-stack logs`). Remedy: `local-stack down` (`--keep-data` keeps the data), then `up`"
    )]
    PartlyUp {
        /// The names of the ended processes.
        dead: String,
    },

    /// The command needs a stack that is up.
    #[error("no stack is up in {}; run `local-stack up`", directory.display())]
    NotUp {
        /// The state directory.
        directory: PathBuf,
    },

    /// A file of the state directory cannot be understood.
    #[error("{} is unreadable ({reason}); stop what still runs by hand, then remove the folder {}", path.display(), path.parent().unwrap_or(path).display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: serde_json::Error,
    },

    /// An argument or an address makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Turns an I/O error into [`Error::Io`]: `.map_err(Error::io("create /x"))`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |reason| Self::Io { action, reason }
    }
}
