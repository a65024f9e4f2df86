use anyhow::{Context, Result, ensure};
use e2e_tests::waiting::GENEROUS;
use e2e_tests::{CouponSpec, World, WorldSpec};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};
use reqwest::StatusCode;
use serde_json::{Value, json};

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let settings = vec![
            (Role::ApiGateway, "FIRSTCOME__CLAIMS__USER_REQUESTS_PER_S", "1".to_owned()),
            (Role::ApiGateway, "FIRSTCOME__CLAIMS__USER_REQUESTS_BURST", "3".to_owned()),
            (Role::Notifier, "FIRSTCOME__NOTIFY__STREAMS_MAX", "1".to_owned()),
        ];
        let world = World::start(WorldSpec { partitions: 1, settings, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(5)).await?;
        let several = world.publish(&CouponSpec { per_user_limit: 2, ..CouponSpec::of(5) }).await?;
        let appended = world.bounds(Topic::Claims, 0)?.end;
        tokens(&world, &coupon_id).await?;
        paths_and_headers(&world, &several).await?;
        claim_bodies(&world, &coupon_id).await?;
        bodies(&world, &coupon_id).await?;
        ensure!(world.bounds(Topic::Claims, 0)?.end == appended, "a bad request was appended");
        limits(&world, &coupon_id).await
    })
}

/// What a request says that must be refused, and the field that its problem must name.
async fn refused(
    request: reqwest::RequestBuilder,
    status: StatusCode,
    code: &str,
    detail: &str,
) -> Result<()> {
    let response = request.send().await?;
    let (found, kind) = (response.status(), response.headers().get("content-type").cloned());
    let text = tokio::time::timeout(GENEROUS, response.text()).await.context("an answer has an end")??;
    ensure!(found == status, "{found} instead of {status}: {text}");
    ensure!(kind.is_some_and(|kind| kind == "application/problem+json"), "no problem: {text}");
    let problem: Value = serde_json::from_str(&text)?;
    ensure!(problem["code"] == code && problem["status"] == status.as_u16(), "{problem}");
    ensure!(
        problem["detail"].as_str().is_some_and(|found| found.contains(detail)),
        "{problem} should say {detail:?}"
    );
    Ok(())
}

async fn tokens(world: &World, coupon_id: &str) -> Result<()> {
    let http = reqwest::Client::new();
    let url = format!("{}/v1/coupons/{coupon_id}/claims", gateway(world)?);
    let audience = &world.deployment.credentials.jwt_audience;
    let admin_audience = &world.deployment.credentials.admin_jwt_audience;
    let unauthorized = StatusCode::UNAUTHORIZED;
    refused(http.post(&url), unauthorized, "unauthorized", "no Authorization header").await?;
    let cases = [
        ("x.y.z".to_owned(), "cannot be read"),
        (world.token("ann", admin_audience, Some("coupons:write"))?, "aud is another"),
        (world.token("an\0n", audience, None)?, "sub: a user id must not contain control characters"),
        (world.token(&"x".repeat(3_000), audience, None)?, "sub: a user id has at most 128 bytes"),
        ("x".repeat(9_000), "more than 8192 bytes"),
    ];
    for (token, detail) in cases {
        refused(http.post(&url).bearer_auth(token), unauthorized, "unauthorized", detail).await?;
    }
    // A user's token opens nothing on the admin listener, and a scope is needed there.
    let admin = format!("{}/admin/v1/coupons", admin(world)?);
    let user = world.token("ann", audience, Some("coupons:write"))?;
    refused(http.get(&admin).bearer_auth(user), unauthorized, "unauthorized", "aud is another").await?;
    let reader = world.token("ann", admin_audience, Some("coupons:read"))?;
    let create = http.post(&admin).bearer_auth(reader).header("Idempotency-Key", "k").json(&draft());
    refused(create, StatusCode::FORBIDDEN, "forbidden", "coupons:write").await
}

