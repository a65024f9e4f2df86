use anyhow::{Result, ensure};
use e2e_tests::{Burst, CouponSpec, World, WorldSpec, oracle};
use local_stack::{Role, Supervised};

const QUANTITY: u32 = 300;

/// Each binary gets SIGTERM while the burst goes on, must end with 0, and is started again.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(QUANTITY)).await?;
        let burst = Burst::start(&world, &coupon_id, 20)?;
        for role in [Role::StockConsumer, Role::DbWriter, Role::Notifier, Role::ApiGateway] {
            burst.wait_for_accepted(burst.accepted() + 10).await?;
            world.stop(role.name())?;
            world.service(role.name())?.restart()?;
            world.wait_ready(role.name())?;
        }
        burst.wait_for_accepted(burst.accepted() + 10).await?;
        let told = burst.end().await?;
        let report = oracle::verify(&world).await?;
        let granted = told.iter().filter(|told| told.code == "granted").count();
        ensure!(told.iter().all(|told| ["granted", "sold_out"].contains(&told.code.as_str())), "{told:?}");
        ensure!(report["ledger"]["granted"] == granted, "{granted} were told so: {report}");
        ensure!(granted == told.len().min(usize::try_from(QUANTITY)?), "{granted} of {} users", told.len());
        Ok(())
    })
}
