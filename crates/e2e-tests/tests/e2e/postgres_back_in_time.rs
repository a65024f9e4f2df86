use anyhow::{Context, Result, bail, ensure};
use coupon_domain::restored::BEATS_PER_ERA;
use e2e_tests::{Burst, CouponSpec, User, World, WorldSpec, eventually, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};
use reqwest::StatusCode;
use serde_json::Value;

/// PostgreSQL put back to an older copy, under load and while nothing happens: the watermark went back with the rows, and all rows return. What was
/// redeemed behind the copy is lost, so nothing is redeemed until an operator says so.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let settings = vec![(Role::DbWriter, "FIRSTCOME__WRITE__IDLE_INTERVAL_MS", "500".to_owned())];
        let world = World::start(WorldSpec { partitions: 1, settings, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(100_000)).await?;
        let ann = world.user("ann")?;
        let won = ann.win(&coupon_id).await?;
        let burst = Burst::start(&world, &coupon_id, 40)?;
        burst.wait_for_accepted(20).await?;
        let copied = copy(&world, "older").await?;
        burst.wait_for_accepted(burst.accepted() + 40).await?;
        redeem(&ann, &won, "behind the copy").await?;
        wait_for_published(&world, copied).await?;
        put_back(&world, "older").await?;
        // db-writer notices before it publishes anything.
        eventually("redeeming is closed by db-writer", async || {
            let closed_by = world.sql("select closed_by from redemption_closures").unwrap_or_default();
            Ok((closed_by == "db-writer").then_some(()))
        })
        .await?;
        is_closed(&world, &ann, &won).await?;
        burst.wait_for_accepted(burst.accepted() + 40).await?;
        let told = burst.end().await?;
        ensure!(told.iter().all(|told| told.code == "granted"), "{told:?}");
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == told.len() + 1, "{report}");
        is_closed(&world, &ann, &won).await?;
        world.deployment.couponctl(&["redemptions", "reopen", "--operator", "olive"])?;
        // The database knows no better: that is why somebody had to look first.
        redeem(&ann, &won, "a second time").await?;
        ensure!(world.sql("select reopened_by from redemption_closures")? == "olive");

        // A copy that was taken while redeeming was open is closed again.
        let bob = world.user("bob")?;
        let behind = bob.win(&coupon_id).await?;
        let copied = copy(&world, "quiet").await?;
        redeem(&bob, &behind, "behind the copy").await?;
        ensure!(world.user("behind the copy")?.press_to_the_end(&coupon_id).await? == "granted");
        world.wait_until_stored().await?;
        wait_for_published(&world, copied).await?;
        // The gateway notices as well, should it be first.
        let db_writer = world.service(Role::DbWriter.name())?;
        db_writer.suspend()?;
        put_back(&world, "quiet").await?;
        let status = is_closed(&world, &bob, &behind).await?;
        ensure!(status["closed_by"] == "api-gateway", "{status}");
        stays_closed(&world)?;
        db_writer.resume()?;
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == told.len() + 3, "{report}");
        ensure!(world.sql("select count(*) from issued_coupons")? == (told.len() + 3).to_string());
        is_closed(&world, &bob, &behind).await?;
        world.deployment.couponctl(&["redemptions", "reopen"])?;
        redeem(&bob, &behind, "a second time").await?;
        another_cluster(&world, &bob, &behind).await?;
        reopening_lasts(&world, &bob, &behind).await
    })
}

