//! db-writer: writes what the log says into PostgreSQL, in batches, each in one statement with the partition's watermark.
//!
//! Each partition has a thread of its own ([`writer`]); they share one reader of each topic and a few connections ([`connections`]). It resumes from its own `partition_progress` row, never from Kafka's committed
//! offsets, so a PostgreSQL that went back in time only means writing again. While one batch is being committed the next is
//! prepared ([`prepare`]). What is committed is published ([`persisted`]), and by that a database that went back in time is known
//! ([`restored`]).

mod config;
mod connections;
mod handover;
mod metrics;
mod persisted;
mod prepare;
mod restored;
mod writer;

use std::sync::Arc;

use infrastructure_kafka::{Connection, Lines, Membership, Producer, ProducerPurpose, Topic};
use infrastructure_postgres::SharedConnections;
use service_runtime::partition::{self, PartitionWorkers};
use service_runtime::{Context, Ended, Limits, Service, preflight};

pub use config::Config;

use metrics::ServiceMetrics;
use writer::{Shared, Writer};

/// The name in metrics, logs and consumer groups.
pub const NAME: &str = "db-writer";

/// The service.
pub struct DbWriter;

impl Service for DbWriter {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Writes the outcomes of coupon.outcomes into PostgreSQL";

    type Config = Config;

    async fn run(context: Context<Config>) -> Result<(), Ended> {
        let config = Arc::clone(&context.config);
        let production = config.profile.is_production();
        let metrics = ServiceMetrics::new(&context.metrics);
        let keys = config.keys.ring().map_err(|_| Ended::Refused("the keys cannot be used".to_owned()))?;
        service_runtime::metrics::keys(&context.metrics, &keys);
        let connection = Connection::new(config.kafka.clone(), NAME, metrics.kafka.clone());
        if !preflight::await_topics(&context, &connection, production).await?
            || !preflight::await_schema(&context, &config.postgres).await?
        {
            return Ok(());
        }
        context.checked.met();
        let layout = config.kafka.layout(production);
        let outcomes_topic = layout.name(Topic::Outcomes);
        metrics.kafka.produces(&layout.name(Topic::Persisted));
        let limits = Limits::new(&context.metrics);
        let producer = Producer::new(&connection, ProducerPurpose::Outcomes).map_err(fatal)?;
        let postgres = Arc::new(SharedConnections::new(&config.postgres));
        let asked = Arc::clone(&postgres);
        limits.ask_depth("postgres_pool", config.postgres.pool_size_max, move || asked.in_use());
        let shared = Shared {
            producer: limits.producer(producer),
            handover: limits.by_partition("handover_batches", config.write.batches_waiting_max),
            outcomes: Lines::new(&connection, &outcomes_topic, "outcomes reader").map_err(fatal)?,
            persisted: Lines::new(&connection, &layout.name(Topic::Persisted), "persisted reader")
                .map_err(fatal)?,
            persisted_topic: layout.name(Topic::Persisted),
            postgres,
            runtime: tokio::runtime::Handle::current(),
            context: context.clone(),
            published: restored::Published::default(),
            keys,
            metrics,
        };
        let job = Arc::new(Writer(Arc::new(shared)));
        let handler = PartitionWorkers::new(job, &context.health, &context.tasks);
        let workers = handler.workers();
        let group = config.kafka.group(NAME);
        let membership =
            Membership::join(&connection, &group, &outcomes_topic, Box::new(handler)).map_err(fatal)?;

        context.booted.met();
        partition::serve(&context.shutdown, membership, &workers, &config.ops).await
    }
}

fn fatal(error: impl std::fmt::Display) -> Ended {
    Ended::Fatal(error.to_string())
}
