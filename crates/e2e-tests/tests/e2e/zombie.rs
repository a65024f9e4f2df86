use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};

/// A fold worker that was thought dead wakes up and says again what was said: its copies stand last in the log. Nothing halts, whoever starts over
/// goes on behind the right place, and everything is as it was.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(3)).await?;
        for number in 0..4 {
            world.user(&format!("early-{number}"))?.press_to_the_end(&coupon_id).await?;
        }
        world.wait_until_quiet().await?;
        let rows = world.sql("select claim_id, code, rank from claims_spelled order by src_offset")?;
        let copies = world.append_copies(Topic::Outcomes, 0).await?;
        ensure!(copies >= 4, "{copies}");
        world.append_copies(Topic::State, 0).await?;
        for role in [Role::StockConsumer, Role::DbWriter, Role::Notifier, Role::ApiGateway] {
            world.service(role.name())?.kill()?;
            world.service(role.name())?.restart()?;
            world.wait_ready(role.name())?;
        }
        world.command(&coupon_id, "restock", Some(serde_json::json!({"delta": 1}))).await?;
        ensure!(world.user("late")?.press_to_the_end(&coupon_id).await? == "granted");
        ensure!(world.user("early-0")?.press(&coupon_id).await?.code() == "granted");
        world.wait_until_quiet().await?;
        let after = world.sql("select claim_id, code, rank from claims_spelled order by src_offset")?;
        ensure!(after.starts_with(&rows), "an outcome changed:\n{rows}\n-- became\n{after}");
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == 4, "{report}");
        Ok(())
    })
}