/// While db-writer is down nobody else speaks of the database: the gateway that redeemed does, so that a restore is noticed all the same.
pub(crate) fn without_writer() -> Result<()> {
    e2e_tests::world::run(async {
        let settings = vec![(Role::ApiGateway, "FIRSTCOME__WALLET__BEAT_INTERVAL_MS", "1000".to_owned())];
        let world = World::start(WorldSpec { partitions: 1, settings, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(5)).await?;
        let (ann, bob) = (world.user("ann")?, world.user("bob")?);
        let (won, behind) = (ann.win(&coupon_id).await?, bob.win(&coupon_id).await?);
        world.service(Role::DbWriter.name())?.kill()?;
        let copied = copy(&world, "silent").await?;
        redeem(&ann, &won, "behind the copy").await?;
        wait_for_published(&world, copied).await?;
        // It was said once, and need not be said again.
        let said = world.records(Topic::Persisted, 0)?.len();
        put_back(&world, "silent").await?;
        let status = is_closed(&world, &bob, &behind).await?;
        ensure!(status["closed_by"] == "api-gateway", "{status}");
        let of_an_era_that_ended =
            |record: &Value| record["beat"].as_i64().is_none_or(|beat| beat < BEATS_PER_ERA);
        let newer = world.records(Topic::Persisted, 0)?.split_off(said);
        ensure!(
            !newer.iter().any(of_an_era_that_ended),
            "of a database in doubt nothing is published but that it is closed: {newer:?}"
        );
        world.service(Role::DbWriter.name())?.restart()?;
        world.wait_ready(Role::DbWriter.name())?;
        is_closed(&world, &bob, &behind).await?;
        world.deployment.couponctl(&["redemptions", "reopen"])?;
        redeem(&bob, &behind, "later").await?;
        oracle::verify(&world).await?;
        Ok(())
    })
}

/// Redeems, once the gateway has found its way back to PostgreSQL.
async fn redeem(user: &User, claim_id: &str, order_ref: &str) -> Result<()> {
    eventually("the coupon is redeemed", async || {
        let answer = user.redeem(claim_id, &order_ref.replace(' ', "-"), order_ref).await?;
        match (answer.status, answer.code()) {
            (StatusCode::CREATED | StatusCode::OK, _) => Ok(Some(())),
            (_, "unavailable") => Ok(None),
            _ => bail!("{order_ref} was answered {answer:?}"),
        }
    })
    .await
}

/// Redeeming is closed: the very first answer of a gateway that reaches PostgreSQL again says so, whatever the coupon.
async fn is_closed(world: &World, user: &User, claim_id: &str) -> Result<Value> {
    eventually("redeeming is closed", async || {
        let answer = user.redeem(claim_id, "another-key", "another order").await?;
        match (answer.status, answer.code()) {
            (StatusCode::SERVICE_UNAVAILABLE, "store_restored") => Ok(Some(())),
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable") => Ok(None),
            _ => bail!("in a database that was put back in time it was answered {answer:?}"),
        }
    })
    .await?;
    let status = status(world)?;
    ensure!(status["redemptions"] == "closed" && status["reason"].is_string(), "{status}");
    Ok(status)
}

fn status(world: &World) -> Result<Value> {
    Ok(serde_json::from_str(&world.deployment.couponctl(&["redemptions", "status", "-o", "json"])?)?)
}

/// As long as db-writer has not published from the database as it is now, nobody opens anything.
fn stays_closed(world: &World) -> Result<()> {
    let refused = world.deployment.couponctl(&["redemptions", "reopen", "--wait-s", "1"]);
    let complaint = refused.err().context("it was reopened")?.to_string();
    ensure!(complaint.contains("stays closed") && complaint.contains("partition 0"), "{complaint}");
    ensure!(status(world)?["redemptions"] == "closed");
    Ok(())
}

/// A database that was moved: the one that was published last lies in another cluster, however far it had come.
async fn another_cluster(world: &World, user: &User, claim_id: &str) -> Result<()> {
    let db_writer = world.service(Role::DbWriter.name())?;
    db_writer.suspend()?;
    let mut published = world.records(Topic::Persisted, 0)?.pop().context("db-writer has published")?;
    published["system_identifier"] = "1".into();
    world.append(Topic::Persisted, 0, "0", published.to_string().as_bytes()).await?;
    eventually("redeeming is closed", async || {
        let answer = user.redeem(claim_id, "another-key", "another order").await?;
        Ok((answer.code() == "store_restored").then_some(()))
    })
    .await?;
    let status = status(world)?;
    ensure!(status["reason"].as_str().is_some_and(|reason| reason.contains("cluster 1")), "{status}");
    stays_closed(world)?;
    db_writer.resume()?;
    world.deployment.couponctl(&["redemptions", "reopen"])?;
    redeem(user, claim_id, "a second time").await
}

/// Every service that starts or connects anew finds nothing to complain about.
async fn reopening_lasts(world: &World, user: &User, claim_id: &str) -> Result<()> {
    for role in [Role::DbWriter, Role::ApiGateway] {
        world.service(role.name())?.kill()?;
        world.service(role.name())?.restart()?;
        world.wait_ready(role.name())?;
    }
    redeem(user, claim_id, "a second time").await?;
    let status = status(world)?;
    ensure!(status["redemptions"] == "open" && status["against_it"] == "nothing", "{status}");
    let nothing = world.deployment.couponctl(&["redemptions", "reopen"])?;
    ensure!(nothing.contains("nothing to do"), "{nothing}");
    Ok(())
}

/// A copy of the database as it is, which takes a moment without anybody else in it. Its beat.
pub(crate) async fn copy(world: &World, suffix: &str) -> Result<i64> {
    let name = database(world)?;
    alone(world, &[format!("CREATE DATABASE {name}_{suffix} TEMPLATE {name}")]).await?;
    let copied = world.deployment.namespace.database_url.replace(&name, &format!("{name}_{suffix}"));
    Ok(world.servers().run_sql(&copied, "select beat from partition_progress")?.trim().parse()?)
}

/// Waits until it was published that the database is further than a copy: of one that is just as far nobody can tell the difference.
async fn wait_for_published(world: &World, copied: i64) -> Result<()> {
    eventually("something newer than the copy is published", async || {
        let newest = world.records(Topic::Persisted, 0)?.pop();
        let beat = newest.and_then(|newest| newest["beat"].as_i64());
        Ok(beat.is_some_and(|beat| beat > copied).then_some(()))
    })
    .await
}

/// From now on the copy is the database.
pub(crate) async fn put_back(world: &World, suffix: &str) -> Result<()> {
    let name = database(world)?;
    let lost = format!("ALTER DATABASE {name} RENAME TO {name}_{suffix}_lost");
    alone(world, &[lost, format!("ALTER DATABASE {name}_{suffix} RENAME TO {name}")]).await
}

/// Runs statements that need the database for themselves: everybody is sent away, and let in again afterwards.
async fn alone(world: &World, statements: &[String]) -> Result<()> {
    let name = database(world)?;
    let maintenance = world.servers().database_url().to_owned();
    let run = |sql: &str| world.servers().run_sql(&maintenance, sql);
    run(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))?;
    let send_away =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    for statement in statements {
        eventually(statement, async || {
            run(&send_away)?;
            match run(statement) {
                Ok(_) => Ok(Some(())),
                Err(error) if error.to_string().contains("being accessed") => Ok(None),
                Err(error) => bail!("{error}"),
            }
        })
        .await?;
    }
    run(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"))?;
    Ok(())
}

fn database(world: &World) -> Result<String> {
    let url = &world.deployment.namespace.database_url;
    Ok(url.rsplit('/').next().context("a URL names its database")?.to_owned())
}
