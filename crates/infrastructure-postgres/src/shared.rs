//! A bounded number of connections that many writers share. Each statement of a writer is its own transaction and says where the watermark must
//! stand, so any connection serves any partition; only the look at a connection that a writer has not used yet is the writer's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::config::PostgresSection;
use crate::connection::{Connection, PostgresError};

/// At most `postgres.pool_size_max` connections, opened when they are needed.
pub struct SharedConnections {
    section: PostgresSection,
    places: Vec<Arc<Mutex<Option<Open>>>>,
    opened: AtomicU64,
}

struct Open {
    connection: Connection,
    id: ConnectionId,
    opened_at: Instant,
}

/// A connection's number: never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Where it lies: there are no more places than connections.
    pub place: usize,
    number: u64,
}

/// A place while one writer has it.
pub struct Place {
    index: usize,
    place: OwnedMutexGuard<Option<Open>>,
}

/// A connection while one writer has it. Dropped, it is closed: so it goes where a statement was not awaited to its end, or failed as if the
/// connection were broken.
pub struct Lease {
    place: OwnedMutexGuard<Option<Open>>,
    open: Open,
}

impl SharedConnections {
    /// None is open yet.
    #[must_use]
    pub fn new(section: &PostgresSection) -> Self {
        let most = usize::try_from(section.pool_size_max).unwrap_or(1).max(1);
        let places = (0..most).map(|_| Arc::default()).collect();
        Self { section: section.clone(), places, opened: AtomicU64::new(0) }
    }

    /// A place: the one that this writer had before where that is free, for it has looked at the connection there; else any; else it waits.
    pub async fn take(&self, writer: usize) -> Place {
        let most = self.places.len();
        let in_turn = (0..most).map(|step| writer.wrapping_add(step) % most);
        let free = in_turn.filter_map(|index| {
            let place = Arc::clone(self.places.get(index)?).try_lock_owned().ok()?;
            Some(Place { index, place })
        });
        if let Some(free) = { free }.next() {
            return free;
        }
        let index = writer % most;
        #[expect(
            clippy::indexing_slicing,
            reason = "there is at least one, and the index is below their number"
        )]
        let place = Arc::clone(&self.places[index]).lock_owned().await;
        Place { index, place }
    }

    /// Opens the connection of a place that has none.
    ///
    /// # Errors
    /// See [`Connection::open`].
    pub async fn open(&self, place: Place) -> Result<Lease, PostgresError> {
        let connection = Connection::open(&self.section).await?;
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let id = ConnectionId { place: place.index, number };
        Ok(Lease { place: place.place, open: Open { connection, id, opened_at: Instant::now() } })
    }

    /// How many are in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.places.iter().filter(|place| place.try_lock().is_err()).count()
    }
}

impl Place {
    /// The connection that is open there, if one is.
    ///
    /// # Errors
    /// The place: see [`SharedConnections::open`].
    pub fn lease(mut self) -> Result<Lease, Self> {
        match self.place.take() {
            Some(open) => Ok(Lease { place: self.place, open }),
            None => Err(self),
        }
    }
}

impl Lease {
    /// The connection.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.open.connection
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.open.id
    }

    /// Since when it exists: the database behind a connection is not put back in time while it lasts.
    #[must_use]
    pub fn opened_at(&self) -> Instant {
        self.open.opened_at
    }

    /// For the next writer.
    pub fn give_back(self) {
        let Self { mut place, open } = self;
        *place = Some(open);
    }

    /// For the next writer, unless what became of the work says that the connection is broken.
    pub fn give_back_after<T>(self, result: Result<T, &PostgresError>) {
        if !result.is_err_and(PostgresError::is_passing) {
            self.give_back();
        }
    }
}
