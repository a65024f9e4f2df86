//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A deadline that only a broken system misses, on a machine however busy.
pub const GENEROUS: Duration = Duration::from_secs(60);

/// Asks again until there is an answer.
///
/// # Errors
/// There was none by the deadline, or asking failed; `what` says what was waited for.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    within(GENEROUS, what, ask).await
}

/// The same with another deadline, for what takes longer by its nature.
///
/// # Errors
/// As those of [`eventually`].
pub async fn within<T>(
    patience: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {patience:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
