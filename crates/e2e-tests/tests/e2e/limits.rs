use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_tests::waiting::GENEROUS;
use e2e_tests::{CouponSpec, User, World, WorldSpec};
use futures_util::future::{Either, select};
use local_stack::{Role, Supervised};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connections that the gateway takes at once.
const CONNECTIONS_MAX: usize = 8;
/// Long enough for an answer that nothing holds up.
const MOMENT: Duration = Duration::from_millis(500);

/// Beyond a limit the answer is 503 at once or the connection waits its turn; nothing grows, and nobody who was let in is harmed.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let settings = vec![
            (Role::ApiGateway, "FIRSTCOME__CLAIMS__IN_FLIGHT_MAX", "1".to_owned()),
            (Role::ApiGateway, "FIRSTCOME__HTTP__WORKERS", "1".to_owned()),
            (Role::ApiGateway, "FIRSTCOME__HTTP__CONNECTIONS_PER_WORKER_MAX", CONNECTIONS_MAX.to_string()),
            (Role::Notifier, "FIRSTCOME__NOTIFY__WAITERS_MAX", "1".to_owned()),
        ];
        let world = World::start(WorldSpec { partitions: 1, settings, own_servers: true })?;
        let coupon_id = world.publish(&CouponSpec::of(5)).await?;
        claims_in_flight(&world, &coupon_id).await?;
        waiters(&world, &coupon_id).await?;
        connections(&world, &coupon_id).await
    })
}

/// While the log does not answer, one claim is under way, and that is all there may be.
async fn claims_in_flight(world: &World, coupon_id: &str) -> Result<()> {
    let (ann, bob) = (world.user("ann")?, world.user("bob")?);
    let kafka = world.servers().kafka()?;
    kafka.suspend()?;
    let (first, other) = first_of(ann.press(coupon_id), bob.press(coupon_id)).await;
    let first = first?;
    ensure!(first.code() == "overloaded" && first.status == StatusCode::SERVICE_UNAVAILABLE, "{first:?}");
    kafka.resume()?;
    let other = other.await?;
    ensure!(other.status == StatusCode::ACCEPTED || other.code() == "in_doubt", "{other:?}");
    hit(world, Role::ApiGateway, "claims_in_flight").await?;
    for user in [ann, bob] {
        ensure!(user.press_to_the_end(coupon_id).await? == "granted", "pressing again helps");
    }
    Ok(())
}

/// One waits for an answer; whoever else wants to wait is sent away, and may still ask.
async fn waiters(world: &World, coupon_id: &str) -> Result<()> {
    let stock_consumer = world.service(Role::StockConsumer.name())?;
    stock_consumer.suspend()?;
    let (cleo, dora) = (world.user("cleo")?, world.user("dora")?);
    let (one, other) = (cleo.claim(coupon_id).await?, dora.claim(coupon_id).await?);
    let wait = async |user: &User, claim_id: &str| {
        let path = format!("/v1/claims/{claim_id}");
        user.notifier.get(&path, &[("Prefer", "wait=30")]).await
    };
    let (first, waiting) = first_of(wait(&cleo, &one), wait(&dora, &other)).await;
    let first = first?;
    ensure!(first.code() == "overloaded" && first.status == StatusCode::SERVICE_UNAVAILABLE, "{first:?}");
    for (user, claim_id) in [(&cleo, &one), (&dora, &other)] {
        let now = user.notifier.get(&format!("/v1/claims/{claim_id}"), &[]).await?;
        ensure!(now.text("status") == "pending", "{now:?}");
    }
    stock_consumer.resume()?;
    let waited = waiting.await?;
    ensure!(waited.code() == "granted", "whoever waited was told: {waited:?}");
    ensure!(cleo.answer(&one).await?.code() == "granted" && dora.answer(&other).await?.code() == "granted");
    hit(world, Role::Notifier, "waiters").await
}

/// What comes of the faster one, and the other, which goes on.
async fn first_of<F: Future>(one: F, other: F) -> (F::Output, std::pin::Pin<Box<F>>) {
    match select(Box::pin(one), Box::pin(other)).await {
        Either::Left((first, rest)) | Either::Right((first, rest)) => (first, rest),
    }
}

/// Further connections are not accepted until one is free; the request that came with them waits and is answered then.
async fn connections(world: &World, coupon_id: &str) -> Result<()> {
    let gateway = world.service(Role::ApiGateway.name())?.api_url().context("a gateway has a user API")?;
    let address = gateway.trim_start_matches("http://").to_owned();
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(&address).await?);
    }
    let mut late = TcpStream::connect(&address).await?;
    let path = format!("/v1/coupons/{coupon_id}/watermark");
    late.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = vec![0; 4_096];
    let early = tokio::time::timeout(MOMENT, late.read(&mut answer)).await;
    ensure!(early.is_err(), "one connection more than there may be was served: {early:?}");
    drop(silent);
    let length = tokio::time::timeout(GENEROUS, late.read(&mut answer)).await??;
    let said = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
    ensure!(said.starts_with("HTTP/1.1 200"), "{said}");
    let body: Value = serde_json::from_str(said.rsplit("\r\n\r\n").next().unwrap_or_default())?;
    ensure!(body["remaining"] == 1, "{body}");
    Ok(())
}

/// The metric names the limit.
async fn hit(world: &World, role: Role, limit: &str) -> Result<()> {
    let metrics = world.metrics(role.name()).await?;
    let series = format!(r#"coupon_limit_hits_total{{limit="{limit}",service="{}"}} "#, role.name());
    let hits = metrics.lines().find_map(|line| line.strip_prefix(&series)).context("a limit has a metric")?;
    ensure!(hits.parse::<f64>()? > 0.0, "{limit} was hit");
    Ok(())
}
