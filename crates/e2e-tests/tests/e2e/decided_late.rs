use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use local_stack::{Role, Supervised};

/// From FACTS of what breaks elsewhere, "acceptance judged by the consumer's clock": the consumer sleeps over the end of the window. What was appended in time is
/// granted all the same, what was appended afterwards is not, and neither depends on when it was decided.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let spec = CouponSpec { closes_in_ms: 6_000, ..CouponSpec::of(5) };
        let coupon_id = world.publish(&spec).await?;
        let stock_consumer = world.service(Role::StockConsumer.name())?;
        stock_consumer.suspend()?;
        let in_time = world.user("in-time")?.claim(&coupon_id).await?;
        // The gateway refuses by time only beyond any doubt about clocks, so for a moment somebody who is too late still gets into the line.
        let mut number = 0;
        let refused = eventually("the window is over", async || {
            number += 1;
            let pressed = world.user(&format!("late-{number}"))?.press(&coupon_id).await?;
            Ok((pressed.code() == "closed").then_some(pressed))
        })
        .await?;
        ensure!(refused.status == 410, "{refused:?}");
        stock_consumer.resume()?;
        ensure!(world.user("in-time")?.answer(&in_time).await?.code() == "granted");
        world.wait_until_quiet().await?;
        let closes_at = world.sql("select closes_at from coupons")?;
        let wrong = format!(
            "select count(*) from claims where (code = 'granted') <> (appended_at < '{closes_at}') and code <> 'sold_out'"
        );
        ensure!(world.sql(&wrong)? == "0", "{}", world.sql("select code, appended_at from claims")?);
        oracle::verify(&world).await?;
        Ok(())
    })
}
