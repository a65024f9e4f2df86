use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};

/// The default of `decide.unreadable_consecutive_max`.
const IN_A_ROW_MAX: usize = 100;
const GARBAGE: usize = 250;

/// Somebody writes garbage, and goes on. The line halts by name rather than park all of it; claims behind it wait. Once an operator has let it pass, everything is
/// answered.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        ensure!(world.user("before")?.press_to_the_end(&coupon_id).await? == "granted");
        // Held back, so that all of it is there at once.
        let stock_consumer = world.service(Role::StockConsumer.name())?;
        stock_consumer.suspend()?;
        for _ in 0..GARBAGE {
            world.append(Topic::Claims, 0, &coupon_id, b"garbage").await?;
        }
        let behind = world.user("behind")?;
        let claim_id = behind.claim(&coupon_id).await?;
        stock_consumer.resume()?;
        eventually("the line halts", async || {
            let metrics = world.metrics(Role::StockConsumer.name()).await?;
            let halted =
                r#"coupon_partition_halted{partition="0",reason="dlq_brake",service="stock-consumer"} 1"#;
            Ok(metrics.contains(halted).then_some(()))
        })
        .await?;
        // How many came with the first fetch is the broker's business; a flood is not drained.
        let parked = usize::try_from(world.bounds(Topic::DeadLetters, 0)?.end)?;
        ensure!(parked <= IN_A_ROW_MAX, "{parked} are parked");
        let waiting = behind.notifier.get(&format!("/v1/claims/{claim_id}"), &[]).await?;
        ensure!(waiting.text("status") == "pending", "{waiting:?}");

        world.stop(Role::StockConsumer.name())?;
        let let_pass = [
            ("FIRSTCOME__DECIDE__UNREADABLE_CONSECUTIVE_MAX", "1000"),
            ("FIRSTCOME__DECIDE__REFRESH_INTERVAL_MS", "1000"),
        ];
        world.add_with(Role::StockConsumer, Role::StockConsumer.name(), &let_pass)?;
        ensure!(behind.answer(&claim_id).await?.code() == "granted", "and the line goes on");
        let parked = usize::try_from(world.bounds(Topic::DeadLetters, 0)?.end)?;
        ensure!(parked == GARBAGE, "{parked} are parked");
        let report = oracle::verify(&world).await?;
        ensure!(report["compared"]["dead letters"] == GARBAGE, "{report}");
        Ok(())
    })
}
