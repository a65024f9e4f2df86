//! Why an audit could not be made. That is no verdict.

/// What is compared could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuditError(pub(crate) String);

/// Makes an error of whatever went wrong while doing something.
pub(crate) fn failed<E: std::fmt::Display>(doing: &str) -> impl FnOnce(E) -> AuditError {
    move |error| AuditError(format!("{doing}: {error}"))
}
