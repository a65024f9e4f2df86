//! api-gateway: authenticates, refuses what is certain to fail, appends the claim, answers 202 with the ticket; and the operators' API on a listener of
//! its own.
//!
//! It needs Kafka alone: without Redis a refusal is only advice, without PostgreSQL there are no drafts, lists and
//! wallets.

mod admin;
mod append;
mod beats;
mod broker_clock;
mod claim;
mod config;
mod coupon;
mod desk;
mod held_coupon;
mod line_watch;
mod metrics;
mod offer;
pub mod openapi;
mod own_claims;
mod paths;
mod postgres;
mod published;
mod redemption;
mod state_map;
mod user_slots;
mod wallet;

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Data};
use infrastructure_http::{
    AccessLog, AdminVerifier, Farewell, RateMetrics, RateSettings, UserRates, UserVerifier, listener,
};
use infrastructure_kafka::{Connection, Producer, ProducerPurpose, Topic};
use infrastructure_postgres::Pool;
use infrastructure_redis::ViewReader;
use service_runtime::topics_watch::TopicsWatch;
use service_runtime::{Context, Ended, Issuers, Limits, Service, TokensOf, preflight};

pub use config::Config;
pub use desk::NAME;

use append::{Appender, InFlight, StrangeLines};
use beats::Beats;
use broker_clock::BrokerClocks;
use desk::Desk;
use line_watch::LineWatch;
use metrics::ServiceMetrics;
use published::Published;
use state_map::StateMap;
use user_slots::UserSlots;

/// Looks into the log on behalf of operators that go on at once: each takes a thread and reads up to a few hundred thousand records.
const LOG_READS_MAX: u32 = 2;

/// How long the last beats may take when the process ends: a store that is away must not hold it up.
const LAST_BEATS_MAX: Duration = Duration::from_secs(2);

/// The service.
pub struct ApiGateway;

impl Service for ApiGateway {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Takes claims and operators' commands into coupon.claims";

    type Config = Config;

