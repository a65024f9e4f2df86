//! The connections as one partition uses them: each is looked at before the partition first writes through it.

use std::collections::HashMap;
use std::time::Instant;

use coupon_domain::restored::PublishedBeats;
use infrastructure_postgres::shared::{ConnectionId, Lease};
use service_runtime::partition::{Interrupted, Worker};

use crate::metrics::OPEN;
use crate::writer::{Shared, interruption};

/// One partition's view of the shared connections.
pub(crate) struct Connections<'a> {
    shared: &'a Shared,
    worker: &'a Worker,
    /// What had been published of the partition, and when reading it began.
    published: PublishedBeats,
    read_at: Option<Instant>,
    /// The connection of each place that was examined.
    examined: HashMap<usize, ConnectionId>,
}

impl<'a> Connections<'a> {
    pub(crate) fn new(shared: &'a Shared, worker: &'a Worker) -> Self {
        Self { shared, worker, published: PublishedBeats::default(), read_at: None, examined: HashMap::new() }
    }

    /// A connection. One that was not examined yet is older than what is known to be published: the database behind a connection is not
    /// put back in time while it lasts, so what it says can be compared.
    pub(crate) fn lease(&mut self) -> Result<Lease, Interrupted> {
        let writer = self.worker.partition().index();
        loop {
            let (postgres, runtime) = (&self.shared.postgres, &self.shared.runtime);
            let place = self.worker.block_on(runtime, postgres.take(writer))?;
            let lease = match place.lease() {
                Ok(lease) => lease,
                Err(place) => {
                    let opening = self.shared.metrics.postgres.measure(OPEN, postgres.open(place));
                    self.worker.block_on(runtime, opening)?.map_err(interruption)?
                }
            };
            if self.is_examined(&lease) || self.read_at.is_some_and(|read_at| lease.opened_at() <= read_at) {
                return Ok(lease);
            }
            lease.give_back();
            let reading = Instant::now();
            self.published = self.shared.published.read(self.worker, &self.shared.persisted)?;
            self.read_at = Some(reading);
        }
    }

    pub(crate) fn is_examined(&self, lease: &Lease) -> bool {
        self.examined.get(&lease.id().place) == Some(&lease.id())
    }

    /// The connection of this lease was compared with [`Connections::published`].
    pub(crate) fn was_examined(&mut self, lease: &Lease) {
        self.examined.insert(lease.id().place, lease.id());
    }

    /// What had been published before the comparison.
    pub(crate) fn published(&self) -> &PublishedBeats {
        &self.published
    }
}
