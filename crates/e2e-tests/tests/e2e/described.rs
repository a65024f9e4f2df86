use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use e2e_tests::contract::Contract;
use e2e_tests::world::random;
use e2e_tests::{CouponSpec, User, World, WorldSpec, eventually};
use infrastructure_http::time::to_rfc3339;
use infrastructure_kafka::Topic;
use local_stack::{Role, ServiceSpec};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

const GATEWAY_B: &str = "api-gateway-b";
const GET: Method = Method::GET;
const POST: Method = Method::POST;

/// Every answer is one that the served document describes: status, content type, headers, and each member of the body. And every success that
/// is described is seen.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let settings = vec![(Role::ApiGateway, "FIRSTCOME__CLAIMS__USER_REQUESTS_BURST", "40".to_owned())];
        let mut world = World::start(WorldSpec { settings, ..WorldSpec::default() })?;
        operators(&world).await?;
        let claim_id = users(&world).await?;
        answers(&world, &claim_id).await?;
        without_the_key(&mut world).await
    })
}

fn bearer(token: &str) -> impl Fn(RequestBuilder) -> RequestBuilder {
    move |request| request.bearer_auth(token)
}

fn keyed(token: &str, key: &str) -> impl Fn(RequestBuilder) -> RequestBuilder {
    move |request| request.bearer_auth(token).header("Idempotency-Key", key)
}

