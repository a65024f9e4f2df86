use anyhow::{Context, Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised as _};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

const SHOP: &str = "https://www.shop.example";
const ORIGINS: &str = "FIRSTCOME__HTTP__CORS__ORIGINS";

/// A page of another origin, its EventSource, and the load balancer in between.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let origins = |role| (role, ORIGINS, "https://shop.example https://*.shop.example".to_owned());
        let settings = vec![origins(Role::ApiGateway), origins(Role::Notifier)];
        let world = World::start(WorldSpec { settings, ..WorldSpec::default() })?;
        let url = |role: Role| world.service(role.name())?.api_url().context("it has an API for users");
        let (gateway, notifier) = (url(Role::ApiGateway)?, url(Role::Notifier)?);
        let http = Client::new();
        let (open, later) = (CouponSpec::of(1), CouponSpec { opens_in_ms: 90_000, ..CouponSpec::of(1) });
        let (open, later) = (world.publish(&open).await?, world.publish(&later).await?);
        let ann = world.user("ann")?;

        for base in [&gateway, &notifier] {
            for path in ["/", "/healthz", "/readyz"] {
                for method in [Method::GET, Method::HEAD] {
                    let answer = http.request(method, format!("{base}{path}")).send().await?;
                    ensure!(answer.status() == StatusCode::OK, "{path}: {answer:?}");
                }
            }
        }

        // Before it presses, the browser asks whether the page may.
        let button = format!("{gateway}/v1/coupons/{open}/claims");
        let asked = ask(&http, &button, SHOP, "authorization,idempotency-key,content-type").await?;
        ensure!(asked.status() == StatusCode::OK, "{asked:?}");
        ensure!(header(&asked, "access-control-allow-origin") == SHOP, "{asked:?}");
        ensure!(header(&asked, "access-control-max-age") == "3600", "{asked:?}");
        for (origin, headers) in [("https://evil.example", "authorization"), (SHOP, "x-strange")] {
            let refused = ask(&http, &button, origin, headers).await?;
            ensure!(header(&refused, "content-type") == "application/problem+json", "{refused:?}");
            ensure!(header(&refused, "access-control-allow-origin").is_empty(), "{refused:?}");
            let problem: Value = refused.json().await?;
            ensure!(problem["code"] == "invalid_request", "{problem}");
            ensure!(
                problem["detail"].as_str().is_some_and(|detail| detail.contains("http.cors")),
                "{problem}"
            );
        }

        // What it is answered the page may read: a success, a refusal with its time, an error.
        let press = async |coupon: &str, origin: &str| {
            let button = format!("{gateway}/v1/coupons/{coupon}/claims");
            http.post(button).bearer_auth(&ann.token).header("Origin", origin).send().await
        };
        let early = press(&later, SHOP).await?;
        ensure!(readable(&early) && early.status() == StatusCode::CONFLICT, "{early:?}");
        let seconds: i64 = header(&early, "retry-after").parse()?;
        ensure!((1..=91).contains(&seconds), "{early:?}");
        let problem: Value = early.json().await?;
        ensure!(problem["code"] == "not_open" && problem["opens_at"].is_string(), "{problem}");
        let nothing = http.get(format!("{gateway}/nothing")).header("Origin", SHOP).send().await?;
        ensure!(readable(&nothing) && nothing.status() == StatusCode::NOT_FOUND, "{nothing:?}");
        let stranger = press(&later, "https://evil.example").await?;
        ensure!(!readable(&stranger), "{stranger:?}");

        // A winner whose code PostgreSQL does not hold yet: the stream says so, and stays until it is told.
        let writer = world.service(Role::DbWriter.name())?;
        writer.suspend()?;
        let accepted = press(&open, SHOP).await?;
        ensure!(readable(&accepted) && accepted.status() == StatusCode::ACCEPTED, "{accepted:?}");
        ensure!(!header(&accepted, "location").is_empty(), "{accepted:?}");
        let accepted: Value = accepted.json().await?;
        let claim_id = accepted["claim_id"].as_str().context("a claim")?;
        let token = accepted["stream_token"].as_str().context("a stream token")?;
        let events = format!("{notifier}/v1/claims/{claim_id}/events?token={token}");
        let mut stream = http.get(&events).header("Origin", SHOP).send().await?;
        ensure!(readable(&stream), "{stream:?}");
        let mut said = String::new();
        said_until(&mut stream, &mut said, "event: waiting").await?;
        ensure!(said.starts_with("retry: "), "{said}");
        ensure!(said.contains("event: decided") && said.contains(r#"data: {"for":"code"}"#), "{said}");
        ensure!(!said.contains("event: end"), "{said}");
        writer.resume()?;
        said_until(&mut stream, &mut said, "event: end").await?;
        ensure!(said.contains("event: persisted"), "{said}");
        let end = id_of_end(&said)?;
        // Whoever has seen the end is sent away for good, however they say what they have seen.
        let by_header = http.get(&events).header("Last-Event-ID", &end).send().await?;
        let by_parameter = http.get(format!("{events}&lastEventId={end}")).send().await?;
        ensure!(by_header.status() == StatusCode::NO_CONTENT, "{by_header:?}");
        ensure!(by_parameter.status() == StatusCode::NO_CONTENT, "{by_parameter:?}");

        // The stream of a claim that the log put off (it was poured into the line while the gateway knew better) ends as well, and pressing again is another stream.
        let early = deferred(&world, &later).await?;
        let events = format!("{notifier}/v1/claims/{early}/events");
        let listen = async |last: Option<&str>| {
            let asking = http.get(&events).bearer_auth(&ann.token);
            match last {
                Some(last) => asking.header("Last-Event-ID", last).send().await,
                None => asking.send().await,
            }
        };
        let (mut stream, mut said) = (listen(None).await?, String::new());
        said_until(&mut stream, &mut said, "event: end").await?;
        ensure!(said.contains("not_open"), "{said}");
        let again = listen(Some(&id_of_end(&said)?)).await?;
        ensure!(again.status() == StatusCode::NO_CONTENT, "{again:?}");
        Ok(())
    })
}

