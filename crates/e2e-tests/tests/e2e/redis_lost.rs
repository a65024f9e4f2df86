use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_tests::{Burst, CouponSpec, World, WorldSpec, oracle};
use local_stack::Supervised;

/// More claims than one script writes: a view that lost them is brought up in bulk.
const MANY: usize = 1_200;

/// Redis emptied in the middle of a burst, and while nothing else happens: the view is back by itself, and right. Redis hung: decisions and answers go on.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, own_servers: true, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(100_000)).await?;
        let burst = Burst::start(&world, &coupon_id, 40)?;
        burst.wait_for_accepted(40).await?;
        flush(&world).await?;
        burst.wait_for_accepted(80).await?;

        world.servers().redis()?.suspend()?;
        // New people all along, none of whom Redis could tell anything about.
        burst.wait_for_accepted(burst.accepted() + 40).await?;
        let hung = world.user("hung")?;
        let told = tokio::time::timeout(Duration::from_secs(20), hung.press_to_the_end(&coupon_id)).await;
        ensure!(told.context("told while Redis hangs")?? == "granted");
        world.servers().redis()?.resume()?;
        burst.wait_for_accepted(MANY).await?;
        let told = burst.end().await?;
        ensure!(told.iter().all(|told| told.code == "granted"), "{told:?}");
        oracle::verify(&world).await?;

        flush(&world).await?;
        world.wait_for_full_pushes(2).await?;
        let report = oracle::verify(&world).await?;
        ensure!(report["compared"]["whole views"] == 1, "{report}");
        ensure!(report["ledger"]["granted"] == told.len() + 1, "{report}");
        // And whoever presses again is known again.
        ensure!(hung.press(&coupon_id).await?.code() == "granted");
        Ok(())
    })
}

async fn flush(world: &World) -> Result<()> {
    let answer = world.redis(&["FLUSHALL"]).await?;
    ensure!(answer.as_deref() == Some("OK"), "{answer:?}");
    Ok(())
}
