use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e_tests::{Burst, CouponSpec, World, WorldSpec, oracle};
use local_stack::{Role, Supervised};

/// More than can arrive: 202s must go on to the end.
const QUANTITY: u32 = 100_000;
const PER_SECOND: u32 = 40;

/// Each service is killed once, with claims undecided at that moment, while 202s go on before and after.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(QUANTITY)).await?;
        let burst = Burst::start(&world, &coupon_id, PER_SECOND)?;
        for role in [Role::StockConsumer, Role::DbWriter, Role::Notifier, Role::ApiGateway] {
            burst.wait_for_accepted(burst.accepted() + 40).await?;
            kill_with_claims_undecided(&world, role)?;
            world.service(role.name())?.restart()?;
            world.wait_ready(role.name())?;
            burst.wait_for_accepted(burst.accepted() + 40).await?;
        }
        let told = burst.end().await?;
        ensure!(told.iter().all(|told| told.code == "granted"), "{told:?}");
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == told.len(), "{} users: {report}", told.len());
        ensure!(report["ledger"]["undecided"] == 0, "{report}");
        Ok(())
    })
}

/// Kills the service in the moment in which claims stand undecided. The stock-consumer is held for that moment: on an idle machine it decides faster
/// than anybody can look.
fn kill_with_claims_undecided(world: &World, role: Role) -> Result<()> {
    let stock_consumer = world.service(Role::StockConsumer.name())?;
    stock_consumer.suspend()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.undecided(0)? == 0 {
        ensure!(Instant::now() < deadline, "nothing was appended while the stock-consumer stood still");
    }
    world.service(role.name())?.kill()?;
    if role != Role::StockConsumer {
        stock_consumer.resume()?;
    }
    Ok(())
}
