use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Service, Supervised};
use serde_json::{Value, json};
use service_runtime::logs::KEYS;

const USERS: usize = 8;
/// PostgreSQL trusts loopback, so any password opens it; it must not be written down all the same.
const PASSWORD: &str = "pa55word-of-the-database";

/// With everything logged that can be, no line of any service holds a user, a token, a key, a password or a coupon's code; each line is JSON with the
/// documented keys alone.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::prepare(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let url = world.deployment.namespace.database_url.replacen('@', &format!(":{PASSWORD}@"), 1);
        ensure!(url.contains(PASSWORD), "{url} names no user");
        let loud = [
            ("FIRSTCOME__LOG__FORMAT", "json"),
            ("FIRSTCOME__LOG__FILTER", "trace"),
            ("FIRSTCOME__POSTGRES__URL", url.as_str()),
        ];
        for role in [Role::StockConsumer, Role::DbWriter, Role::Notifier, Role::ApiGateway] {
            world.add_with(role, role.name(), &loud)?;
        }
        for role in Role::ALL {
            world.wait_ready(role.name())?;
        }
        let mut secrets = crowd(&world).await?;
        for role in Role::ALL {
            secrets.extend(configured(world.service(role.name())?));
            world.stop(role.name())?;
        }
        secrets.insert(PASSWORD.to_owned());
        for role in Role::ALL {
            let text = std::fs::read_to_string(world.service(role.name())?.log())?;
            for secret in &secrets {
                let told = text.lines().find(|line| line.contains(secret));
                ensure!(told.is_none(), "{} tells {secret}: {told:?}", role.name());
            }
            lines_are_as_documented(role, &text)?;
        }
        Ok(())
    })
}

/// Users who do all that can be done; everything that nobody may read afterwards.
async fn crowd(world: &World) -> Result<BTreeSet<String>> {
    let coupon_id = world.publish(&CouponSpec::of(5)).await?;
    let mut secrets = BTreeSet::new();
    // Nothing is decided until the first of them listens: so the tail tells, which has a line of its own.
    let stock_consumer = world.service(Role::StockConsumer.name())?;
    stock_consumer.suspend()?;
    for number in 0..USERS {
        let user = world.user(&format!("nobodys-business-{number}@example.org"))?;
        secrets.extend([user.name.clone(), user.token.clone()]);
        let pressed = user.press(&coupon_id).await?;
        let (claim_id, stream_token) = (pressed.text("claim_id").to_owned(), pressed.text("stream_token"));
        if pressed.status != 202 {
            ensure!(pressed.code() == "sold_out", "{pressed:?}");
            continue;
        }
        secrets.insert(stream_token.to_owned());
        let waking = async {
            if number == 0 {
                world.wait_for_streams(1).await?;
                stock_consumer.resume()?;
            }
            Ok(())
        };
        let (events, ()) = tokio::try_join!(user.events(&claim_id, Some(stream_token)), waking)?;
        user.answer(&claim_id).await?;
        user.press(&coupon_id).await?;
        if let Some((_, persisted)) = events.iter().find(|(event, _)| event == "persisted") {
            secrets.insert(persisted["coupon_code"].as_str().context("a code")?.to_owned());
            user.redeem(&claim_id, "till-7", "order-of-nobody").await?;
            user.wallet("").await?;
        }
    }
    // Records that cannot be read quote a user, too.
    let name = "nobodys-business-in-garbage";
    let garbage = json!({"v": 1, "claim_id": name, "coupon_id": coupon_id, "user_id": [name], "round": name});
    world.append(Topic::Claims, 0, &coupon_id, garbage.to_string().as_bytes()).await?;
    secrets.insert(name.to_owned());
    // So do requests that are refused.
    let stranger = world.user("nobodys-business-at-all")?;
    let forged = format!("{}x", stranger.token);
    stranger.gateway.with_token(&forged).get(&format!("/v1/coupons/{name}"), &[]).await?;
    secrets.extend([stranger.name.clone(), stranger.token.clone()]);
    world.wait_until_quiet().await?;
    oracle::verify(world).await?;
    Ok(secrets)
}

/// The secrets that a service was configured with.
fn configured(service: &Service) -> Vec<String> {
    let is_secret = |key: &str| ["SECRET", "PASSWORD"].iter().any(|word| key.contains(word));
    let secrets = service.environment().iter().filter(|(key, value)| is_secret(key) && value.len() > 8);
    secrets.map(|(_, value)| value.clone()).collect()
}

fn lines_are_as_documented(role: Role, text: &str) -> Result<()> {
    let (mut levels, mut users) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let parsed: Value = serde_json::from_str(line).with_context(|| format!("{}: {line}", role.name()))?;
        let keys = parsed.as_object().context("a line is an object")?;
        let unknown: Vec<&String> =
            keys.keys().filter(|key| !KEYS.iter().any(|(known, _)| known == key)).collect();
        ensure!(unknown.is_empty(), "{} has keys that are not documented: {unknown:?}: {line}", role.name());
        for key in ["ts", "level", "target", "message", "service", "version"] {
            ensure!(keys.contains_key(key), "{} lacks {key}: {line}", role.name());
        }
        ensure!(keys["level"] != "error" || keys.contains_key("runbook"), "{line}");
        levels.insert(keys["level"].to_string());
        users.extend(keys.get("user.hash").map(ToString::to_string));
    }
    ensure!(levels.contains("\"info\""), "{} says only {levels:?}", role.name());
    // Each says something about single records or batches; the gateway has its access log.
    let closely = levels.contains("\"trace\"") || levels.contains("\"debug\"");
    ensure!(closely || role == Role::ApiGateway, "{} says only {levels:?}", role.name());
    if role == Role::ApiGateway {
        ensure!(users.len() > USERS, "requests are told apart by user: {users:?}");
    }
    Ok(())
}
