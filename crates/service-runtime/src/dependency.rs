//! A dependency that nobody needs for a while is asked all the same, so that `dependency_up` says how it is and not how it was.

use std::time::Duration;

use infrastructure_postgres::{Connection, PostgresSection};

use crate::boot::Context;
use crate::metrics::{PING, PostgresRequests};

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

impl<C> Context<C> {
    /// Asks now and every ten seconds, until the process ends; what comes of it is for `ask` to note.
    pub fn keep_asking<F: Future<Output = ()> + Send>(
        &self,
        name: &'static str,
        ask: impl Fn() -> F + Send + 'static,
    ) {
        self.keep_asking_every(INTERVAL, name, ask);
    }

    /// The same, at an interval of its own.
    pub fn keep_asking_every<F: Future<Output = ()> + Send>(
        &self,
        interval: Duration,
        name: &'static str,
        ask: impl Fn() -> F + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(name, async move {
            loop {
                ask().await;
                tokio::select! {
                    () = shutdown.requested() => return,
                    () = tokio::time::sleep(interval) => {}
                }
            }
        });
    }

    /// Keeps asking PostgreSQL, each time on a connection of its own: one of a pool lives on the threads of its first user, and requests have theirs.
    pub fn keep_asking_postgres(&self, section: &PostgresSection, requests: &PostgresRequests) {
        let (section, requests) = (section.clone(), requests.clone());
        self.keep_asking("ask-postgres", move || {
            let (section, requests) = (section.clone(), requests.clone());
            async move { drop(requests.measure(PING, Connection::open(&section)).await) }
        });
    }
}