async fn operators(world: &World) -> Result<()> {
    let url = world.service(Role::ApiGateway.name())?.admin_url().context("a gateway has an admin API")?;
    let mut admin = Contract::of(&url, "/admin/v1/openapi.json").await?;
    let audience = &world.deployment.credentials.admin_jwt_audience;
    let token = world.token("olive", audience, Some("coupons:read coupons:write"))?;
    let reader = world.token("rita", audience, Some("coupons:read"))?;
    let moment = |from_now_ms| to_rfc3339(world.clock().now().plus_ms(from_now_ms));
    let draft = json!({"name": "Tea", "quantity": 2, "opens_at": moment(-60_000), "closes_at": moment(600_000), "expires_after_days": 3});
    let with = |key: &'static str, body: &Value| {
        let (token, body) = (token.clone(), body.clone());
        move |request: RequestBuilder| keyed(&token, key)(request).json(&body)
    };

    let coupons = "/admin/v1/coupons";
    let made = admin.expect((201, ""), POST, coupons, with("tea", &draft)).await?;
    admin.expect((200, ""), POST, coupons, with("tea", &draft)).await?;
    let mut other = draft.clone();
    other["quantity"] = json!(3);
    admin.expect((422, "idempotency_key_reused"), POST, coupons, with("tea", &other)).await?;
    other["quantity"] = json!("many");
    admin.expect((400, "invalid_request"), POST, coupons, with("coffee", &other)).await?;
    other["quantity"] = json!(0);
    admin.expect((400, "invalid_request"), POST, coupons, with("coffee", &other)).await?;
    other["name"] = json!("x".repeat(20_000));
    admin.expect((413, "payload_too_large"), POST, coupons, with("coffee", &other)).await?;
    admin
        .expect((400, "invalid_request"), POST, coupons, |request| bearer(&token)(request).json(&draft))
        .await?;
    admin.expect((401, "unauthorized"), POST, coupons, |request| request.json(&draft)).await?;
    admin.expect((403, "forbidden"), POST, coupons, |request| bearer(&reader)(request).json(&draft)).await?;

    let coupon = format!("{coupons}/{}", made["coupon_id"].as_str().unwrap_or_default());
    let nobodys = format!("{coupons}/c0-{}", "0".repeat(32));
    admin.expect((200, ""), GET, &coupon, bearer(&token)).await?;
    admin.expect((404, "unknown_coupon"), GET, &nobodys, bearer(&token)).await?;
    admin.expect((400, "invalid_request"), GET, "/admin/v1/coupons/tea", bearer(&token)).await?;
    admin.expect((401, "unauthorized"), GET, &coupon, |request| request).await?;

    let publish = format!("{coupon}/publish");
    let published = admin.expect((202, ""), POST, &publish, keyed(&token, "p")).await?;
    let command = format!("/admin/v1/commands/{}", published["command_id"].as_str().unwrap_or_default());
    let patient = |request: RequestBuilder| bearer(&token)(request).header("Prefer", "wait=30");
    admin.expect((200, "applied"), GET, &command, patient).await?;
    let wait = |key: &'static str| {
        let token = token.clone();
        move |request: RequestBuilder| keyed(&token, key)(request).header("Prefer", "wait=30")
    };
    admin.expect((200, "applied"), POST, &publish, wait("p")).await?;
    let again = format!("{coupon}/reschedule");
    let window = json!({"opens_at": moment(60_000), "closes_at": moment(600_000), "reason": "rain"});
    let late = |request: RequestBuilder| wait("late")(request).json(&window);
    let refused = admin.expect((200, "refused"), POST, &again, late).await?;
    ensure!(refused["refusal"].is_string(), "{refused}");
    admin.expect((400, "invalid_request"), POST, &again, keyed(&token, "x")).await?;
    let stale = |request: RequestBuilder| wait("stale")(request).header("If-Match", "\"9\"");
    admin.expect((200, "version_mismatch"), POST, &format!("{coupon}/pause"), stale).await?;
    admin.expect((400, "invalid_request"), POST, &format!("{coupon}/pause"), bearer(&token)).await?;
    admin.expect((404, "not_found"), POST, &format!("{coupon}/burn"), keyed(&token, "b")).await?;
    admin.expect((404, "unknown_coupon"), POST, &format!("{nobodys}/pause"), keyed(&token, "n")).await?;
    admin.expect((403, "forbidden"), POST, &format!("{coupon}/pause"), keyed(&reader, "n")).await?;
    admin.expect((400, "invalid_request"), GET, "/admin/v1/commands/x", bearer(&token)).await?;

    admin.expect((200, ""), GET, &coupon, bearer(&token)).await?;
    let page = admin.expect((200, ""), GET, &format!("{coupons}?limit=1"), bearer(&token)).await?;
    ensure!(page["next"].is_string(), "{page}");
    admin.expect((200, ""), GET, &format!("{coupon}/ledger"), bearer(&token)).await?;
    admin.expect((404, "unknown_coupon"), GET, &format!("{nobodys}/ledger"), bearer(&token)).await?;
    world.wait_until_stored().await?;
    let events = admin.expect((200, ""), GET, &format!("{coupon}/events?limit=2"), bearer(&token)).await?;
    ensure!(events["next"].is_number() && events["events"][1]["reason"] == "rain", "{events}");
    let rest = format!("{coupon}/events?before={}", events["next"]);
    let rest = admin.expect((200, ""), GET, &rest, bearer(&token)).await?;
    ensure!(rest["next"].is_null() && rest["events"][0]["kind"] == "publish", "{rest}");
    world.append(Topic::DeadLetters, 0, "", b"of another installation").await?;
    let letters = admin.expect((200, ""), GET, "/admin/v1/dead-letters?all=true", bearer(&token)).await?;
    ensure!(letters["open"] == 0, "{letters}");
    for (path, wrong) in [("dead-letters", "limit=0"), ("dead-letters", "all=7"), ("coupons/tea/ledger", "")]
    {
        let path = format!("/admin/v1/{path}?{wrong}");
        admin.expect((400, "invalid_request"), GET, &path, bearer(&token)).await?;
    }
    for wrong in ["limit=0", "limit=201", "before=-1", "before=x"] {
        let path = format!("{coupon}/events?{wrong}");
        admin.expect((400, "invalid_request"), GET, &path, bearer(&token)).await?;
    }
    for wrong in ["limit=0", "limit=x", "size=1"] {
        admin.expect((400, "invalid_request"), GET, &format!("{coupons}?{wrong}"), bearer(&token)).await?;
    }
    ensure!(admin.unseen().is_empty(), "described, but never seen: {:?}", admin.unseen());
    Ok(())
}

