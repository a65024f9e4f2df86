//! Listeners: their limits, and what every route of ours has in common.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_cors::CorsError;
use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol};
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::body::{BoxBody, EitherBody};
use actix_web::dev::{AppConfig, Server, Service, ServiceRequest};
use actix_web::error::{JsonPayloadError, PayloadError, QueryPayloadError};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::rt::net::TcpStream;
use actix_web::rt::time::sleep;
use actix_web::web::{self, Bytes, ServiceConfig};
use actix_web::{App, HttpRequest, HttpResponse, guard};
use prometheus::HistogramVec;
use serde::{Deserialize, Serialize};

use crate::access::AccessLog;
use crate::connection::{Answer, BoundedStream, Exchange, LINGER, Limits};
use crate::cors::{self, CorsSection};
use crate::problem::{Code, Problem};

/// Nobody has asked for so long: nobody who keeps a connection busy is left.
const QUIET: Duration = Duration::from_millis(250);

/// More threads actix-server does not take.
const WORKERS_MAX: u16 = 512;

/// Where load balancers ask.
const LOAD_BALANCER_PATHS: [&str; 3] = ["/", "/healthz", "/readyz"];

/// Stands for the route of requests that match none.
const NO_ROUTE: &str = "none";

/// The `http` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSection {
    /// Address and port.
    pub listen: SocketAddr,
    /// Threads that serve requests, at most 512. 0: one per core.
    pub workers: u16,
    /// Most connections per worker; further ones wait in the kernel.
    pub connections_per_worker_max: u32,
    /// Most connections waiting in the kernel to be accepted.
    pub backlog_max: u32,
    /// How long an idle connection is kept, in s: longer than the ingress keeps it, or the ingress meets closed ones.
    pub keep_alive_s: u16,
    /// Longest age of a connection, in s, less up to a tenth of it by chance: an answer that is given later asks to close it.
    pub connection_s_max: u32,
    /// Longest time that a request's head takes from its first byte (the first one of a connection from the moment it is accepted), in ms.
    pub head_ms_max: u32,
    /// Longest time that a request's body takes from the end of its head, in ms.
    pub body_ms_max: u32,
    /// Largest body of a request, in bytes.
    pub body_bytes_max: u32,
    /// Before the listener stops, each answer closes its connection for at most so long, in ms. 0: connections are cut at once.
    pub farewell_ms_max: u32,
    /// Pages of other origins.
    pub cors: CorsSection,
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            workers: 0,
            connections_per_worker_max: 25_000,
            backlog_max: 4_096,
            keep_alive_s: 75,
            connection_s_max: 3_600,
            head_ms_max: 5_000,
            body_ms_max: 10_000,
            body_bytes_max: 4 * 1024,
            farewell_ms_max: 3_000,
            cors: CorsSection::default(),
        }
    }
}

impl HttpSection {
    /// Everything that is wrong with the values of the section called `name`, as (key, problem).
    #[must_use]
    pub fn problems(&self, name: &str) -> Vec<(String, String)> {
        let ranges = [
            ("workers", u32::from(self.workers), 0, WORKERS_MAX.into()),
            ("connections_per_worker_max", self.connections_per_worker_max, 1, 1_000_000),
            ("backlog_max", self.backlog_max, 16, 65_535),
            ("keep_alive_s", u32::from(self.keep_alive_s), 1, 3_600),
            ("connection_s_max", self.connection_s_max, 1, 604_800),
            ("head_ms_max", self.head_ms_max, 100, 60_000),
            ("body_ms_max", self.body_ms_max, 100, 600_000),
            ("body_bytes_max", self.body_bytes_max, 512, 1024 * 1024),
            ("farewell_ms_max", self.farewell_ms_max, 0, 60_000),
        ];
        let wrong = ranges.into_iter().filter(|(_, value, least, most)| !(least..=most).contains(&value));
        wrong
            .map(|(key, value, least, most)| {
                (format!("{name}.{key}"), format!("must be {least}..={most}, is {value}"))
            })
            .chain(self.cors.problems(name))
            .collect()
    }

    /// How many threads serve requests.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS_MAX.into()),
            workers => workers.into(),
        }
    }
}

/// Lets clients go before listeners stop. A proxy keeps connections for its next requests; one that is cut in the moment of such a request costs it, and the
/// proxy cannot know whether it was read. So each answer asks for its connection to be closed first, until nobody asks any more.
#[derive(Clone, Debug, Default)]
pub struct Farewell(Arc<FarewellState>);

