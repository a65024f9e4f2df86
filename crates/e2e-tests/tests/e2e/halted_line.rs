use anyhow::{Context, Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually};
use infrastructure_kafka::Topic;
use local_stack::Role;

/// A line that stands still gets no new coupons, though it has the fewest live ones: they go to lines that move.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let settings = vec![(Role::ApiGateway, "FIRSTCOME__CLAIMS__LINE_LATE_MS", "1000".to_owned())];
        let world = World::start(WorldSpec { partitions: 2, settings, ..WorldSpec::default() })?;
        let first = draft_in(&world, "c0-").await?;
        // Of a newer release, as far as this one can tell: the line halts there.
        world.append(Topic::Claims, 0, &first, br#"{"v": 2}"#).await?;
        world.wait_until_unready(Role::StockConsumer.name(), "newer_version").await?;
        let publish = format!("/admin/v1/coupons/{first}/publish");
        let refused = eventually("the gateway knows that the line stands still", async || {
            let answer = world.operator()?.post(&publish, &[("Idempotency-Key", "publish")], None).await?;
            Ok((answer.code() == "unavailable").then_some(answer))
        })
        .await?;
        ensure!(refused.text("detail").contains("partition 0"), "{refused:?}");
        let mut coupons = Vec::new();
        for _ in 0..4 {
            let coupon_id = world.publish(&CouponSpec::of(1)).await?;
            ensure!(coupon_id.starts_with("c1-"), "{coupon_id} was given a line that stands still");
            coupons.push(coupon_id);
        }
        let last = coupons.last().context("four were made")?;
        ensure!(world.user("ann")?.press_to_the_end(last).await? == "granted");
        Ok(())
    })
}

/// A draft whose place is in this partition: with none live there is no telling which one it gets.
async fn draft_in(world: &World, partition: &str) -> Result<String> {
    eventually("a draft gets this partition", async || {
        let coupon_id = world.draft(&CouponSpec::of(1)).await?;
        Ok(coupon_id.starts_with(partition).then_some(coupon_id))
    })
    .await
}
