use anyhow::{Context, Result, ensure};
use e2e_tests::{Burst, CouponSpec, World, WorldSpec, eventually};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};

/// Begins anew every few seconds.
const NAME: &str = "reconciler";
/// Begins once, and goes on from there.
const GOES_ON: &str = "goes-on";
/// Logs in to Redis as somebody else.
const BLIND: &str = "blind";

/// The reconciler, from outside: no violation in a burst, the ledger of a coupon, the lag of a db-writer that stands still, a row that was taken away, a
/// letter that lies open; a view that it may not read; and a PostgreSQL that is away is no violation. One that only goes on from its last pass counts the same and sees what is new.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec { partitions: 1, own_servers: true, ..WorldSpec::default() })?;
        for (name, recount_s) in [(NAME, "4"), (GOES_ON, "604800")] {
            let settings =
                [("FIRSTCOME__RECONCILE__INTERVAL_S", "1"), ("FIRSTCOME__RECONCILE__RECOUNT_S", recount_s)];
            world.add_with(Role::Reconciler, name, &settings)?;
            world.wait_ready(name)?;
        }
        let coupon_id = world.publish(&CouponSpec::of(100_000)).await?;
        passes_without_the_view_are_seen(&mut world).await?;

        let burst = Burst::start(&world, &coupon_id, 40)?;
        burst.wait_for_accepted(40).await?;
        for (name, span) in [(NAME, "whole"), (NAME, "rest"), (GOES_ON, "rest")] {
            let before = passes(&world, name, span, "clean").await?;
            eventually("passes are made in the burst", async || {
                Ok((passes(&world, name, span, "clean").await? >= before + 2.0).then_some(()))
            })
            .await?;
            ensure!(passes(&world, name, span, "broken").await? == 0.0, "nothing is broken in a burst");
        }
        ensure!(violations(&world, NAME).await? + violations(&world, GOES_ON).await? == 0.0);
        let db_writer = world.service(Role::DbWriter.name())?;
        db_writer.suspend()?;
        let before = burst.accepted();
        burst.wait_for_accepted(before + 20).await?;
        eventually("a suspended db-writer is lag", async || {
            let claims = series(&world, "coupon_lag_claims", r#"stage="persist""#).await?;
            let seconds = series(&world, "coupon_lag_seconds", r#"stage="persist""#).await?;
            Ok((claims >= 20.0 && seconds > 1.0).then_some(()))
        })
        .await?;
        ensure!(violations(&world, NAME).await? == 0.0, "lag is no violation");
        world.service(Role::DbWriter.name())?.resume()?;
        let told = burst.end().await?;
        world.wait_until_quiet().await?;

        for name in [NAME, GOES_ON] {
            eventually("the ledger of the coupon adds up", async || {
                let mut counts = Vec::new();
                for state in ["accepted", "granted", "rejected", "deferred", "undecided", "dead_lettered"] {
                    let labels = format!(r#"coupon_id="{coupon_id}",service="reconciler",state="{state}""#);
                    counts.push(series_of(&world, name, "coupon_ledger_claims", &labels).await?);
                }
                let granted = f64::from(u32::try_from(told.len())?);
                Ok((counts == [granted, granted, 0.0, 0.0, 0.0, 0.0]).then_some(()))
            })
            .await?;
        }
        eventually("nothing is behind", async || {
            let end = world.bounds(Topic::Claims, 0)?.end.to_string();
            for store in ["log", "outcomes", "postgres", "redis"] {
                let labels = format!(r#"partition="0",service="reconciler",store="{store}""#);
                if series(&world, "coupon_watermark_offset", &labels).await?.to_string() != end {
                    return Ok(None);
                }
            }
            for stage in ["decide", "persist", "view"] {
                if series(&world, "coupon_lag_seconds", &format!(r#"stage="{stage}""#)).await? > 0.0 {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        ensure!(
            violations(&world, NAME).await? + violations(&world, GOES_ON).await? == 0.0,
            "everything agrees"
        );
        // The whole logs were read once, when it began.
        ensure!(passes(&world, GOES_ON, "whole", "clean").await? == 1.0);

        world.append(Topic::Claims, 0, "key", b"no claim at all").await?;
        eventually("a letter lies open", async || {
            Ok((series(&world, "coupon_dlq_depth_records", "").await? == 1.0).then_some(()))
        })
        .await?;

        world.sql("create table kept_claims as select * from claims order by src_offset desc limit 1")?;
        world.sql("delete from claims where src_offset = (select src_offset from kept_claims)")?;
        eventually("a row that was taken away breaks AGREE", async || {
            Ok((series(&world, "coupon_invariant_violations", r#"id="AGREE""#).await? >= 1.0).then_some(()))
        })
        .await?;

        let postgres = world.servers().postgres()?;
        postgres.kill()?;
        let found = violations(&world, NAME).await?;
        eventually("a pass without PostgreSQL fails", async || {
            let failed = passes(&world, NAME, "whole", "failed").await?
                + passes(&world, NAME, "rest", "failed").await?;
            Ok((failed > 0.0).then_some(()))
        })
        .await?;
        eventually("PostgreSQL is seen to be away", async || {
            Ok((series(&world, "coupon_dependency_up", r#"dependency="postgres""#).await? == 0.0)
                .then_some(()))
        })
        .await?;
        ensure!(
            violations(&world, NAME).await? == found,
            "a store that is away is no violation, and heals none"
        );
        // Neither readiness nor liveness depends on it.
        world.wait_ready(NAME)?;
        postgres.start_again()?;
        world.sql("insert into claims select * from kept_claims")?;
        eventually("what was put back is no violation any more", async || {
            Ok((violations(&world, NAME).await? == 0.0).then_some(()))
        })
        .await?;

        let before = passes(&world, GOES_ON, "rest", "clean").await?;
        eventually("it goes on again", async || {
            Ok((passes(&world, GOES_ON, "rest", "clean").await? > before).then_some(()))
        })
        .await?;
        // An answer in the view that came since the last pass, and is not the log's: db-writer holds the pass back.
        world.service(Role::DbWriter.name())?.suspend()?;
        let claim_id = world.user("late")?.claim(&coupon_id).await?;
        let in_view = async || world.answer_in_view(&claim_id).await;
        let told = eventually("the view has it", in_view).await?;
        ensure!(told.starts_with("00"), "granted: {told}");
        world.change_answer_in_view(&claim_id, Some(&format!("03{}", &told[2..]))).await?;
        eventually("who goes on sees a wrong answer", async || {
            Ok((violations(&world, GOES_ON).await? >= 1.0).then_some(()))
        })
        .await?;
        ensure!(passes(&world, GOES_ON, "rest", "broken").await? >= 1.0);
        world.change_answer_in_view(&claim_id, Some(&told)).await?;
        world.service(Role::DbWriter.name())?.resume()?;
        let before = passes(&world, GOES_ON, "rest", "clean").await?;
        eventually("it goes on once more", async || {
            Ok((passes(&world, GOES_ON, "rest", "clean").await? > before).then_some(()))
        })
        .await?;
        // A later copy that says otherwise, of a record that it has long read.
        let outcomes = world.records(Topic::Outcomes, 0)?;
        let granted =
            outcomes.iter().find(|outcome| outcome["code"] == "granted").context("one was granted")?;
        let forged = granted.to_string().replace("granted", "closed");
        world.append(Topic::Outcomes, 0, &coupon_id, forged.as_bytes()).await?;
        eventually("who goes on sees what is new", async || {
            let broken = passes(&world, GOES_ON, "rest", "broken").await? >= 2.0;
            Ok((broken && violations(&world, GOES_ON).await? >= 1.0).then_some(()))
        })
        .await?;
        world.stop(GOES_ON)?;
        world.stop(NAME)
    })
}

/// A user of Redis who may ask for watermarks and not read the view: no pass compares it, and the stores' panel and alert say so.
async fn passes_without_the_view_are_seen(world: &mut World) -> Result<()> {
    let url = world.deployment.redis_url_as("writer")?;
    let settings = [("FIRSTCOME__RECONCILE__INTERVAL_S", "1"), ("FIRSTCOME__REDIS__URL", url.as_str())];
    world.add_with(Role::Reconciler, BLIND, &settings)?;
    world.wait_ready(BLIND)?;
    for (name, up) in [(BLIND, 0.0), (NAME, 1.0)] {
        eventually("who cannot read the view counts Redis as lost", async || {
            let passed = passes(world, name, "rest", "clean").await? >= 1.0;
            let said = series_of(world, name, "coupon_dependency_up", r#"dependency="redis""#).await?;
            Ok((passed && said == up).then_some(()))
        })
        .await?;
    }
    world.stop(BLIND)
}

/// All violations together; each promise that data can prove has a series.
async fn violations(world: &World, name: &str) -> Result<f64> {
    let metrics = world.metrics(name).await?;
    let found: Vec<f64> = metrics
        .lines()
        .filter(|line| line.starts_with("coupon_invariant_violations{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    let provable =
        coupon_domain::invariant::Invariant::ALL.into_iter().filter(|known| known.provable_from_data());
    ensure!(found.len() == provable.count(), "{metrics}");
    Ok(found.iter().sum())
}

/// The value of the reconciler's series with these labels; 0 where there is none yet.
async fn series(world: &World, name: &str, labels: &str) -> Result<f64> {
    series_of(world, NAME, name, labels).await
}

/// So many passes of this kind came to this.
async fn passes(world: &World, reconciler: &str, span: &str, result: &str) -> Result<f64> {
    let labels = format!(r#"result="{result}",service="reconciler",span="{span}""#);
    series_of(world, reconciler, "coupon_reconcile_passes_total", &labels).await
}

async fn series_of(world: &World, reconciler: &str, name: &str, labels: &str) -> Result<f64> {
    let metrics = world.metrics(reconciler).await?;
    let mut found =
        metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
    Ok(found.next().and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0))
}
