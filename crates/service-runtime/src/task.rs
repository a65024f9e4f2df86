//! Tasks and threads with names. One that panics, or that ends although it should not, ends the process: silence would be worse.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::thread::JoinHandle;

use futures_util::FutureExt;
use tokio::sync::mpsc;

use crate::exit::Ended;

/// Fatal ends waiting to be taken; the first is enough.
const ENDS_MAX: usize = 8;

/// Starts tasks and threads, and hears of their failures.
#[derive(Clone, Debug)]
pub struct Tasks {
    ends: mpsc::Sender<Ended>,
}

impl Tasks {
    /// A starter of tasks, and the place where their failures arrive.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Ended>) {
        let (ends, arrived) = mpsc::channel(ENDS_MAX);
        (Self { ends }, arrived)
    }

    /// Ends the process for this reason.
    pub fn end(&self, ended: Ended) {
        tracing::error!(runbook = "CouponRestartLoop", "{ended}");
        // Full: the process is ending for another reason already.
        drop(self.ends.try_send(ended));
    }

    /// Starts a task. If it panics, the process ends.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<Option<T>> {
        let tasks = self.clone();
        #[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
        tokio::spawn(async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(output) => Some(output),
                Err(_) => {
                    tasks.end(Ended::Fatal(format!("task {name} panicked")));
                    None
                }
            }
        })
    }

    /// Starts a task that must succeed. If it fails or panics, the process ends.
    pub fn spawn_essential(
        &self,
        name: &'static str,
        future: impl Future<Output = Result<(), Ended>> + Send + 'static,
    ) -> tokio::task::JoinHandle<Option<()>> {
        let tasks = self.clone();
        self.spawn(name, async move {
            if let Err(ended) = future.await {
                tasks.end(ended);
            }
        })
    }

    /// Starts a thread. If it fails or panics, the process ends.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn thread(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(), Ended> + Send + 'static,
    ) -> Result<JoinHandle<()>, Ended> {
        let tasks = self.clone();
        let named = name.to_owned();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || match std::panic::catch_unwind(AssertUnwindSafe(work)) {
                Ok(Ok(())) => {}
                Ok(Err(ended)) => tasks.end(ended),
                Err(_) => tasks.end(Ended::Fatal(format!("thread {named} panicked"))),
            })
            .map_err(|error| Ended::Fatal(format!("no thread for {name}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_and_a_failure_end_the_process() {
        let (tasks, mut ends) = Tasks::new();
        tasks.spawn("breaks", async { panic!("on purpose") });
        assert!(ends.recv().await.unwrap().to_string().contains("task breaks panicked"));
        tasks.spawn_essential("fails", async { Err(Ended::Refused("no".to_owned())) });
        assert_eq!(ends.recv().await.unwrap().code(), 3);
        tasks.thread("dies", || panic!("on purpose")).unwrap().join().unwrap();
        assert!(ends.recv().await.unwrap().to_string().contains("thread dies panicked"));
    }
}
