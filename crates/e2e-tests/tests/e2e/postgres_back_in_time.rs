use anyhow::{Context, Result, bail, ensure};
use e2e_tests::{Burst, CouponSpec, World, WorldSpec, eventually, oracle};
use local_stack::Role;

/// PostgreSQL put back to an older copy, under load and while nothing happens: the watermark went back with the rows, and all rows return.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let settings = vec![(Role::DbWriter, "FIRSTCOME__WRITE__IDLE_INTERVAL_MS", "500".to_owned())];
        let world = World::start(WorldSpec { partitions: 1, settings, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(100_000)).await?;
        let burst = Burst::start(&world, &coupon_id, 40)?;
        burst.wait_for_accepted(20).await?;
        copy(&world, "older").await?;
        burst.wait_for_accepted(burst.accepted() + 40).await?;
        put_back(&world, "older").await?;
        burst.wait_for_accepted(burst.accepted() + 40).await?;
        let told = burst.end().await?;
        ensure!(told.iter().all(|told| told.code == "granted"), "{told:?}");
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == told.len(), "{report}");

        copy(&world, "quiet").await?;
        ensure!(world.user("behind the copy")?.press_to_the_end(&coupon_id).await? == "granted");
        world.wait_until_stored().await?;
        put_back(&world, "quiet").await?;
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == told.len() + 1, "{report}");
        ensure!(world.sql("select count(*) from issued_coupons")? == (told.len() + 1).to_string());
        Ok(())
    })
}

/// A copy of the database as it is, which takes a moment without anybody else in it.
async fn copy(world: &World, suffix: &str) -> Result<()> {
    let name = database(world)?;
    alone(world, &[format!("CREATE DATABASE {name}_{suffix} TEMPLATE {name}")]).await
}

/// From now on the copy is the database.
async fn put_back(world: &World, suffix: &str) -> Result<()> {
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