/// A claim says nothing but who and what: more than nothing is a mistake, and more than 4 KiB is not read.
async fn claim_bodies(world: &World, coupon_id: &str) -> Result<()> {
    let http = reqwest::Client::new();
    let url = format!("{}/v1/coupons/{coupon_id}/claims", gateway(world)?);
    for (number, body) in ["x", "[1]", "null", r#"{"user":"eve"}"#].into_iter().enumerate() {
        let user = world.user(&format!("talkative-{number}"))?;
        let request = http.post(&url).bearer_auth(&user.token).body(body);
        refused(request, StatusCode::BAD_REQUEST, "invalid_request", "body: must be empty").await?;
    }
    let user = world.user("large")?;
    let chunk = futures_util::stream::iter([Ok::<_, std::io::Error>(vec![b' '; 4_097])]);
    for body in [reqwest::Body::from(vec![b' '; 4_097]), reqwest::Body::wrap_stream(chunk)] {
        let request = http.post(&url).bearer_auth(&user.token).body(body);
        refused(request, StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "more than 4096 bytes").await?;
    }
    Ok(())
}

async fn paths_and_headers(world: &World, several: &str) -> Result<()> {
    let http = reqwest::Client::new();
    let token = world.token("bob", &world.deployment.credentials.jwt_audience, None)?;
    let bad = StatusCode::BAD_REQUEST;
    let gateway = gateway(world)?;
    let post = |path: &str| http.post(format!("{gateway}{path}")).bearer_auth(&token);
    refused(post("/v1/coupons/nonsense/claims"), bad, "invalid_request", "coupon_id").await?;
    let claims = format!("/v1/coupons/{several}/claims");
    refused(post(&claims), bad, "invalid_request", "Idempotency-Key: is required").await?;
    let spaced = post(&claims).header("Idempotency-Key", "a b");
    refused(spaced, bad, "invalid_request", "Idempotency-Key").await?;
    refused(http.get(format!("{gateway}/v2/nothing")), StatusCode::NOT_FOUND, "not_found", "/v2/nothing")
        .await?;
    let notifier = notifier(world)?;
    let get = |path: &str| http.get(format!("{notifier}{path}")).bearer_auth(&token);
    refused(get("/v1/claims/nonsense"), bad, "invalid_request", "claim_id").await?;
    let never = format!("/v1/claims/{several}.0.0.{}", "a".repeat(32));
    refused(get(&never), StatusCode::NOT_FOUND, "not_found", "no such claim").await?;
    let stream = http.get(format!("{notifier}{never}/events?token=1.2.3"));
    refused(stream, StatusCode::UNAUTHORIZED, "unauthorized", "stream token").await?;
    refused(get(&never).header("Prefer", "wait=soon"), StatusCode::NOT_FOUND, "not_found", "no such claim")
        .await
}

fn draft() -> Value {
    json!({"name": "Tea", "quantity": 1, "opens_at": "2026-11-21T10:00:00Z", "closes_at": "2026-11-22T10:00:00Z"})
}

