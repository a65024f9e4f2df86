//! Connections: a dedicated one per writer, a pool for requests, and what their errors mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use circuit_breaker::Breaker;
use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::pooled_connection::deadpool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::FutureExt as _;

use crate::config::PostgresSection;
use crate::connector::Connector;

/// What a session of ours needs whatever the server's defaults: commits that are durable, and no statement that goes on after its time.
fn session_settings(statement_timeout_ms: u32) -> String {
    format!(
        "SET synchronous_commit = on; SET statement_timeout = {statement_timeout_ms}; \
         SET idle_in_transaction_session_timeout = {statement_timeout_ms}"
    )
}

/// An error, told apart by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// Away, in recovery, too slow: try again, with a new connection.
    #[error("PostgreSQL did not answer: {0}")]
    Unreachable(String),
    /// Too slow: as [`PostgresError::Unreachable`].
    #[error("PostgreSQL did not answer in time: {0}")]
    Timeout(String),
    /// A UNIQUE or CHECK constraint says no: the log and the tables disagree, and nobody may decide which is right but a
    /// person.
    #[error("PostgreSQL's constraint {constraint} refuses: {message}")]
    Constraint {
        /// The constraint's name.
        constraint: String,
        /// PostgreSQL's message.
        message: String,
    },
    /// The tables are not those that this release works with.
    #[error("{0}")]
    Schema(String),
    /// Rows that do not fit each other or their types.
    #[error("PostgreSQL holds what cannot be: {0}")]
    Torn(String),
}

impl PostgresError {
    /// How requests end, as the metrics say it.
    pub const RESULTS: [&str; 3] = ["ok", "timeout", "error"];

    /// How this request ended, as the metrics say it.
    #[must_use]
    pub fn result<T>(result: &Result<T, Self>) -> &'static str {
        match result {
            Ok(_) => "ok",
            Err(Self::Timeout(_)) => "timeout",
            Err(_) => "error",
        }
    }

    /// True where nothing was learned: nobody answered, or not with tables that this release works with.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.is_passing() || matches!(self, Self::Schema(_))
    }

    /// True where another connection may do better.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(_))
    }
}

impl From<DieselError> for PostgresError {
    fn from(error: DieselError) -> Self {
        match error {
            DieselError::DatabaseError(
                DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::NotNullViolation
                | DatabaseErrorKind::ForeignKeyViolation,
                information,
            ) => Self::Constraint {
                constraint: information.constraint_name().unwrap_or("?").to_owned(),
                message: information.message().to_owned(),
            },
            DieselError::DeserializationError(error) => Self::Torn(error.to_string()),
            DieselError::DatabaseError(_, ref information)
                if information.message().contains("does not exist") =>
            {
                Self::Schema(format!("{}: run `couponctl migrate`", information.message()))
            }
            // PostgreSQL's `statement_timeout` (57014), which has no kind of its own.
            DieselError::DatabaseError(_, ref information)
                if information.message().contains("statement timeout") =>
            {
                Self::Timeout(information.message().to_owned())
            }
            other => Self::Unreachable(other.to_string()),
        }
    }
}

