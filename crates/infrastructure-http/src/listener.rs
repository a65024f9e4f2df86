//! Listeners: their limits, and what every route of ours has in common.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use actix_web::dev::{Server, Service, ServiceRequest};
use actix_web::error::{JsonPayloadError, PayloadError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, ServiceConfig};
use actix_web::{App, HttpRequest, HttpServer};
use prometheus::HistogramVec;
use serde::{Deserialize, Serialize};

use crate::problem::{Code, Problem};

/// The `http` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSection {
    /// Address and port.
    pub listen: SocketAddr,
    /// Threads that serve requests. 0: one per core.
    pub workers: u16,
    /// Most connections per worker; further ones wait in the kernel.
    pub connections_per_worker_max: u32,
    /// Most connections waiting in the kernel to be accepted.
    pub backlog_max: u32,
    /// How long an idle connection is kept, in s: longer than the ingress keeps it, or the ingress meets closed ones.
    pub keep_alive_s: u16,
    /// How long a client may take to send its request's head, in ms.
    pub request_head_timeout_ms: u32,
    /// Largest body of a request, in bytes.
    pub body_bytes_max: u32,
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            workers: 0,
            connections_per_worker_max: 25_000,
            backlog_max: 4_096,
            keep_alive_s: 75,
            request_head_timeout_ms: 5_000,
            body_bytes_max: 4 * 1024,
        }
    }
}

impl HttpSection {
    /// Everything that is wrong with the values of the section called `name`, as (key, problem).
    #[must_use]
    pub fn problems(&self, name: &str) -> Vec<(String, String)> {
        let ranges = [
            ("workers", u32::from(self.workers), 0, 1_024),
            ("connections_per_worker_max", self.connections_per_worker_max, 1, 1_000_000),
            ("backlog_max", self.backlog_max, 16, 65_535),
            ("keep_alive_s", u32::from(self.keep_alive_s), 1, 3_600),
            ("request_head_timeout_ms", self.request_head_timeout_ms, 100, 60_000),
            ("body_bytes_max", self.body_bytes_max, 512, 1024 * 1024),
        ];
        let wrong = ranges.into_iter().filter(|(_, value, least, most)| !(least..=most).contains(&value));
        wrong
            .map(|(key, value, least, most)| {
                (format!("{name}.{key}"), format!("must be {least}..={most}, is {value}"))
            })
            .collect()
    }

    /// How many threads serve requests.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers.into(),
        }
    }
}

/// Binds and prepares a server whose routes `configure` adds. Requests that match none get a 404 problem, bodies that cannot be read a
/// 400 one. It is stopped through its handle, not by signals; requests under way then get `drain` to finish.
///
/// # Errors
/// What the system says, with the section's name and address.
pub fn serve(
    section: &HttpSection,
    name: &'static str,
    request_seconds: HistogramVec,
    drain: Duration,
    configure: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
) -> Result<Server, String> {
    let body_bytes_max = usize::try_from(section.body_bytes_max).unwrap_or(usize::MAX);
    let factory = move || {
        let request_seconds = request_seconds.clone();
        App::new()
            .app_data(web::PayloadConfig::new(body_bytes_max))
            .app_data(web::JsonConfig::default().limit(body_bytes_max).error_handler(unreadable_body))
            .app_data(web::QueryConfig::default().error_handler(unreadable_query))
            .wrap_fn(move |request, service| {
                let (started, request_seconds) = (Instant::now(), request_seconds.clone());
                let route = route(&request);
                let response = service.call(request);
                async move {
                    let response = response.await?;
                    let labels = [route.as_str(), status_class(response.status())];
                    request_seconds.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
                    Ok(response)
                }
            })
            .configure(configure.clone())
            .default_service(web::to(no_such_route))
    };
    let connections = usize::try_from(section.connections_per_worker_max).unwrap_or(usize::MAX);
    let server = HttpServer::new(factory)
        .workers(section.worker_count())
        .backlog(section.backlog_max)
        .max_connections(connections)
        .keep_alive(Duration::from_secs(section.keep_alive_s.into()))
        .client_request_timeout(Duration::from_millis(section.request_head_timeout_ms.into()))
        // The system's default holds a small packet back until the one before it is acknowledged, which a client that only listens does 40 ms later:
        // the second event of a stream would wait for that.
        .tcp_nodelay(true)
        // A client that has closed its sending half would linger with its stream.
        .h1_allow_half_closed(false)
        .shutdown_timeout(drain.as_secs().max(1))
        .disable_signals()
        .bind(section.listen)
        .map_err(|error| format!("{name}.listen: {} cannot be bound: {error}", section.listen))?;
    Ok(server.run())
}

/// The route's pattern, never the path: paths are without number.
fn route(request: &ServiceRequest) -> String {
    request.match_pattern().unwrap_or_else(|| "none".to_owned())
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        429 => "429",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

fn unreadable_body(error: JsonPayloadError, _: &HttpRequest) -> actix_web::Error {
    match error {
        JsonPayloadError::OverflowKnownLength { limit, .. } | JsonPayloadError::Overflow { limit } => {
            Problem::too_large(u32::try_from(limit).unwrap_or(u32::MAX)).into()
        }
        error => Problem::invalid("body", error).into(),
    }
}

fn unreadable_query(error: QueryPayloadError, _: &HttpRequest) -> actix_web::Error {
    Problem::invalid("query", error).into()
}

/// A body, as a handler got it.
///
/// # Errors
/// A problem where it has more than `limit` bytes, or broke off.
pub fn read_body(body: Result<Bytes, actix_web::Error>, limit: u32) -> Result<Bytes, Problem> {
    body.map_err(|error| match error.as_error() {
        Some(PayloadError::Overflow) => Problem::too_large(limit),
        _ => Problem::invalid("body", error),
    })
}

/// The body of a request that has no fields: nothing, or an empty JSON object.
///
/// # Errors
/// A problem where there is more.
pub fn without_fields(body: Result<Bytes, actix_web::Error>, limit: u32) -> Result<(), Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoFields {}

    let body = read_body(body, limit)?;
    if body.is_empty() {
        return Ok(());
    }
    serde_json::from_slice::<NoFields>(&body)
        .map(|NoFields {}| ())
        .map_err(|error| Problem::invalid("body", format!("must be empty or {{}}: {error}")))
}

async fn no_such_route(request: HttpRequest) -> Result<&'static str, Problem> {
    Err(Problem::new(Code::NotFound, format!("there is no {} {}", request.method(), request.path())))
}
