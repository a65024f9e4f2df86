use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};

const BEFORE: usize = 3;
const MISSED: usize = 5;
const AFTER: usize = 4;

/// Retention takes outcomes that db-writer has not read. It halts at the next record and skips no row; a restarted stock-consumer publishes them
/// again, and everything goes on by itself.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(100)).await?;
        press(&world, &coupon_id, "before", BEFORE).await?;
        world.wait_until_stored().await?;
        world.stop(Role::DbWriter.name())?;
        press(&world, &coupon_id, "missed", MISSED).await?;
        let gone = world.bounds(Topic::Outcomes, 0)?.end;
        world.delete_records(Topic::Outcomes, 0, gone)?;
        press(&world, &coupon_id, "after", AFTER).await?;

        world.service(Role::DbWriter.name())?.restart()?;
        let halted = world.wait_until_unready(Role::DbWriter.name(), "offset_gap").await?;
        ensure!(halted.contains("restart stock-consumer"), "the remedy is named: {halted}");
        let stored = || world.sql("select count(*) from claims");
        ensure!(stored()? == BEFORE.to_string(), "no row behind the gap was written");
        // Nobody waits for PostgreSQL: the view knows.
        ensure!(world.user("missed-0")?.press(&coupon_id).await?.code() == "granted");

        world.stop(Role::StockConsumer.name())?;
        world.service(Role::StockConsumer.name())?.restart()?;
        world.wait_ready(Role::StockConsumer.name())?;
        world.wait_until_stored().await?;
        world.wait_ready(Role::DbWriter.name())?;
        ensure!(stored()? == (BEFORE + MISSED + AFTER).to_string(), "every row is there: {}", stored()?);
        press(&world, &coupon_id, "behind", 1).await?;
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == BEFORE + MISSED + AFTER + 1, "{report}");
        Ok(())
    })
}

async fn press(world: &World, coupon_id: &str, name: &str, users: usize) -> Result<()> {
    for number in 0..users {
        let said = world.user(&format!("{name}-{number}"))?.press_to_the_end(coupon_id).await?;
        ensure!(said == "granted", "{name}-{number} was told {said}");
    }
    Ok(())
}