impl From<ConnectionError> for PostgresError {
    fn from(error: ConnectionError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// A connection of one's own.
pub struct Connection {
    pub(crate) inner: AsyncPgConnection,
}

impl Connection {
    /// Connects, within `connect_timeout_ms`. A committed watermark must be durable, so commits are synchronous whatever the
    /// server's default.
    ///
    /// # Errors
    /// [`PostgresError::Unreachable`] or [`PostgresError::Timeout`].
    pub async fn open(section: &PostgresSection) -> Result<Self, PostgresError> {
        let connector = Connector::new(section)?;
        let patience = Duration::from_millis(section.connect_timeout_ms.into());
        let connecting = async {
            let mut inner = connector.diesel().await?;
            inner.batch_execute(&session_settings(section.statement_timeout_ms)).await?;
            Ok(Self { inner })
        };
        tokio::time::timeout(patience, connecting)
            .await
            .unwrap_or_else(|_| Err(PostgresError::Timeout(format!("no connection within {patience:?}"))))
    }

    /// For what is asked on a connection of one's own and on a pool's alike.
    pub fn as_pooled(&mut self) -> &mut PooledConnection {
        &mut self.inner
    }
}

/// A connection of the pool, as [`Pool::run`] lends it.
pub type PooledConnection = AsyncPgConnection;

/// A pool of connections for requests that can do without PostgreSQL.
#[derive(Clone)]
pub struct Pool {
    inner: deadpool::Pool<AsyncPgConnection>,
    patience: Duration,
    breaker: Arc<Breaker>,
}

impl Pool {
    /// A pool that connects when it is first asked.
    ///
    /// # Errors
    /// [`PostgresError::Unreachable`]: the URL or the files of the `tls` part cannot be read.
    pub fn new(section: &PostgresSection) -> Result<Self, PostgresError> {
        let mut config = ManagerConfig::default();
        // A broken connection is noticed by the next request, which then goes without PostgreSQL: no extra round trip for all.
        config.recycling_method = RecyclingMethod::Fast;
        // Beyond the request's own time nobody waits for the statement any more. What is born here (redemptions) must be durable as well.
        let settings = session_settings(section.request_timeout_ms);
        let connector = Connector::new(section)?;
        config.custom_setup = Box::new(move |_| {
            let (connector, settings) = (connector.clone(), settings.clone());
            async move {
                let mut connection = connector.diesel().await?;
                connection
                    .batch_execute(&settings)
                    .await
                    .map_err(ConnectionError::CouldntSetupConfiguration)?;
                Ok(connection)
            }
            .boxed()
        });
        // The URL is the connector's.
        let manager = AsyncDieselConnectionManager::new_with_config("", config);
        let inner = deadpool::Pool::builder(manager)
            .max_size(usize::try_from(section.pool_size_max).unwrap_or(1))
            .build()
            .map_err(|error| PostgresError::Unreachable(error.to_string()))?;
        let patience = Duration::from_millis(section.request_timeout_ms.into());
        Ok(Self { inner, patience, breaker: Arc::default() })
    }

    /// Does `work` on a pooled connection, all within `request_timeout_ms`. A connection on which anything failed, or whose work was not
    /// awaited to its end, is not used again: it may still be busy, or in a transaction. Behind a circuit breaker: after a few requests in a row that nobody
    /// answered in time, the next ones fail at once, but for one now and then that tries again.
    ///
    /// # Errors
    /// [`PostgresError`], also where the time is over.
    pub async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresError> {
        self.run_since(async |connection, _| work(connection).await).await
    }

    /// The same as [`Pool::run`] for work that must know since when its connection exists: the database behind a connection is not put
    /// back in time while it lasts.
    ///
    /// # Errors
    /// As [`Pool::run`].
    pub async fn run_since<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection, Instant) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresError> {
        if !self.breaker.allows(Instant::now()) {
            return Err(PostgresError::Unreachable("it did not answer the last requests".to_owned()));
        }
        let running = async {
            let object =
                self.inner.get().await.map_err(|error| PostgresError::Unreachable(error.to_string()))?;
            let connected_at = deadpool::Object::metrics(&object).created;
            let mut lent = Lent(Some(object));
            let Some(connection) = &mut lent.0 else { unreachable!("it was lent just now") };
            let result = work(connection, connected_at).await;
            if !result.as_ref().is_err_and(PostgresError::is_passing) {
                lent.give_back();
            }
            result
        };
        let result = tokio::time::timeout(self.patience, running)
            .await
            .unwrap_or_else(|_| Err(PostgresError::Timeout(format!("no answer within {:?}", self.patience))));
        if result.as_ref().is_err_and(PostgresError::is_passing) {
            self.breaker.failed(Instant::now());
        } else {
            self.breaker.succeeded();
        }
        result
    }

    /// How many connections are open. The one that has waited longest is lent first: whoever asks as often has asked on each that was free.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.status().size
    }

    /// How many connections are in use, and how many there may be.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        let status = self.inner.status();
        (status.size.saturating_sub(status.available), status.max_size)
    }
}

/// A connection of the pool while somebody works on it. Dropped, it leaves the pool: so it goes when the work fails, and when whoever
/// waited for it goes away.
struct Lent(Option<deadpool::Object<AsyncPgConnection>>);

impl Lent {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(deadpool::Object::take(object));
        }
    }
}
