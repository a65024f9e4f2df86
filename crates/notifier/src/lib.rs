//! notifier: answers "what became of my claim?", by GET and by server-sent events.
//!
//! Every replica tails all partitions of `coupon.outcomes` and `coupon.persisted` ([`tail`]) and keeps only the waiters that it has
//! ([`waiters`]). A waiter is registered before the stores are looked at ([`follow`]), so an outcome that falls in between is not missed. Redis or
//! PostgreSQL may be away: either one suffices, and the tail needs neither.

mod answers;
mod claims;
mod config;
mod events;
mod follow;
mod look_up;
mod metrics;
pub mod openapi;
mod per_user;
mod tail;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Data};
use coupon_domain::ClaimAnswer;
use infrastructure_http::{
    AccessLog, Farewell, RateMetrics, RateSettings, UserRates, UserVerifier, listener,
};
use infrastructure_kafka::{Connection, Topic};
use infrastructure_postgres::Pool;
use infrastructure_redis::ViewReader;
use prometheus::Histogram;
use service_runtime::{Context, Ended, Issuers, Limit, Limits, Service, TokensOf, preflight};

pub use config::Config;

use follow::Follower;
use look_up::Stores;
use metrics::ServiceMetrics;
use per_user::PerUser;
use tail::Tails;
use waiters::Waiters;

/// The name in metrics and logs.
pub const NAME: &str = "notifier";

/// The service.
pub struct Notifier;

/// What request handlers share.
struct Desk {
    context: Context<Config>,
    verifier: UserVerifier,
    keys: coupon_domain::KeyRing,
    follower: Follower,
    rates: UserRates,
    streams: Limit,
    metrics: Arc<ServiceMetrics>,
}

impl Desk {
    /// A client that was waiting has been told.
    fn told_at(&self, answer: &ClaimAnswer, histogram: &Histogram) {
        let elapsed = self.context.clock.now().ms() - answer.decided_at.ms();
        histogram.observe(Duration::from_millis(u64::try_from(elapsed).unwrap_or(0)).as_secs_f64());
    }
}

impl Service for Notifier {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Tells users what became of their claims";

    type Config = Config;

    async fn run(context: Context<Config>) -> Result<(), Ended> {
        let config = Arc::clone(&context.config);
        let production = config.profile.is_production();
        let metrics = Arc::new(ServiceMetrics::new(&context.metrics));
        let limits = Limits::new(&context.metrics);
        let keys = config.keys.ring().map_err(|_| Ended::Refused("the keys cannot be used".to_owned()))?;
        service_runtime::metrics::keys(&context.metrics, &keys);
        let issuers = Issuers::start(&context, &config.auth, TokensOf::Users)?;
        let connection = Connection::new(config.kafka.clone(), NAME, metrics.kafka.clone());
        if !preflight::await_topics(&context, &connection, production).await? {
            return Ok(());
        }
        context.checked.met();
        let layout = config.kafka.layout(production);
        let waiters =
            Arc::new(Waiters::new(config.notify.waiters_per_claim_max, limits.hits_of("waiters_per_claim")));
        let tails = Arc::new(Tails::default());
        tail::start(
            &context,
            &connection,
            tail::Topics { outcomes: layout.name(Topic::Outcomes), persisted: layout.name(Topic::Persisted) },
            &tails,
            &waiters,
            &metrics,
        )?;
        let pool = Pool::new(&config.postgres).map_err(fatal)?;
        limits.pool(&pool);
        let stores = Stores {
            view: ViewReader::new(&config.redis, metrics.redis.clone()).map_err(fatal)?,
            pool,
            metrics: Arc::clone(&metrics),
        };
        let follower = Follower {
            waiting: limits.limit("waiters", config.notify.waiters_max),
            per_user: PerUser::new(config.notify.waiters_per_user_max, limits.hits_of("waiters_per_user")),
            tails,
            waiters,
            stores,
        };
        let rates = UserRates::new(
            RateSettings {
                per_s: config.notify.user_requests_per_s,
                burst: config.notify.user_requests_burst,
                users_max: config.notify.users_remembered_max,
            },
            RateMetrics {
                remembered: limits.depth_of("users_remembered", config.notify.users_remembered_max),
                rate_hits: limits.hits_of("user_requests_per_s"),
                users_hits: limits.hits_of("users_remembered"),
            },
        );
        let access = AccessLog::new(&keys);
        let desk = Data::new(Desk {
            verifier: UserVerifier::new(&config.auth, issuers.users),
            streams: limits.limit("sse_streams", config.notify.streams_max),
            context: context.clone(),
            keys,
            follower,
            rates,
            metrics: Arc::clone(&metrics),
        });
        let (asked, forgetful) = (desk.clone(), desk.clone());
        context.keep_asking("ask-redis", move || {
            let desk = asked.clone();
            async move { drop(desk.follower.stores.view.ping().await) }
        });
        context.keep_asking_postgres(&config.postgres, &desk.metrics.postgres);
        let drain = Duration::from_millis(config.ops.drain_ms_max.into());
        let document = openapi::claims().serve();
        let configure = move |app: &mut web::ServiceConfig| {
            let shutdown = desk.context.shutdown.clone();
            listener::answers_load_balancers(app, move || shutdown.is_requested());
            app.app_data(desk.clone())
                // Patterns are tried in this order: no claim is called openapi.json.
                .configure(document.clone())
                .route("/v1/claims/{claim_id}", web::get().to(claims::get))
                .route("/v1/claims/{claim_id}/events", web::get().to(events::stream));
        };
        let farewell = Farewell::default();
        let observer = listener::Observer { request_seconds: metrics.request_seconds.clone(), access };
        let server = listener::serve(&config.http, "http", observer, drain, &farewell, configure)
            .map_err(Ended::Configuration)?;
        let handle = server.handle();
        let serving = context.tasks.spawn("http", server);
        context.booted.met();
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = context.shutdown.requested() => break,
                _ = every_second.tick() => forgetful.rates.forget_the_quiet(),
            }
        }
        farewell.say(Duration::from_millis(config.http.farewell_ms_max.into())).await;
        // Streams end by themselves with a retry hint; what is being answered gets its time.
        handle.stop(true).await;
        drop(serving.await);
        Ok(())
    }
}

fn fatal(error: impl std::fmt::Display) -> Ended {
    Ended::Fatal(error.to_string())
}
