//! How many connections there may be at once, and for what.
//!
//! Every request under way has a connection of its own, and a stream keeps its for as long as it follows. Presses, streams and looks have
//! separate shares, so that thousands of waiting users never keep the next one from pressing.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Files that are no connections: the runtime's, the terminal, room for connections that are just being closed.
const OTHER_FILES: u64 = 200;

/// The limit of open files, and what the crowd wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// In force now.
    pub(crate) limit: u64,
    /// Wanted.
    pub(crate) wanted: u64,
}

impl OpenFiles {
    /// Raises this process's limit as far as it may, so that `connections` fit.
    pub(crate) fn raise(connections: u64) -> std::io::Result<Self> {
        let wanted = connections.saturating_add(OTHER_FILES);
        let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE)?;
        if hard < wanted {
            // Only root may raise the hard limit. Others keep what they have, and are told.
            drop(rlimit::setrlimit(rlimit::Resource::NOFILE, soft, wanted));
        }
        let limit = rlimit::increase_nofile_limit(wanted.max(soft))?;
        Ok(Self { limit, wanted })
    }

    /// Connections that fit.
    pub(crate) fn connections(self) -> u64 {
        self.limit.saturating_sub(OTHER_FILES).max(3)
    }

    /// What is missing and how to get it.
    pub(crate) fn shortfall(self) -> Option<String> {
        let Self { limit, wanted } = self;
        (limit < wanted).then(|| {
            format!(
                "only {limit} open files per process, {} fewer than wanted. Remedy: as root, `ulimit -Hn {wanted}` before \
                 starting (in a container: its nofile limit)",
                wanted - limit
            )
        })
    }
}

/// What the crowd needs, or gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) presses: u64,
    pub(crate) streams: u64,
    pub(crate) asks: u64,
}

impl Budget {
    /// What is needed if everybody does everything at once.
    pub(crate) fn wanted(users: u32, duplicates: f64, streams: f64) -> Self {
        // A share is drawn by lot: a little more than its mean.
        let share = |share: f64| count(f64::from(users) * (share + 0.02)) + 16;
        let users = u64::from(users);
        Self {
            presses: users + share(duplicates),
            streams: if streams > 0.0 { share(streams) } else { 0 },
            asks: users,
        }
    }

    pub(crate) fn total(self) -> u64 {
        self.presses + self.streams + self.asks
    }

    /// The same within `connections`: where they do not suffice, presses and looks get a quarter each, streams a half.
    pub(crate) fn within(self, connections: u64) -> Self {
        if self.total() <= connections {
            return self;
        }
        let presses = self.presses.min(connections / 4).max(1);
        let streams = self.streams.min(connections / 2);
        let asks = connections.saturating_sub(presses + streams).clamp(1, self.asks.max(1));
        Self { presses, streams, asks }
    }
}

#[expect(clippy::as_conversions, reason = "from a float there is no other way; it saturates")]
fn count(number: f64) -> u64 {
    number.ceil() as u64
}

/// A share of the connections.
#[derive(Clone, Debug)]
pub(crate) struct Share(Arc<Semaphore>);

impl Share {
    pub(crate) fn new(connections: u64) -> Self {
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))))
    }

    /// A place, if one is free.
    pub(crate) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    /// A place, as soon as one is free. The share is never closed.
    pub(crate) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_not_cut() {
        let wanted = Budget::wanted(400, 0.10, 0.5);
        assert!(wanted.presses >= 440 && wanted.streams >= 200 && wanted.asks == 400, "{wanted:?}");
        assert_eq!(wanted.within(wanted.total()), wanted);
    }

    #[test]
    fn what_does_not_fit_is_shared_and_never_exceeds_the_limit() {
        let wanted = Budget::wanted(100_000, 0.10, 1.0);
        let cut = wanted.within(20_000);
        assert_eq!(cut, Budget { presses: 5_000, streams: 10_000, asks: 5_000 });
        assert!(wanted.within(3).total() <= 3);
    }

    #[test]
    fn nobody_streams_where_nobody_is_to() {
        assert_eq!(Budget::wanted(1_000, 0.0, 0.0).streams, 0);
    }

    #[test]
    fn a_shortfall_names_the_numbers_and_the_remedy() {
        assert_eq!(OpenFiles { limit: 70_000, wanted: 65_536 }.shortfall(), None);
        let shortfall = OpenFiles { limit: 1_024, wanted: 65_536 }.shortfall().unwrap();
        assert!(shortfall.contains("only 1024") && shortfall.contains("ulimit -Hn 65536"), "{shortfall}");
    }
}