#[derive(Debug, Default)]
struct FarewellState {
    said: AtomicBool,
    answers: AtomicU64,
}

impl Farewell {
    /// From now on each answer closes its connection. Returns once nobody has asked for a moment, at most `longest` later.
    pub async fn say(&self, longest: Duration) {
        self.0.said.store(true, Ordering::Release);
        let (began, mut answers) = (Instant::now(), self.0.answers.load(Ordering::Acquire));
        while began.elapsed() < longest {
            sleep(QUIET.min(longest)).await;
            let answers_now = self.0.answers.load(Ordering::Acquire);
            if answers_now == answers {
                return;
            }
            answers = answers_now;
        }
    }

    /// Counts an answer; true where it is to close its connection.
    fn answered(&self) -> bool {
        self.0.answers.fetch_add(1, Ordering::AcqRel);
        self.0.said.load(Ordering::Acquire)
    }
}

/// These routes will be served: their series begin, and those of requests that match none.
pub fn serves(request_seconds: &HistogramVec, paths: impl Iterator<Item = &'static str>) {
    for path in paths.chain([NO_ROUTE]) {
        for status in ["2xx", "4xx", "429", "5xx"] {
            drop(request_seconds.with_label_values(&[path, status]));
        }
    }
}

/// What is kept of requests: how long they took, and the access log.
#[derive(Clone)]
pub struct Observer {
    /// Seconds by route and class of status.
    pub request_seconds: HistogramVec,
    /// The access log.
    pub access: AccessLog,
}

/// Binds and prepares a server whose routes `configure` adds. Requests that match none get a 404 problem, bodies that cannot be read a
/// 400 one. It is stopped through its handle, not by signals, and after `farewell` was said; requests under way then get `drain` to finish.
///
/// # Errors
/// What the system says, with the section's name and address.
pub fn serve(
    section: &HttpSection,
    name: &'static str,
    observer: Observer,
    drain: Duration,
    farewell: &Farewell,
    configure: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
) -> Result<Server, String> {
    let body_bytes_max = usize::try_from(section.body_bytes_max).unwrap_or(usize::MAX);
    let (farewell, pages) = (farewell.clone(), section.cors.clone());
    let app = move || {
        let (observer, farewell) = (observer.clone(), farewell.clone());
        App::new()
            .app_data(web::PayloadConfig::new(body_bytes_max))
            .app_data(web::JsonConfig::default().limit(body_bytes_max).error_handler(unreadable_json))
            .app_data(web::QueryConfig::default().error_handler(unreadable_query))
            .wrap(pages.middleware())
            .wrap_fn(move |mut request, service| {
                let (started, observer, farewell) = (Instant::now(), observer.clone(), farewell.clone());
                let exchange = Exchange::begin(&mut request);
                let route = route(&request);
                let has_line = observer.access.arrived(&request, started);
                let response = service.call(request);
                async move {
                    let mut response = response.await?;
                    let refused = response.response().error().and_then(|error| error.as_error::<CorsError>());
                    if let Some(refused) = refused.map(cors::refusal) {
                        let refused = refused.response().map_into_right_body().map_into_left_body();
                        response = response.into_response(refused);
                    }
                    if farewell.answered() || exchange.as_ref().is_some_and(Exchange::closes) {
                        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
                    }
                    let labels = [route.as_str(), status_class(response.status())];
                    let took = started.elapsed();
                    observer.request_seconds.with_label_values(&labels).observe(took.as_secs_f64());
                    if has_line {
                        observer.access.answered(&response, &route, took);
                    }
                    Ok(response.map_body(|_, body| Answer::new(innermost(body), exchange)))
                }
            })
            .configure(configure.clone())
            .default_service(web::to(no_such_route))
    };
    let connections = usize::try_from(section.connections_per_worker_max).unwrap_or(usize::MAX);
    let server = Server::build()
        .workers(section.worker_count())
        .backlog(section.backlog_max)
        .max_concurrent_connections(connections)
        .shutdown_timeout(drain.as_secs().max(1))
        .disable_signals();
    let stopping = server.graceful_shutdown_signal();
    let (limits, keep_alive) = (Limits::new(section), Duration::from_secs(section.keep_alive_s.into()));
    // What actix-web's HttpServer does, which leaves nobody a word about the stream.
    let connection = move || {
        let stopping = stopping.clone();
        let app = app().into_factory().map_err(|error: actix_web::Error| error.error_response());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(keep_alive)
            // Off: the stream has a limit for every head, not only for the first.
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(LINGER)
            // A client that has closed its sending half would linger with its stream.
            .h1_allow_half_closed(false)
            .on_connect_ext(|stream: &BoundedStream, data| {
                data.insert(stream.connection());
            })
            // No route asks what it is called itself.
            .finish(map_config(app, |()| AppConfig::default()));
        let accept = move |stream: TcpStream| {
            let client = stream.peer_addr().ok();
            // The system's default holds a small packet back until the one before it is acknowledged, which a client that only listens does 40 ms later:
            // the second event of a stream would wait for that.
            stream.set_nodelay(true)?;
            Ok::<_, DispatchError>((BoundedStream::new(stream, limits), Protocol::Http1, client))
        };
        fn_service(move |stream| ready(accept(stream))).and_then(http)
    };
    let server = server
        .bind(name, section.listen, connection)
        .map_err(|error| format!("{name}.listen: {} cannot be bound: {error}", section.listen))?;
    Ok(server.run())
}

