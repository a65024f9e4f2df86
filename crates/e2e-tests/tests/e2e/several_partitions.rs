use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use tokio::task::JoinSet;

const COUPONS: u32 = 6;
const USERS: u32 = 30;
const QUANTITY: u32 = 10;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 3, ..WorldSpec::default() })?;
        let mut coupons = Vec::new();
        for _ in 0..COUPONS {
            coupons.push(world.publish(&CouponSpec::of(QUANTITY)).await?);
        }
        let partitions: BTreeSet<_> =
            coupons.iter().filter_map(|id| id.split_once('-')).map(|(p, _)| p).collect();
        ensure!(partitions.len() == 3, "new coupons spread over the lines: {coupons:?}");

        let mut crowd = JoinSet::new();
        for number in 0..USERS {
            for coupon_id in &coupons {
                let (user, coupon_id) = (world.user(&format!("user-{number}"))?, coupon_id.clone());
                crowd.spawn(async move {
                    let code = user.press_to_the_end(&coupon_id).await?;
                    anyhow::Ok((coupon_id, code))
                });
            }
        }
        let mut told: BTreeMap<(String, String), u32> = BTreeMap::new();
        while let Some(answer) = crowd.join_next().await {
            *told.entry(answer??).or_default() += 1;
        }
        for coupon_id in &coupons {
            let count = |code: &str| told.get(&(coupon_id.clone(), code.to_owned())).copied().unwrap_or(0);
            ensure!(
                (count("granted"), count("sold_out")) == (QUANTITY, USERS - QUANTITY),
                "{coupon_id}: {told:?}"
            );
        }
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == COUPONS * QUANTITY, "{report}");
        Ok(())
    })
}