    async fn run(context: Context<Config>) -> Result<(), Ended> {
        let config = Arc::clone(&context.config);
        let production = config.profile.is_production();
        let metrics = Arc::new(ServiceMetrics::new(&context.metrics));
        let (user, admin) = (openapi::user(), openapi::admin());
        listener::serves(&metrics.request_seconds, user.paths().chain(admin.paths()));
        let limits = Limits::new(&context.metrics);
        let (keys, active_key) =
            config.keys.ring().map_err(|_| Ended::Refused("the keys cannot be used".to_owned()))?;
        service_runtime::metrics::keys(&context.metrics, &keys);
        let issuers = Issuers::start(&context, &config.auth, TokensOf::UsersAndOperators)?;
        let connection = Connection::new(config.kafka.clone(), NAME, metrics.kafka.clone());
        if !preflight::await_topics(&context, &connection, production).await? {
            return Ok(());
        }
        context.checked.met();
        let layout = config.kafka.layout(production);
        let logs = (layout.name(Topic::Claims), layout.name(Topic::Outcomes));
        let lines = LineWatch::start(&context, &connection, logs)?;
        let topics = TopicsWatch::start(&context, &connection, layout.clone())?;
        for topic in [Topic::Claims, Topic::Persisted] {
            metrics.kafka.produces(&layout.name(topic));
        }
        let states = Arc::new(StateMap::default());
        state_map::start(&context, &connection, layout.name(Topic::State), &states, &metrics)?;
        let published = Arc::new(Published::default());
        published::start(&context, &connection, layout.name(Topic::Persisted), &published)?;
        let broker_clocks = Arc::new(BrokerClocks::default());
        let producer = Producer::new(&connection, ProducerPurpose::Claims).map_err(fatal)?;
        let pool = Pool::new(&config.postgres).map_err(fatal)?;
        limits.pool(&pool);
        let desk = Data::new(Desk {
            verifier: UserVerifier::new(&config.auth, issuers.users.clone()),
            admin_verifier: AdminVerifier::new(&config.auth, issuers.users, issuers.operators),
            view: ViewReader::new(&config.redis, metrics.redis.clone()).map_err(fatal)?,
            pool,
            appender: Appender {
                producer: limits.producer(producer),
                topic: layout.name(Topic::Claims),
                states: Arc::clone(&states),
                broker_clocks: Arc::clone(&broker_clocks),
                topics,
                clock: context.clock.clone(),
                tasks: context.tasks.clone(),
                metrics: Arc::clone(&metrics),
                in_flight: InFlight::default(),
                strange_lines: StrangeLines::default(),
            },
            rates: UserRates::new(
                RateSettings {
                    per_s: config.claims.user_requests_per_s,
                    burst: config.claims.user_requests_burst,
                    users_max: config.claims.users_remembered_max,
                },
                RateMetrics {
                    remembered: limits.depth_of("users_remembered", config.claims.users_remembered_max),
                    rate_hits: limits.hits_of("user_requests_per_s"),
                    users_hits: limits.hits_of("users_remembered"),
                },
            ),
            slots: UserSlots::new(
                config.claims.slots_per_user_max,
                config.claims.users_remembered_max,
                limits.hits_of("slots_per_user"),
            ),
            beats: Beats::default(),
            persisted_topic: layout.name(Topic::Persisted),
            in_flight: limits.limit("claims_in_flight", config.claims.in_flight_max),
            log_reads: limits.limit("admin_log_reads", LOG_READS_MAX),
            kafka: connection.clone(),
            layout: layout.clone(),
            wallet_requests: limits.limit("wallet_requests", config.wallet.requests_max),
            context: context.clone(),
            keys,
            active_key,
            states,
            published,
            broker_clocks,
            lines,
            metrics: Arc::clone(&metrics),
        });
        let asked = desk.clone();
        context.keep_asking("ask-redis", move || {
            let desk = asked.clone();
            async move { drop(desk.view.ping().await) }
        });
        context.keep_asking_postgres(&config.postgres, &desk.metrics.postgres);
        let covered = desk.clone();
        let beat_interval = Duration::from_millis(config.wallet.beat_interval_ms.into());
        // Looked at so often that what is due is covered before its time is over.
        let look_interval = beat_interval / 10;
        context.keep_asking_every(look_interval, "cover-redemptions", move || {
            let desk = covered.clone();
            async move { desk.cover_redemptions(beat_interval.saturating_sub(look_interval)).await }
        });

        let drain = Duration::from_millis(config.ops.drain_ms_max.into());
        let farewell = Farewell::default();
        let observer = listener::Observer {
            request_seconds: metrics.request_seconds.clone(),
            access: AccessLog::new(&desk.keys),
        };
        let users =
            listener::serve(&config.http, "http", observer.clone(), drain, &farewell, user_routes(&desk));
        let admin = listener::serve(&config.admin, "admin", observer, drain, &farewell, admin::routes(&desk));
        let (users, admin) = (users.map_err(Ended::Configuration)?, admin.map_err(Ended::Configuration)?);
        let handles = [users.handle(), admin.handle()];
        let serving = [context.tasks.spawn("http", users), context.tasks.spawn("admin", admin)];

        context.booted.met();
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = context.shutdown.requested() => break,
                _ = every_second.tick() => desk.rates.forget_the_quiet(),
            }
        }
        farewell.say(Duration::from_millis(config.http.farewell_ms_max.into())).await;
        // Requests under way get their acknowledgement or their doubt.
        for handle in handles {
            handle.stop(true).await;
        }
        for server in serving {
            drop(server.await);
        }
        // What nobody has covered yet nobody else knows of.
        drop(tokio::time::timeout(LAST_BEATS_MAX, desk.cover_redemptions(Duration::ZERO)).await);
        Ok(())
    }
}

fn user_routes(desk: &Data<Desk>) -> impl Fn(&mut web::ServiceConfig) + Send + Clone + 'static {
    let (desk, document) = (desk.clone(), openapi::user().serve());
    move |app| {
        let shutdown = desk.context.shutdown.clone();
        listener::answers_load_balancers(app, move || shutdown.is_requested());
        app.app_data(desk.clone())
            .configure(document.clone())
            // Patterns are tried in this order.
            .route("/v1/coupons/{coupon_id}/claims", web::post().to(claim::post))
            .route("/v1/coupons/{coupon_id}", web::get().to(coupon::get))
            .route("/v1/coupons/{coupon_id}/watermark", web::get().to(coupon::watermark))
            .route("/v1/coupons/{coupon_id}/claims/mine", web::get().to(coupon::mine))
            .route("/v1/me/coupons", web::get().to(wallet::get))
            .route("/v1/me/coupons/{claim_id}/redemptions", web::post().to(redemption::post));
    }
}

fn fatal(error: impl std::fmt::Display) -> Ended {
    Ended::Fatal(error.to_string())
}