/// What the middleware for other origins answers itself or hands on; all of it is one kind of body.
fn innermost(body: EitherBody<EitherBody<BoxBody>>) -> BoxBody {
    match body {
        EitherBody::Left { body: EitherBody::Left { body } | EitherBody::Right { body } }
        | EitherBody::Right { body } => body,
    }
}

/// The route's pattern, never the path: paths are without number.
fn route(request: &ServiceRequest) -> String {
    request.match_pattern().unwrap_or_else(|| NO_ROUTE.to_owned())
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

fn unreadable_json(error: JsonPayloadError, _: &HttpRequest) -> actix_web::Error {
    match error {
        JsonPayloadError::OverflowKnownLength { limit, .. } | JsonPayloadError::Overflow { limit } => {
            Problem::too_large(u32::try_from(limit).unwrap_or(u32::MAX))
        }
        JsonPayloadError::Payload(error) => unreadable_body(&error),
        error => Problem::invalid("body", error),
    }
    .into()
}

fn unreadable_query(error: QueryPayloadError, _: &HttpRequest) -> actix_web::Error {
    Problem::invalid("query", error).into()
}

/// A body, as a handler got it.
///
/// # Errors
/// A problem where it has more than `limit` bytes, took too long, or broke off.
pub fn read_body(body: Result<Bytes, actix_web::Error>, limit: u32) -> Result<Bytes, Problem> {
    body.map_err(|error| match error.as_error() {
        Some(PayloadError::Overflow) => Problem::too_large(limit),
        Some(error) => unreadable_body(error),
        None => Problem::invalid("body", error),
    })
}

fn unreadable_body(error: &PayloadError) -> Problem {
    match error {
        PayloadError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Problem::too_slow(error),
        error => Problem::invalid("body", error),
    }
}

/// The body of a press, which has no fields: nothing, or an empty JSON object.
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
    serde_json::from_slice::<NoFields>(&body).map(|NoFields {}| ()).map_err(|error| {
        let remedy =
            "the user is the token's, the coupon the path's, a key of one's own the Idempotency-Key's";
        Problem::invalid("body", format!("must be empty or {{}}: {remedy}; {error}"))
    })
}

/// Answers load balancers that ask the users' listener whether it is there, at `/`, `/healthz` and `/readyz`, by GET or HEAD: 200, and 503 once `is_ending`. Whether
/// work can be done is for the ops listener to say.
pub fn answers_load_balancers(app: &mut ServiceConfig, is_ending: impl Fn() -> bool + Clone + 'static) {
    for path in LOAD_BALANCER_PATHS {
        let is_ending = is_ending.clone();
        let answer = move || {
            let is_ending = is_ending();
            async move {
                if is_ending {
                    return Err(Problem::new(Code::ShuttingDown, "this process is about to end"));
                }
                Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).body("ok\n"))
            }
        };
        let asks = guard::Any(guard::Get()).or(guard::Head());
        app.route(path, web::route().guard(asks).to(answer));
    }
}

