use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};
use reqwest::StatusCode;

/// Nobody came for longer than retention: both logs are empty, and the stores are all there is. Everything starts, remembers everybody, and goes on.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        let ann = world.user("ann")?;
        ensure!(ann.press_to_the_end(&coupon_id).await? == "granted");
        world.wait_until_quiet().await?;
        for topic in [Topic::Claims, Topic::Outcomes] {
            world.delete_records(topic, 0, world.bounds(topic, 0)?.end)?;
        }
        let roles = [Role::ApiGateway, Role::Notifier, Role::DbWriter, Role::StockConsumer];
        for role in roles {
            world.stop(role.name())?;
        }
        for role in roles {
            world.service(role.name())?.restart()?;
        }
        for role in roles {
            world.wait_ready(role.name())?;
        }
        let again = ann.press(&coupon_id).await?;
        ensure!(again.status == StatusCode::OK && again.code() == "granted", "she is remembered: {again:?}");
        ensure!(world.user("bob")?.press_to_the_end(&coupon_id).await? == "granted");
        ensure!(world.user("cy")?.press_to_the_end(&coupon_id).await? == "sold_out", "no unit came back");
        let report = oracle::verify(&world).await?;
        ensure!(report["partitions"]["0"]["folded"] == false, "the oracle had no whole log either: {report}");
        ensure!(world.sql("select count(*) from issued_coupons")? == "2");
        Ok(())
    })
}
