//! One multiplexed connection per purpose, or per purpose and thread, and what its errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use circuit_breaker::Breaker;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, ServerErrorKind};
use thread_local::ThreadLocal;

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
    managers: Managers,
    /// Counts how often the managers were given up.
    generation: AtomicU64,
    breaker: Breaker,
    timeout: Duration,
    metrics: RedisMetrics,
}

/// Who shares a connection.
pub(crate) enum SharedBy {
    /// Everybody.
    All,
    /// The tasks of a thread. A connection lives on the thread of its first user, and asking it from another costs a system call each way to wake it.
    Thread,
}

enum Managers {
    One(Slot),
    OfThreads(Box<ThreadLocal<Slot>>),
}

/// A manager and of which generation it is.
type Slot = Mutex<Option<(u64, ConnectionManager)>>;

impl Connection {
    /// A connection whose requests take at most `timeout`. It connects when it is first used.
    pub(crate) fn new(
        section: &RedisSection,
        timeout: Duration,
        shared_by: SharedBy,
        metrics: RedisMetrics,
    ) -> Result<Self, RedisError> {
        let client = client(section)?;
        let in_flight = usize::try_from(section.look_ups_in_flight_max).unwrap_or(1);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(section.connect_timeout_ms.into())))
            // 500 ms by default; ours is around each request, connecting included.
            .set_response_timeout(None)
            // 50 by default: a burst would queue in front of the socket.
            .set_pipeline_buffer_size(in_flight)
            // Reconnecting is tried by the next request, not in a loop that a request waits for.
            .set_number_of_retries(0);
        let managers = match shared_by {
            SharedBy::All => Managers::One(Slot::default()),
            SharedBy::Thread => Managers::OfThreads(Box::default()),
        };
        let (generation, breaker) = (AtomicU64::new(0), Breaker::default());
        let shared = Shared { client, config, managers, generation, breaker, timeout, metrics };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn manager(&self, generation: u64) -> Result<ConnectionManager, RedisError> {
        let mut slot = match &self.shared.managers {
            Managers::One(slot) => slot,
            Managers::OfThreads(slots) => slots.get_or_default(),
        }
        .lock();
        if let Some((of, manager)) = &*slot
            && *of == generation
        {
            return Ok(manager.clone());
        }
        let manager =
            ConnectionManager::new_lazy_with_config(self.shared.client.clone(), self.shared.config.clone())
                .map_err(|error| RedisError::Unavailable(error.to_string()))?;
        *slot = Some((generation, manager.clone()));
        Ok(manager)
    }

    /// The next request of each thread makes a connection anew. Nothing where somebody else has seen to it since this generation.
    fn give_up_managers(&self, of: u64) {
        let next = of.wrapping_add(1);
        self.shared.generation.compare_exchange(of, next, Ordering::Relaxed, Ordering::Relaxed).ok();
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
        let generation = self.shared.generation.load(Ordering::Relaxed);
        let result = self.attempt(generation, request).await;
        let label = match &result {
            Ok(_) => {
                self.shared.breaker.succeeded();
                "ok"
            }
            Err(error) => {
                // Time-outs alone never make the manager reconnect, and a server that has lost its power sends no word that it is gone.
                if self.shared.breaker.failed(Instant::now()) {
                    self.give_up_managers(generation);
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
        generation: u64,
        request: impl AsyncFnOnce(&mut ConnectionManager) -> redis::RedisResult<T>,
    ) -> Result<T, RedisError> {
        let mut manager = self.manager(generation)?;
        match tokio::time::timeout(self.shared.timeout, request(&mut manager)).await {
            Err(_) => Err(RedisError::Timeout(self.shared.timeout)),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.is_timeout() => Err(RedisError::Timeout(self.shared.timeout)),
            Ok(Err(error)) => {
                if needs_new_connection(&error) {
                    self.give_up_managers(generation);
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

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntGauge};

    use super::*;

    fn connection(shared_by: SharedBy) -> Connection {
        let section = RedisSection { url: Some("redis://127.0.0.1:9".to_owned()), ..RedisSection::default() };
        let request_seconds =
            HistogramVec::new(HistogramOpts::new("seconds", "s"), &["operation", "result"]).unwrap();
        let metrics = RedisMetrics { request_seconds, up: IntGauge::new("up", "u").unwrap() };
        Connection::new(&section, Duration::from_millis(50), shared_by, metrics).unwrap()
    }

    /// Which generations the connections are of, thread by thread.
    fn generations(connection: &Connection) -> Vec<u64> {
        let of = |slot: &Slot| slot.lock().as_ref().map(|(generation, _)| *generation);
        match &connection.shared.managers {
            Managers::One(slot) => of(slot).into_iter().collect(),
            Managers::OfThreads(slots) => slots.iter().filter_map(of).collect(),
        }
    }

    /// A burst of requests that fail alike costs each thread one new connection, not one for each of them.
    #[tokio::test]
    async fn what_one_thread_gave_up_every_thread_makes_anew_once() {
        for (shared_by, connections) in [(SharedBy::All, 1), (SharedBy::Thread, 2)] {
            let connection = connection(shared_by);
            let use_it = |generation| {
                let runtime = tokio::runtime::Handle::current();
                connection.manager(generation).unwrap();
                std::thread::scope(|scope| {
                    let other = scope.spawn(|| {
                        let _entered = runtime.enter();
                        connection.manager(generation).unwrap();
                    });
                    other.join().unwrap();
                });
            };
            use_it(0);
            assert_eq!(generations(&connection), vec![0; connections]);
            for _ in 0..3 {
                connection.give_up_managers(0);
            }
            assert_eq!(connection.shared.generation.load(Ordering::Relaxed), 1);
            use_it(1);
            assert_eq!(generations(&connection), vec![1; connections]);
        }
    }
}
