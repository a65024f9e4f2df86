use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use tokio::task::JoinSet;

const USERS: usize = 200;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(1)).await?;
        let mut crowd = JoinSet::new();
        for number in 0..USERS {
            let (user, coupon_id) = (world.user(&format!("user-{number}"))?, coupon_id.clone());
            crowd.spawn(async move { user.press_to_the_end(&coupon_id).await });
        }
        let mut told = BTreeMap::new();
        while let Some(code) = crowd.join_next().await {
            *told.entry(code??).or_insert(0) += 1;
        }
        ensure!(told.values().sum::<usize>() == USERS, "{told:?}");
        ensure!(told.get("granted") == Some(&1), "{told:?}");
        ensure!(told.get("sold_out") == Some(&(USERS - 1)), "{told:?}");
        world.wait_until_quiet().await?;
        ensure!(world.sql("select count(*) from issued_coupons")? == "1");
        ensure!(world.sql("select issued || ' of ' || quantity from coupons")? == "1 of 1");
        oracle::verify(&world).await?;
        Ok(())
    })
}
