//! Tasks of a user's own beside its life.

use std::future::Future;

use tokio::task::JoinHandle;

/// Starts a task. Whoever keeps the handle finds a panic in it.
#[expect(
    clippy::disallowed_methods,
    reason = "no service: a panic is found by the user who awaits the handle, and spoils the report"
)]
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(future)
}
