//! How a process ends, and what its exit code says.

use std::process::ExitCode;

/// Why a process ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Exit code 1: it cannot go on; its restart is the recovery.
    #[error("{0}")]
    Fatal(String),
    /// Exit code 2: arguments or configuration.
    #[error("{0}")]
    Configuration(String),
    /// Exit code 3: topics, schema or keys are not as they must be; a restart does not help.
    #[error("{0}")]
    Refused(String),
    /// Exit code 4: draining took longer than its budget.
    #[error("draining took longer than {0} ms")]
    DrainTooLong(u32),
}

impl Ended {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Fatal(_) => 1,
            Self::Configuration(_) => 2,
            Self::Refused(_) => 3,
            Self::DrainTooLong(_) => 4,
        }
    }
}

impl From<&Ended> for ExitCode {
    fn from(ended: &Ended) -> Self {
        Self::from(ended.code())
    }
}