/// Everything that a gateway says to users; the claim of the one who got the last coupon.
async fn users(world: &World) -> Result<String> {
    let ann = world.user("ann")?;
    let url = world.service(Role::ApiGateway.name())?.api_url().context("a gateway has a user API")?;
    let mut gateway = Contract::of(&url, "/v1/openapi.json").await?;
    let coupon_id = world.publish(&CouponSpec::of(1)).await?;
    let coupon = format!("/v1/coupons/{coupon_id}");
    let (claims, mine, watermark) =
        (format!("{coupon}/claims"), format!("{coupon}/claims/mine"), format!("{coupon}/watermark"));
    let nobodys = format!("/v1/coupons/c0-{}", "0".repeat(32));
    for path in [&coupon, &mine, &watermark] {
        gateway.expect((200, ""), GET, path, bearer(&ann.token)).await?;
    }
    for path in [nobodys.clone(), format!("{nobodys}/claims/mine"), format!("{nobodys}/watermark")] {
        gateway.expect((404, "unknown_coupon"), GET, &path, bearer(&ann.token)).await?;
    }
    for path in ["/v1/coupons/tea", "/v1/coupons/tea/claims/mine", "/v1/coupons/tea/watermark"] {
        gateway.expect((400, "invalid_request"), GET, path, bearer(&ann.token)).await?;
    }
    for path in [&coupon, &mine] {
        gateway.expect((401, "unauthorized"), GET, path, |request| request).await?;
    }

    let pressed = gateway.expect((202, ""), POST, &claims, bearer(&ann.token)).await?;
    let claim_id = pressed["claim_id"].as_str().unwrap_or_default().to_owned();
    ensure!(ann.answer(&claim_id).await?.code() == "granted");
    world.wait_until_quiet().await?;
    gateway.expect((200, "granted"), POST, &claims, bearer(&ann.token)).await?;
    let own = gateway.expect((200, ""), GET, &mine, bearer(&ann.token)).await?;
    ensure!(own["claims"][0]["code"] == "granted", "{own}");

    wallet(&mut gateway, &ann, &claim_id).await?;

    let bob = world.user("bob")?;
    eventually("the gateway knows that nothing is left", async || {
        Ok((bob.gateway.get(&coupon, &[]).await?.text("status") == "sold_out").then_some(()))
    })
    .await?;
    gateway.expect((409, "sold_out"), POST, &claims, bearer(&bob.token)).await?;
    let early = world.publish(&CouponSpec { opens_in_ms: 600_000, ..CouponSpec::default() }).await?;
    let too_early = format!("/v1/coupons/{early}/claims");
    gateway.expect((409, "not_open"), POST, &too_early, bearer(&bob.token)).await?;
    let over = world.publish(&CouponSpec { closes_in_ms: -30_000, ..CouponSpec::default() }).await?;
    gateway.expect((410, "closed"), POST, &format!("/v1/coupons/{over}/claims"), bearer(&bob.token)).await?;
    gateway.expect((404, "unknown_coupon"), POST, &format!("{nobodys}/claims"), bearer(&bob.token)).await?;
    gateway.expect((401, "unauthorized"), POST, &claims, bearer("x.y.z")).await?;
    let body = |body: &'static str| {
        let token = bob.token.clone();
        move |request: RequestBuilder| bearer(&token)(request).body(body.repeat(1_000))
    };
    gateway.expect((400, "invalid_request"), POST, &claims, body("x")).await?;
    gateway.expect((413, "payload_too_large"), POST, &claims, body("xxxxx")).await?;
    let greedy = world.user("greedy")?;
    eventually("a user presses too often", async || {
        let said = gateway.ask(POST, &too_early, bearer(&greedy.token)).await?;
        Ok((said.json()["code"] == "rate_limited").then_some(()))
    })
    .await?;
    ensure!(gateway.unseen().is_empty(), "described, but never seen: {:?}", gateway.unseen());
    Ok(claim_id)
}

async fn wallet(gateway: &mut Contract, ann: &User, claim_id: &str) -> Result<()> {
    let (held, redemptions) = ("/v1/me/coupons", format!("/v1/me/coupons/{claim_id}/redemptions"));
    let page = gateway.expect((200, ""), GET, held, bearer(&ann.token)).await?;
    ensure!(page["coupons"][0]["claim_id"] == claim_id, "{page}");
    gateway.expect((400, "invalid_request"), GET, "/v1/me/coupons?limit=0", bearer(&ann.token)).await?;
    gateway.expect((401, "unauthorized"), GET, held, |request| request).await?;
    let use_it = |key: &'static str, order: &'static str| {
        let token = ann.token.clone();
        move |request: RequestBuilder| keyed(&token, key)(request).json(&json!({ "order_ref": order }))
    };
    gateway.expect((400, "invalid_request"), POST, &redemptions, use_it("till", "")).await?;
    gateway.expect((201, ""), POST, &redemptions, use_it("till", "order-1")).await?;
    gateway.expect((200, ""), POST, &redemptions, use_it("till", "order-1")).await?;
    gateway.expect((409, "already_used"), POST, &redemptions, use_it("other", "order-1")).await?;
    gateway.expect((422, "idempotency_key_reused"), POST, &redemptions, use_it("till", "order-2")).await?;
    let somebodys = redemptions.replace(claim_id, &format!("c0-{}.0.0.{}", "1".repeat(32), "2".repeat(32)));
    gateway.expect((404, "not_found"), POST, &somebodys, use_it("till", "order-1")).await?;
    Ok(())
}

