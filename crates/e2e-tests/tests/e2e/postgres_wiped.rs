use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};
use reqwest::StatusCode;

use crate::postgres_back_in_time::{copy, put_back};

/// PostgreSQL was emptied after retention had taken both logs: what was decided is known to nobody, and the line stands still. Once the database is
/// put back the line goes on by itself, with everybody remembered.
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
        let roles = [Role::DbWriter, Role::StockConsumer];
        for role in roles {
            world.stop(role.name())?;
        }
        copy(&world, "kept").await?;
        let tables =
            "partition_progress, coupons, claims, issued_coupons, commands, audit_events, parked_claims";
        world.sql(&format!("TRUNCATE {tables}"))?;
        for role in roles {
            world.service(role.name())?.restart()?;
        }
        world.wait_until_unready(Role::StockConsumer.name(), "undecided_deleted").await?;
        // As far as anybody knows now, what was acknowledged is lost: the audit says so, and how much.
        let audit = world.deployment.couponctl(&["audit"]).err().map(|error| error.to_string());
        let lost = "were deleted before they were decided";
        ensure!(
            audit.as_ref().is_some_and(|said| said.contains("DURABLE-ACK") && said.contains(lost)),
            "{audit:?}"
        );
        put_back(&world, "kept").await?;
        world.wait_ready(Role::StockConsumer.name())?;
        world.wait_ready(Role::DbWriter.name())?;
        let again = ann.press(&coupon_id).await?;
        ensure!(again.status == StatusCode::OK && again.code() == "granted", "she is remembered: {again:?}");
        ensure!(world.user("bob")?.press_to_the_end(&coupon_id).await? == "granted");
        ensure!(world.user("cy")?.press_to_the_end(&coupon_id).await? == "sold_out", "no unit came back");
        oracle::verify(&world).await?;
        ensure!(world.sql("select count(*) from issued_coupons")? == "2");
        Ok(())
    })
}
