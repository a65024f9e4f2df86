//! The reference of the gateway's figures: a route that checks the token and answers "ok", behind the very listener that the gateway has, in a
//! process of its own.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::web::{self, Data};
use anyhow::{Context, Result, ensure};
use coupon_domain::KeyRing;
use infrastructure_http::auth::{IssuerKeys, KeyMetrics};
use infrastructure_http::listener::Observer;
use infrastructure_http::{
    AccessLog, AuthSection, Farewell, HttpSection, Problem, UserVerifier, Words, listener,
};
use local_stack::{Credentials, PortLease, PortWish};
use prometheus::{Gauge, IntCounter, IntGauge};
use serde::{Deserialize, Serialize};
use service_runtime::{Metrics, catalogue};
use tokio::net::TcpStream;

const DRAIN: Duration = Duration::from_secs(1);

/// What the process is told on its standard input.
#[derive(Serialize, Deserialize)]
struct Settings {
    http: HttpSection,
    auth: AuthSection,
}

/// The process; it ends with this.
pub(crate) struct BareRoute {
    process: Child,
    address: SocketAddr,
    _port: PortLease,
}

impl BareRoute {
    /// Starts it with the gateway's own defaults and waits until it listens.
    pub(crate) async fn start(credentials: &Credentials) -> Result<Self> {
        let port = PortLease::take(Ipv4Addr::LOCALHOST.into(), PortWish::Any)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port()));
        let settings = Settings {
            http: HttpSection { listen: address, ..HttpSection::default() },
            auth: AuthSection {
                hs256_secret: Some(credentials.jwt_secret.clone()),
                issuer: credentials.jwt_issuer.clone(),
                audience: Words::of([&credentials.jwt_audience]),
                ..AuthSection::default()
            },
        };
        let program = std::env::current_exe()?;
        let mut process = Command::new(program).arg("bare-route").stdin(Stdio::piped()).spawn()?;
        let input = process.stdin.as_mut().context("the process has no standard input")?;
        writeln!(input, "{}", serde_json::to_string(&settings)?)?;
        let bare_route = Self { process, address, _port: port };
        e2e_tests::eventually("the bare route listens", async || Ok(TcpStream::connect(address).await.ok()))
            .await?;
        Ok(bare_route)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for BareRoute {
    fn drop(&mut self) {
        // It keeps nothing that would have to be put in order.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The process: serves until its standard input ends, which it does when its parent does, however that ended.
pub(crate) fn serve() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let settings: Settings = serde_json::from_str(&line).context("the settings on standard input")?;
    let metrics = Metrics::new("bare-route");
    let key_metrics = KeyMetrics {
        keys: IntGauge::new("keys", "keys")?,
        read_at: Gauge::new("read_at", "when they were read")?,
        read: IntCounter::new("read", "readings")?,
        failed: IntCounter::new("failed", "readings")?,
    };
    let keys = IssuerKeys::of_users(&settings.auth, key_metrics).map_err(anyhow::Error::msg)?;
    let verifier = Data::new(UserVerifier::new(&settings.auth, keys));
    let observer = Observer {
        request_seconds: metrics.histograms(&catalogue::HTTP_REQUEST_SECONDS),
        access: AccessLog::new(&KeyRing::default()),
    };
    let routes = move |app: &mut web::ServiceConfig| {
        app.app_data(verifier.clone()).route("/v1/coupons/{coupon_id}/claims", web::post().to(ok));
    };
    // The same runtime as a service's.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = listener::serve(&settings.http, "http", observer, DRAIN, &Farewell::default(), routes);
        let server = server.map_err(anyhow::Error::msg)?;
        let parent = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new()));
        tokio::select! {
            ended = server => ended?,
            ended = parent => ensure!(ended?? == 0, "there is more on standard input than settings"),
        }
        Ok(())
    })
}

async fn ok(request: HttpRequest, verifier: Data<UserVerifier>) -> Result<&'static str, Problem> {
    verifier.caller(&request).await?;
    Ok("ok")
}