async fn answers(world: &World, claim_id: &str) -> Result<()> {
    let url = world.service(Role::Notifier.name())?.api_url().context("a notifier has an API")?;
    let mut notifier = Contract::of(&url, "/v1/claims/openapi.json").await?;
    let (ann, bob) = (world.user("ann")?, world.user("bob")?);
    let (claim, events) = (format!("/v1/claims/{claim_id}"), format!("/v1/claims/{claim_id}/events"));
    let answer = notifier.expect((200, "granted"), GET, &claim, bearer(&ann.token)).await?;
    ensure!(answer["coupon_code"].is_string(), "{answer}");
    for path in [&claim, &events] {
        notifier.expect((404, "not_found"), GET, path, bearer(&bob.token)).await?;
        notifier.expect((401, "unauthorized"), GET, path, |request| request).await?;
    }
    for path in ["/v1/claims/x", "/v1/claims/x/events"] {
        notifier.expect((400, "invalid_request"), GET, path, bearer(&ann.token)).await?;
    }
    let soon = |request: RequestBuilder| bearer(&ann.token)(request).header("Prefer", "wait=soon");
    notifier.expect((400, "invalid_request"), GET, &claim, soon).await?;
    notifier.expect((401, "unauthorized"), GET, &format!("{events}?token=x"), |request| request).await?;
    notifier.expect((200, ""), GET, &events, bearer(&ann.token)).await?;
    let seen = answer["decided_offset"].to_string();
    let again = |request: RequestBuilder| bearer(&ann.token)(request).header("Last-Event-ID", &seen);
    notifier.expect((204, ""), GET, &events, again).await?;
    events_are_described(&notifier, world, &ann).await?;
    ensure!(notifier.unseen().is_empty(), "described, but never seen: {:?}", notifier.unseen());
    Ok(())
}

/// A stream from press to end, with the stream token: all four events.
async fn events_are_described(notifier: &Contract, world: &World, ann: &User) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec::of(1)).await?;
    let pressed = ann.press(&coupon_id).await?;
    let path =
        format!("/v1/claims/{}/events?token={}", pressed.text("claim_id"), pressed.text("stream_token"));
    let mut events = Vec::new();
    let listening = ann.notifier.events(&path, |name, data| {
        events.push((name.to_owned(), data.clone()));
        if name == "end" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    listening.await?;
    let described = [
        ("position", "PositionEvent"),
        ("decided", "DecidedEvent"),
        ("persisted", "PersistedEvent"),
        ("end", "EndEvent"),
    ];
    for (name, data) in &events {
        let schema = described.iter().find(|(event, _)| event == name).map(|(_, schema)| *schema);
        notifier.check_schema(schema.with_context(|| format!("{name} is not described"))?, data)?;
    }
    for (name, _) in described {
        ensure!(events.iter().any(|(event, _)| event == name), "there is no {name} in {events:?}");
    }
    Ok(())
}

async fn without_the_key(world: &mut World) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec::of(1)).await?;
    let spec = ServiceSpec::new(Role::ApiGateway).instance(GATEWAY_B).without("FIRSTCOME__KEYS__SECRETS__K1");
    let spec = spec.env("FIRSTCOME__KEYS__SECRETS__K2", random()).env("FIRSTCOME__KEYS__ACTIVE_ID", "k2");
    world.add_spec(spec)?;
    world.wait_ready(GATEWAY_B)?;
    let url = world.service(GATEWAY_B)?.api_url().context("a gateway has a user API")?;
    let mut gateway = Contract::of(&url, "/v1/openapi.json").await?;
    let cleo = world.user_at("cleo", GATEWAY_B)?;
    for (method, path) in [(POST, "claims"), (GET, "claims/mine")] {
        let path = format!("/v1/coupons/{coupon_id}/{path}");
        gateway.expect((503, "unavailable"), method, &path, bearer(&cleo.token)).await?;
    }
    Ok(())
}