/// A claim of ann's that stands in the line before its coupon opens.
async fn deferred(world: &World, coupon_id: &str) -> Result<String> {
    let claim_id = world.user("ann")?.claim_id(coupon_id).await?;
    let claim = json!({
        "v": 1,
        "claim_id": claim_id,
        "coupon_id": coupon_id,
        "user_id": "ann",
        "round": 0,
        "slot": "0",
        "received_at": world.clock().now().ms(),
    });
    let partition: i32 =
        coupon_id.trim_start_matches('c').split('-').next().context("a partition")?.parse()?;
    world.append(Topic::Claims, partition, coupon_id, claim.to_string().as_bytes()).await?;
    world.wait_until_quiet().await?;
    Ok(claim_id)
}

/// A preflight.
async fn ask(http: &Client, url: &str, origin: &str, headers: &str) -> Result<Response> {
    let asking = http.request(Method::OPTIONS, url).header("Origin", origin);
    let asking = asking.header("Access-Control-Request-Method", "POST");
    Ok(asking.header("Access-Control-Request-Headers", headers).send().await?)
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The page may read it, and where the claim is, and when to come back.
fn readable(answer: &Response) -> bool {
    let exposed = header(answer, "access-control-expose-headers").to_lowercase();
    header(answer, "access-control-allow-origin") == SHOP
        && ["location", "retry-after", "etag"].iter().all(|name| exposed.contains(name))
}

/// Reads on until this was said.
async fn said_until(stream: &mut Response, said: &mut String, what: &str) -> Result<()> {
    let reading = async {
        while !said.contains(what) || !said.ends_with("\n\n") {
            let chunk =
                stream.chunk().await?.with_context(|| format!("the stream ended without {what}: {said}"))?;
            said.push_str(&String::from_utf8_lossy(&chunk));
        }
        Ok(())
    };
    tokio::time::timeout(e2e_tests::waiting::GENEROUS, reading)
        .await
        .with_context(|| format!("{what} was not said"))?
}

fn id_of_end(said: &str) -> Result<String> {
    let (_, end) = said.split_once("event: end\n").context("there is no end")?;
    let id = end.lines().find_map(|line| line.strip_prefix("id: ")).context("the end has no id")?;
    Ok(id.to_owned())
}
