//! Asking PostgreSQL, which only some requests need.

use std::time::Instant;

use infrastructure_http::{Code, Problem};
use infrastructure_postgres::{PooledConnection, PostgresError};

use crate::desk::Desk;

impl Desk {
    /// Asks PostgreSQL. Without it this request cannot be answered; others can.
    pub(crate) async fn ask_postgres<T>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut PooledConnection) -> Result<T, PostgresError>,
    ) -> Result<T, Problem> {
        self.ask_postgres_since(operation, async |connection, _| work(connection).await).await
    }

    /// The same, for work that must know since when its connection exists.
    pub(crate) async fn ask_postgres_since<T>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut PooledConnection, Instant) -> Result<T, PostgresError>,
    ) -> Result<T, Problem> {
        self.metrics.postgres.measure(operation, self.pool.run_since(work)).await.map_err(|error| {
            tracing::warn!(operation, "PostgreSQL was of no use: {error}");
            Problem::new(
                Code::Unavailable,
                "PostgreSQL does not answer now; claims and commands go on without it",
            )
        })
    }
}
