use anyhow::{Context, Result, ensure};
use e2e_tests::{CouponSpec, User, World, WorldSpec, eventually, oracle};
use local_stack::{Role, Supervised};
use reqwest::StatusCode;

/// Enough for three buckets.
const WINNERS: u32 = 120;
/// Coupons and winners of each, while Redis has too little memory for all of their views; and how many coupons at most until it has: what it frees meanwhile,
/// buffers of clients and the like, is room for some.
const CROWDS: usize = 12;
const CROWDS_MAX: usize = 100;
const CROWD: u32 = 25;

/// Parts of the view are thrown away after everything is granted, by hand and by a Redis that is full: no winner ever reads a firm "sold out", and the view
/// heals by itself, part by part.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, own_servers: true, ..WorldSpec::default() })?;
        let (coupon_id, winners) = sold_out(&world, "w", WINNERS).await?;
        world.wait_until_quiet().await?;
        let pushes = refreshes(&world, "full").await?;
        for (winner, claim_id) in &winners {
            let bucket = world.bucket_key(claim_id).await?;
            world.redis(&["UNLINK", &bucket]).await?;
            never_firmly_refused(winner, &coupon_id).await?;
        }
        eventually("every winner is known again", async || {
            for (winner, _) in &winners {
                if never_firmly_refused(winner, &coupon_id).await? != StatusCode::OK {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        ensure!(refreshes(&world, "bucket").await? >= 1, "lost buckets are pushed again");
        ensure!(refreshes(&world, "full").await? == pushes, "and alone");
        oracle::verify(&world).await?;

        for policy in ["volatile-lru", "allkeys-lru"] {
            under_pressure(&world, policy).await.context(policy)?;
        }
        world.redis(&["CONFIG", "SET", "maxmemory", "0"]).await?;
        world.redis(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await?;
        eventually("the view is whole again", async || Ok(oracle::verify(&world).await.ok())).await?;
        Ok(())
    })
}

/// Redis throws parts of the view away while people press; its policy is named.
async fn under_pressure(world: &World, policy: &str) -> Result<()> {
    world.redis(&["CONFIG", "SET", "maxmemory-policy", policy]).await?;
    let named = format!("maxmemory-policy is {policy}");
    let log = world.service(Role::StockConsumer.name())?.log();
    eventually("the policy is named", async || {
        Ok(std::fs::read_to_string(&log)?.contains(&named).then_some(()))
    })
    .await?;
    let evicts = r#"coupon_redis_evicts{service="stock-consumer"} 1"#;
    ensure!(world.metrics(Role::StockConsumer.name()).await?.lines().any(|line| line == evicts));
    let memory = world.redis(&["INFO", "memory"]).await?.context("INFO")?;
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).context("used_memory")?;
    let limit = used.trim().parse::<u64>()? + 2_000;
    world.redis(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).await?;

    let before = evicted(world).await?;
    let mut crowds = Vec::new();
    while crowds.len() < CROWDS || evicted(world).await? == before {
        ensure!(crowds.len() < CROWDS_MAX, "nothing was thrown away");
        crowds.push(sold_out(world, &format!("{policy}-{}-", crowds.len()), CROWD).await?);
    }
    for _ in 0..3 {
        for (coupon_id, winners) in &crowds {
            for (winner, _) in winners {
                never_firmly_refused(winner, coupon_id).await?;
            }
        }
    }
    Ok(())
}

/// An older copy of Redis' memory is put back after more was granted.
pub(crate) fn put_back() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, own_servers: true, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(WINNERS)).await?;
        let mut winners = press(&world, "early", &coupon_id, WINNERS / 2).await?;
        world.wait_until_quiet().await?;
        world.redis(&["SAVE"]).await?;
        winners.extend(press(&world, "late", &coupon_id, WINNERS / 2).await?);
        until_sold_out(&world, &coupon_id).await?;
        world.wait_until_quiet().await?;

        let redis = world.servers().redis()?;
        redis.kill()?;
        redis.start_again()?;
        eventually("every winner is known again", async || {
            for (winner, _) in &winners {
                if never_firmly_refused(winner, &coupon_id).await? != StatusCode::OK {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        oracle::verify(&world).await?;
        Ok(())
    })
}

/// A coupon, and all who have it.
async fn sold_out(world: &World, name: &str, quantity: u32) -> Result<(String, Vec<(User, String)>)> {
    let coupon_id = world.publish(&CouponSpec::of(quantity)).await?;
    let winners = press(world, name, &coupon_id, quantity).await?;
    until_sold_out(world, &coupon_id).await?;
    Ok((coupon_id, winners))
}

async fn press(world: &World, name: &str, coupon_id: &str, count: u32) -> Result<Vec<(User, String)>> {
    let mut winners = Vec::new();
    for number in 0..count {
        let winner = world.user(&format!("{name}{number}"))?;
        let claim_id = winner.claim(coupon_id).await?;
        winners.push((winner, claim_id));
    }
    Ok(winners)
}

async fn until_sold_out(world: &World, coupon_id: &str) -> Result<()> {
    let loser = world.user("loser")?;
    eventually("nothing is left", async || {
        Ok((loser.press(coupon_id).await?.code() == "sold_out").then_some(()))
    })
    .await
}

/// A winner presses again: told so, or told that it may be otherwise.
async fn never_firmly_refused(winner: &User, coupon_id: &str) -> Result<StatusCode> {
    let again = winner.press(coupon_id).await?;
    let known = again.status == StatusCode::OK && again.code() == "granted";
    let advice = again.code() == "sold_out" && again.body["advisory"] == true;
    ensure!(known || advice, "{again:?}");
    Ok(again.status)
}

async fn refreshes(world: &World, kind: &str) -> Result<u64> {
    let series = format!(r#"coupon_view_refreshes_total{{kind="{kind}",service="stock-consumer"}} "#);
    let metrics = world.metrics(Role::StockConsumer.name()).await?;
    let found = metrics.lines().find_map(|line| line.strip_prefix(&series)).context("no such series")?;
    Ok(found.parse()?)
}

async fn evicted(world: &World) -> Result<u64> {
    let stats = world.redis(&["INFO", "stats"]).await?.context("INFO")?;
    let keys = stats.lines().find_map(|line| line.strip_prefix("evicted_keys:")).context("evicted_keys")?;
    Ok(keys.trim().parse()?)
}
