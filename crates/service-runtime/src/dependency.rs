//! A dependency that nobody needs for a while is asked all the same, so that `dependency_up` says how it is and not how it was.

use std::time::Duration;

use crate::boot::Context;

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

impl<C> Context<C> {
    /// Asks now and every ten seconds, until the process ends; what comes of it is for `ask` to note.
    pub fn keep_asking<F: Future<Output = ()> + Send>(
        &self,
        name: &'static str,
        ask: impl Fn() -> F + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(name, async move {
            loop {
                ask().await;
                tokio::select! {
                    () = shutdown.requested() => return,
                    () = tokio::time::sleep(INTERVAL) => {}
                }
            }
        });
    }
}
