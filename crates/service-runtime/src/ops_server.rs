//! The ops listener: probes, metrics, the log filter. On a thread of its own, so that it answers whatever the rest does.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer, web};
use prometheus::{Gauge, GaugeVec, IntGauge};

use crate::catalogue;
use crate::clock::Clock;
use crate::exit::Ended;
use crate::health::{Answer, Health};
use crate::logs::FilterHandle;
use crate::metrics::Metrics;

/// Longest filter that `PUT /log-filter` takes, in bytes.
const FILTER_BYTES_MAX: usize = 1_024;

pub(crate) struct Ops {
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) filter: FilterHandle,
    pub(crate) clock: Clock,
}

struct Shared {
    ops: Ops,
    ready: IntGauge,
    loop_turns: GaugeVec,
}

/// Binds and serves until the process ends.
pub(crate) fn start(listen: SocketAddr, ops: Ops) -> Result<(), Ended> {
    let listener = std::net::TcpListener::bind(listen)
        .map_err(|error| Ended::Configuration(format!("ops.listen: {listen} cannot be bound: {error}")))?;
    let started: Gauge = ops.metrics.gauge(&catalogue::START_TIMESTAMP_SECONDS);
    started.set(seconds(ops.clock.now().ms()));
    let shared = Arc::new(Shared {
        ready: ops.metrics.int_gauge(&catalogue::READY),
        loop_turns: ops.metrics.gauges(&catalogue::LOOP_TURN_TIMESTAMP_SECONDS),
        ops,
    });
    let serve = move || {
        let served = actix_web::rt::System::new().block_on(async move {
            HttpServer::new(move || {
                App::new()
                    .app_data(Data::from(Arc::clone(&shared)))
                    .app_data(web::PayloadConfig::new(FILTER_BYTES_MAX))
                    .route("/startupz", web::get().to(startup))
                    .route("/livez", web::get().to(live))
                    .route("/readyz", web::get().to(ready))
                    .route("/metrics", web::get().to(metrics))
                    .route("/log-filter", web::put().to(set_filter))
            })
            .workers(1)
            .disable_signals()
            .listen(listener)?
            .run()
            .await
        });
        if let Err(error) = served {
            tracing::error!(runbook = "CouponServiceDown", "the ops listener ended: {error}");
        }
    };
    std::thread::Builder::new()
        .name("ops".to_owned())
        .spawn(serve)
        .map(drop)
        .map_err(|error| Ended::Fatal(format!("no thread for the ops listener: {error}")))
}

async fn startup(shared: Data<Shared>) -> HttpResponse {
    probe(shared.ops.health.startup(), Vec::new())
}

async fn live(shared: Data<Shared>) -> HttpResponse {
    probe(shared.ops.health.live(), Vec::new())
}

async fn ready(shared: Data<Shared>) -> HttpResponse {
    probe(shared.ops.health.ready(), shared.ops.health.notes())
}

/// The answer's reasons, or "ok"; and what is to be told besides.
fn probe(answer: Answer, notes: Vec<String>) -> HttpResponse {
    let (mut response, mut lines) = match answer {
        Ok(()) => (HttpResponse::Ok(), vec!["ok".to_owned()]),
        Err(reasons) => (HttpResponse::ServiceUnavailable(), reasons),
    };
    lines.extend(notes);
    response.content_type("text/plain").body(lines.join("\n") + "\n")
}

async fn metrics(shared: Data<Shared>) -> HttpResponse {
    let ops = &shared.ops;
    shared.ready.set(i64::from(ops.health.ready().is_ok()));
    let now = seconds(ops.clock.now().ms());
    shared.loop_turns.reset();
    for (name, age) in ops.health.loop_ages() {
        shared.loop_turns.with_label_values(&[name.as_str()]).set(now - age.as_secs_f64());
    }
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(ops.metrics.text())
}

async fn set_filter(shared: Data<Shared>, body: Bytes) -> HttpResponse {
    let directives = String::from_utf8_lossy(&body);
    match shared.ops.filter.set(directives.trim()) {
        Ok(()) => {
            tracing::info!("the log filter is {directives} now");
            HttpResponse::NoContent().finish()
        }
        Err(error) => HttpResponse::BadRequest()
            .content_type("text/plain")
            .body(format!("the filter cannot be read: {error}; give directives like info,notifier=debug\n")),
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "milliseconds of our time fit 53 bits"
)]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}
