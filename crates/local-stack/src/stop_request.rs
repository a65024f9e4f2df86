//! The signal by which a process is asked to end.

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// How to ask a process to end in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopRequest {
    /// SIGTERM: Kafka, Redis and our services.
    Terminate,
    /// SIGINT: PostgreSQL's fast shutdown. On SIGTERM it would wait until every client has hung up.
    Interrupt,
}

impl StopRequest {
    pub(crate) fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
        }
    }
}
