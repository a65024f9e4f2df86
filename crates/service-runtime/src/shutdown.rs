//! Ending in order: a signal asks for it once; a second one ends the process at once. SIGHUP ends nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::task::Tasks;

/// The wish to end, shared by everything in the process.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    requested: Arc<AtomicBool>,
}

impl Shutdown {
    /// Asks everything to stop taking work and drain.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// True once it was asked for. For threads that poll.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Waits until it is asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The token behind it, for those who hand it on.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

/// Waits for SIGTERM or SIGINT; returns the signal's number.
///
/// # Errors
/// The system gives no signal handlers.
pub(crate) async fn next_signal() -> std::io::Result<i32> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
    })
}

/// Counts every SIGHUP from now on.
///
/// # Errors
/// The system gives no signal handlers.
pub(crate) fn reload_on_hangup(tasks: &Tasks, reloads: watch::Sender<u64>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tasks.spawn("reload", async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: files of keys are read again; other settings need a restart");
            reloads.send_modify(|count| *count += 1);
        }
    });
    Ok(())
}