async fn bodies(world: &World, coupon_id: &str) -> Result<()> {
    let http = reqwest::Client::new();
    let scope = Some("coupons:read coupons:write");
    let token = world.token("op", &world.deployment.credentials.admin_jwt_audience, scope)?;
    let url = format!("{}/admin/v1/coupons", admin(world)?);
    let bad = StatusCode::BAD_REQUEST;
    let post = |body: Vec<u8>| {
        let request = http.post(&url).bearer_auth(&token).header("Idempotency-Key", "k");
        request.header("Content-Type", "application/json").body(body)
    };
    let with = |field: &str, value: Value| {
        let mut draft = draft();
        draft[field] = value;
        draft.to_string().into_bytes()
    };
    let cases = [
        (b"{".to_vec(), "body"),
        (with("surprise", json!(1)), "unknown field"),
        (with("quantity", json!(0)), "quantity: must be 1..=10000000"),
        (with("quantity", json!(-1)), "body"),
        (with("name", json!("\u{7}")), "name: must have"),
        (with("opens_at", json!("tomorrow")), "opens_at: must be a time like"),
        (with("closes_at", json!("2026-11-20T10:00:00Z")), "closes_at: must be after opens_at"),
        (with("expires_at", json!("2026-11-22T09:59:59Z")), "expires_at: must not lie before closes_at"),
    ];
    for (body, detail) in cases {
        refused(post(body), bad, "invalid_request", detail).await?;
    }
    let large =
        refused(post(vec![b' '; 17 * 1024]), StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "more than");
    large.await?;
    let command = http.post(format!("{url}/{coupon_id}/pause"));
    let large = command.bearer_auth(&token).header("Idempotency-Key", "k").body(vec![b' '; 17 * 1024]);
    refused(large, StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "more than 16384 bytes").await?;
    let without_key = http.post(&url).bearer_auth(&token).json(&draft());
    refused(without_key, bad, "invalid_request", "Idempotency-Key: is required").await?;
    // The same request makes one draft; the same key with another body is refused.
    let first: Value = post(draft().to_string().into_bytes()).send().await?.json().await?;
    let again: Value = post(draft().to_string().into_bytes()).send().await?.json().await?;
    ensure!(first["coupon_id"] == again["coupon_id"], "{first} {again}");
    let reused = post(with("quantity", json!(2)));
    refused(reused, StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "new key").await
}

async fn limits(world: &World, coupon_id: &str) -> Result<()> {
    let http = reqwest::Client::new();
    let gateway = gateway(world)?;
    let token = world.token("eager", &world.deployment.credentials.jwt_audience, None)?;
    let press = || http.post(format!("{gateway}/v1/coupons/{coupon_id}/claims")).bearer_auth(&token);
    let first: Value = press().send().await?.json().await?;
    ensure!(first["claim_id"].is_string(), "{first}");
    let mut limited = None;
    for _ in 0..10 {
        let response = press().send().await?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            ensure!(response.headers().contains_key("retry-after"), "{:?}", response.headers());
            limited = Some(response.json::<Value>().await?);
        }
    }
    ensure!(limited.context("a user has a rate")?["code"] == "rate_limited");
    one_stream_too_many(world, coupon_id).await
}

/// One stream is all there may be here: while it is open, a second one is too much.
async fn one_stream_too_many(world: &World, coupon_id: &str) -> Result<()> {
    let http = reqwest::Client::new();
    let stock_consumer = world.service(Role::StockConsumer.name())?;
    stock_consumer.suspend()?;
    let waiting = world.user("waiting")?;
    let claim_id = waiting.claim(coupon_id).await?;
    let events = format!("{}/v1/claims/{claim_id}/events", notifier(world)?);
    let open = || http.get(&events).bearer_auth(&waiting.token);
    let mut first = open().send().await?;
    ensure!(first.status() == StatusCode::OK);
    refused(open(), StatusCode::SERVICE_UNAVAILABLE, "overloaded", "streams").await?;
    stock_consumer.resume()?;
    let mut said = String::new();
    while let Some(chunk) = first.chunk().await? {
        said.push_str(&String::from_utf8_lossy(&chunk));
    }
    ensure!(said.contains("event: decided") && said.contains("event: end"), "{said}");
    let text = world.metrics(Role::Notifier.name()).await?;
    ensure!(text.contains(r#"coupon_limit_hits_total{limit="sse_streams",service="notifier"} 1"#), "{text}");
    Ok(())
}

fn gateway(world: &World) -> Result<String> {
    world.service(Role::ApiGateway.name())?.api_url().context("a gateway has a user API")
}

fn admin(world: &World) -> Result<String> {
    world.service(Role::ApiGateway.name())?.admin_url().context("a gateway has an admin API")
}

fn notifier(world: &World) -> Result<String> {
    world.service(Role::Notifier.name())?.api_url().context("a notifier has an API")
}
