use anyhow::{Context, Result, ensure};
use e2e_tests::{Burst, CouponSpec, World, WorldSpec, oracle};
use local_stack::{Role, Supervised};
use serde_json::Value;

/// While claims pour in, each store is compared at its own watermark, by the audit and by the oracle: what is behind is reported as lag and breaks nothing; asked
/// for a system at rest, the same lag is a violation.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(100_000)).await?;
        let burst = Burst::start(&world, &coupon_id, 40)?;
        for looks in 1..=5 {
            burst.wait_for_accepted(20 * looks).await?;
            audit(&world)?;
            oracle::judge(&world, &[])?;
        }
        // A writer that stands still is behind by what was decided meanwhile.
        world.service(Role::DbWriter.name())?.suspend()?;
        burst.wait_for_accepted(burst.accepted() + 40).await?;
        let report = audit(&world)?;
        let behind = report["partitions"]
            .as_array()
            .context("partitions")?
            .iter()
            .any(|partition| partition["outcomes"].as_i64() > partition["postgres"].as_i64());
        ensure!(behind, "{report}");
        // The gateway's ledger reads on where the writer stands.
        let ledger = world.ledger(&coupon_id).await?;
        let least = i64::try_from(burst.accepted())? - 40;
        ensure!(ledger["persisted_offset"].as_i64() < ledger["decided_offset"].as_i64(), "{ledger}");
        ensure!(ledger["accepted"].as_i64() >= Some(least), "at least {least}: {ledger}");
        let quiet =
            world.deployment.couponctl(&["audit", "--quiet"]).err().context("lag is no rest")?.to_string();
        ensure!(quiet.contains("exit status: 5") && quiet.contains("PostgreSQL is"), "{quiet}");
        world.service(Role::DbWriter.name())?.resume()?;
        let told = burst.end().await?;
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == told.len(), "{report}");
        Ok(())
    })
}

fn audit(world: &World) -> Result<Value> {
    let report = world.deployment.couponctl(&["audit", "--output", "json"])?;
    Ok(serde_json::from_str(&report)?)
}
