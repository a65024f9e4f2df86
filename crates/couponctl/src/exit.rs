//! How a command can fail, and the exit code that says so.

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Exit code 2: arguments or configuration.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3: topics or schema are not as they must be.
    #[error("{0}")]
    Refused(String),
    /// Exit code 5: a promise was seen broken.
    #[error("a promise is broken: {0}")]
    BrokenPromise(String),
    /// Exit code 6: everything works, but the answer is no.
    #[error("{0}")]
    SaidNo(String),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::BrokenPromise(_) => 5,
            Self::SaidNo(_) => 6,
        }
    }
}

/// Makes a failure of whatever went wrong while doing something.
pub(crate) fn failed<E: std::fmt::Display>(doing: &str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Failed(format!("{doing}: {error}"))
}
