//! stock-consumer: folds its partitions of `coupon.claims`, says one outcome per record, in order, publishes coupon states, and
//! refreshes the Redis view.
//!
//! Each partition has a thread of its own ([`worker`]), and they share one reader of each topic: it resumes from PostgreSQL's checkpoint and the outcomes log
//! ([`resume`]), then decides batch by batch ([`decide`]). The view is a task beside it ([`view`]), so that a hanging Redis never slows a decision.
//! A delivery error or an unrecoverable client ends the process: its restart is the recovery. A halt stops its partition alone.

mod config;
mod decide;
mod decode;
mod metrics;
mod policy;
mod resume;
mod state;
mod view;
mod worker;

use std::sync::Arc;

use infrastructure_kafka::{
    Connection, DeadLetterWriter, Lines, Membership, Producer, ProducerPurpose, Topic,
};
use infrastructure_redis::{ViewMaintenance, ViewWriter};
use parking_lot::Mutex;
use service_runtime::partition::{self, PartitionWorkers};
use service_runtime::topics_watch::TopicsWatch;
use service_runtime::{Context, Ended, Limits, Service, preflight};

pub use config::Config;

use metrics::ServiceMetrics;
use worker::{Decider, Shared};

/// The name in metrics, logs and consumer groups.
pub const NAME: &str = "stock-consumer";

/// The service.
pub struct StockConsumer;

impl Service for StockConsumer {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Decides the lines of coupon.claims and says what becomes of each record";

    type Config = Config;

    async fn run(context: Context<Config>) -> Result<(), Ended> {
        let config = Arc::clone(&context.config);
        let production = config.profile.is_production();
        let metrics = ServiceMetrics::new(&context.metrics);
        let connection = Connection::new(config.kafka.clone(), NAME, metrics.kafka.clone());
        if !preflight::await_topics(&context, &connection, production).await? {
            return Ok(());
        }
        context.checked.met();
        let layout = config.kafka.layout(production);
        TopicsWatch::start(&context, &connection, layout.clone())?;
        let limits = Limits::new(&context.metrics);
        let producer = Producer::new(&connection, ProducerPurpose::Outcomes).map_err(fatal)?;
        let producer = limits.producer(producer);
        let claims_topic = layout.name(Topic::Claims);
        let produced = [Topic::Outcomes, Topic::State, Topic::DeadLetters].map(|topic| layout.name(topic));
        metrics.topics(&claims_topic, &produced.each_ref().map(String::as_str));
        let lines = |topic, purpose| Lines::new(&connection, &layout.name(topic), purpose).map_err(fatal);
        let shared = Arc::new(Shared {
            dead_letters: DeadLetterWriter::new(
                producer.clone(),
                layout.name(Topic::DeadLetters),
                claims_topic.clone(),
                NAME,
                service_runtime::RELEASE,
            ),
            claims: lines(Topic::Claims, "claims reader")?,
            outcomes: lines(Topic::Outcomes, "outcomes reader")?,
            states: lines(Topic::State, "state sweeper")?,
            claims_topic: claims_topic.clone(),
            outcomes_topic: layout.name(Topic::Outcomes),
            state_topic: layout.name(Topic::State),
            view_writer: ViewWriter::new(&config.redis, metrics.redis.clone()).map_err(fatal)?,
            view_maintenance: ViewMaintenance::new(&config.redis).map_err(fatal)?,
            view_deferrals: limits.by_partition("view_deferrals", config.decide.view_deferrals_max),
            checkpoint_loads: limits.limit("checkpoint_loads", config.decide.checkpoint_loads_max),
            decided: Mutex::default(),
            redis_policy: Mutex::new(None),
            runtime: tokio::runtime::Handle::current(),
            context: context.clone(),
            connection: connection.clone(),
            producer,
            metrics,
        });
        let asked = Arc::clone(&shared);
        context.keep_asking("ask-redis", move || {
            let shared = Arc::clone(&asked);
            async move {
                if shared.view_writer.ping().await.is_ok() {
                    policy::look(&shared).await;
                }
            }
        });
        context.keep_asking_postgres(&config.postgres, &shared.metrics.postgres);
        let handler = PartitionWorkers::new(Arc::new(Decider(shared)), &context.health, &context.tasks);
        let workers = handler.workers();
        let group = config.kafka.group(NAME);
        let membership =
            Membership::join(&connection, &group, &claims_topic, Box::new(handler)).map_err(fatal)?;

        context.booted.met();
        partition::serve(&context.shutdown, membership, &workers, &config.ops).await
    }
}

fn fatal(error: impl std::fmt::Display) -> Ended {
    Ended::Fatal(error.to_string())
}