async fn no_such_route(request: HttpRequest) -> Result<&'static str, Problem> {
    Err(Problem::new(Code::NotFound, format!("there is no {} {}", request.method(), request.path())))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use actix_web::dev::ServerHandle;
    use actix_web::rt::task::JoinHandle;
    use coupon_domain::KeyRing;
    use prometheus::HistogramOpts;

    use super::*;

    /// Longer than any test may take.
    pub(crate) const LONG: Duration = Duration::from_secs(60);

    /// A listener on a port of its own.
    pub(crate) struct Served {
        pub(crate) address: SocketAddr,
        handle: ServerHandle,
        serving: JoinHandle<io::Result<()>>,
    }

    impl Served {
        pub(crate) fn start(
            section: HttpSection,
            farewell: &Farewell,
            routes: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
        ) -> Self {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let section = HttpSection { listen: address, workers: 1, ..section };
            let measured =
                HistogramVec::new(HistogramOpts::new("seconds", "of requests"), &["route", "status"]);
            let access = AccessLog::new(&KeyRing::default());
            let observer = Observer { request_seconds: measured.unwrap(), access };
            let server = serve(&section, "http", observer, LONG, farewell, routes).unwrap();
            Self { address, handle: server.handle(), serving: actix_web::rt::spawn(server) }
        }

        pub(crate) async fn stop(self) {
            self.handle.stop(true).await;
            self.serving.await.unwrap().unwrap();
        }
    }

    fn ask(connection: &mut TcpStream) -> String {
        connection.write_all(b"GET /here HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        let (mut answer, mut chunk) = (Vec::new(), [0; 1024]);
        while !answer.ends_with(b"here") {
            let read = connection.read(&mut chunk).unwrap();
            assert!(read > 0, "the answer broke off");
            answer.extend_from_slice(&chunk[..read]);
        }
        String::from_utf8(answer).unwrap().to_lowercase()
    }

    #[actix_web::test]
    async fn after_the_farewell_each_answer_closes_its_connection() {
        let farewell = Farewell::default();
        let routes = |app: &mut ServiceConfig| {
            app.route("/here", web::get().to(async || "here"));
        };
        let served = Served::start(HttpSection::default(), &farewell, routes);
        let address = served.address;
        let (stay, asked) = std::sync::mpsc::sync_channel(1);
        let (leave, told) = std::sync::mpsc::sync_channel::<()>(1);
        let client = std::thread::spawn(move || {
            let mut connection = TcpStream::connect(address).unwrap();
            let kept = [ask(&mut connection), ask(&mut connection)];
            stay.send(()).unwrap();
            told.recv().unwrap();
            let last = ask(&mut connection);
            let closed = connection.read(&mut [0; 1]).unwrap() == 0;
            (kept, last, closed)
        });
        actix_web::rt::task::spawn_blocking(move || asked.recv().unwrap()).await.unwrap();
        let said = actix_web::rt::spawn({
            let farewell = farewell.clone();
            async move { farewell.say(LONG).await }
        });
        while !farewell.0.said.load(Ordering::Acquire) {
            actix_web::rt::task::yield_now().await;
        }
        leave.send(()).unwrap();
        let joined = actix_web::rt::task::spawn_blocking(move || client.join().unwrap());
        let (kept, last, closed) = joined.await.unwrap();
        assert!(kept.iter().all(|answer| !answer.contains("connection: close")), "{kept:?}");
        assert!(last.contains("connection: close"), "{last}");
        assert!(closed, "the connection stayed open");
        // Nobody asks any more: it does not take as long as it may.
        said.await.unwrap();
        served.stop().await;
    }

    #[actix_web::test]
    async fn a_farewell_ends_though_somebody_asks_on() {
        let farewell = Farewell::default();
        let asking = actix_web::rt::spawn({
            let farewell = farewell.clone();
            async move {
                loop {
                    farewell.answered();
                    actix_web::rt::task::yield_now().await;
                }
            }
        });
        let began = Instant::now();
        farewell.say(2 * QUIET).await;
        assert!(began.elapsed() >= 2 * QUIET, "{:?}", began.elapsed());
        asking.abort();
        farewell.say(Duration::ZERO).await;
    }

    #[test]
    fn values_out_of_range_are_named() {
        let section = HttpSection {
            workers: 513,
            backlog_max: 1,
            connection_s_max: 0,
            head_ms_max: 99,
            body_ms_max: 99,
            farewell_ms_max: 60_001,
            ..HttpSection::default()
        };
        let problems = section.problems("admin");
        let keys: Vec<_> = problems.iter().filter_map(|(key, _)| key.strip_prefix("admin.")).collect();
        assert_eq!(
            keys,
            ["workers", "backlog_max", "connection_s_max", "head_ms_max", "body_ms_max", "farewell_ms_max"]
        );
        assert_eq!(problems[0].1, "must be 0..=512, is 513");
    }
}
