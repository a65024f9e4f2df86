//! One multiplexed connection per purpose, and what its errors mean.

use circuit_breaker::Breaker;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, ServerErrorKind};

use crate::client::{client, is_encrypted, refused};
use crate::config::RedisSection;
use crate::metrics::{PING, RedisMetrics};

/// Why Redis was of no use. The caller goes on without it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RedisError {
    /// No answer in time. A script may have run.
    #[error("Redis did not answer within {0:?}")]
    Timeout(Duration),
    /// Refused, broken, loading, read-only, or not tried because the last tries failed.
    #[error("Redis could not be used: {0}")]
    Unavailable(String),
}

impl RedisError {
    fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Unavailable(_) => "error",
        }
    }
}

/// A connection that comes back by itself.
#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    config: ConnectionManagerConfig,
    manager: RwLock<Option<ConnectionManager>>,
    breaker: Breaker,
    timeout: Duration,
    metrics: RedisMetrics,
}

impl Connection {
    /// A connection whose requests take at most `timeout`. It connects when it is first used.
    pub(crate) fn new(
        section: &RedisSection,
        timeout: Duration,
        metrics: RedisMetrics,
    ) -> Result<Self, RedisError> {
        let client = client(section)?;
        let in_flight = usize::try_from(section.look_ups_in_flight_max).unwrap_or(1);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(section.connect_timeout_ms.into())))
            // 500 ms by default; ours is around each request, connecting included.
            .set_response_timeout(Some(timeout))
            // 50 by default: a burst would queue in front of the socket.
            .set_pipeline_buffer_size(in_flight)
            // Reconnecting is tried by the next request, not in a loop that a request waits for.
            .set_number_of_retries(0);
        let shared = Shared {
            client,
            config,
            manager: RwLock::new(None),
            breaker: Breaker::default(),
            timeout,
            metrics,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn manager(&self) -> Result<ConnectionManager, RedisError> {
        if let Some(manager) = &*self.shared.manager.read() {
            return Ok(manager.clone());
        }
        let mut slot = self.shared.manager.write();
        if let Some(manager) = &*slot {
            return Ok(manager.clone());
        }
        let manager =
            ConnectionManager::new_lazy_with_config(self.shared.client.clone(), self.shared.config.clone())
                .map_err(|error| RedisError::Unavailable(error.to_string()))?;
        *slot = Some(manager.clone());
        Ok(manager)
    }

    /// Asks for nothing but an answer.
    pub(crate) async fn ping(&self) -> Result<(), RedisError> {
        let ask = async |manager: &mut ConnectionManager| redis::cmd("PING").query_async(manager).await;
        self.run(PING, ask).await
    }

    /// Runs one request.
    pub(crate) async fn run<T>(
        &self,
        operation: &'static str,
        request: impl AsyncFnOnce(&mut ConnectionManager) -> redis::RedisResult<T>,
    ) -> Result<T, RedisError> {
        let started = Instant::now();
        if !self.shared.breaker.allows(started) {
            return Err(RedisError::Unavailable("it did not answer the last requests".to_owned()));
        }
        let result = self.attempt(request).await;
        let label = match &result {
            Ok(_) => {
                self.shared.breaker.succeeded();
                "ok"
            }
            Err(error) => {
                // Time-outs alone never make the manager reconnect, and a server that has lost its power sends no word that it is gone.
                if self.shared.breaker.failed(Instant::now()) {
                    *self.shared.manager.write() = None;
                }
                error.label()
            }
        };
        let metrics = &self.shared.metrics;
        metrics.up.set(i64::from(result.is_ok()));
        metrics
            .request_seconds
            .with_label_values(&[operation, label])
            .observe(started.elapsed().as_secs_f64());
        result
    }

    async fn attempt<T>(
        &self,
        request: impl AsyncFnOnce(&mut ConnectionManager) -> redis::RedisResult<T>,
    ) -> Result<T, RedisError> {
        let mut manager = self.manager()?;
        match tokio::time::timeout(self.shared.timeout, request(&mut manager)).await {
            Err(_) => Err(RedisError::Timeout(self.shared.timeout)),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.is_timeout() => Err(RedisError::Timeout(self.shared.timeout)),
            Ok(Err(error)) => {
                if needs_new_connection(&error) {
                    *self.shared.manager.write() = None;
                }
                let encrypted = is_encrypted(self.shared.client.get_connection_info().addr());
                Err(refused(&error, encrypted))
            }
        }
    }
}

/// A demoted, loading or orphaned server answers politely for ever: only another connection finds the new primary.
fn needs_new_connection(error: &redis::RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown
        )
    )
}
