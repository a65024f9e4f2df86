use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use local_stack::Role;
use reqwest::StatusCode;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec::default())?;
        world.add(Role::ApiGateway, "api-gateway-2")?;
        world.wait_ready("api-gateway-2")?;
        let coupon_id = world.publish(&CouponSpec::of(5)).await?;
        let (here, there) = (world.user("ann")?, world.user_at("ann", "api-gateway-2")?);

        // A double click on each of two gateways, all at once.
        let (first, second, third, fourth) = tokio::join!(
            here.press(&coupon_id),
            there.press(&coupon_id),
            here.press(&coupon_id),
            there.press(&coupon_id)
        );
        let presses = [first?, second?, third?, fourth?];
        let claim_id = presses[0].text("claim_id").to_owned();
        for pressed in &presses {
            ensure!(
                pressed.status == StatusCode::ACCEPTED || pressed.status == StatusCode::OK,
                "{pressed:?}"
            );
            ensure!(pressed.text("claim_id") == claim_id, "another claim: {pressed:?}");
        }
        let answer = here.answer(&claim_id).await?;
        ensure!(answer.code() == "granted", "{answer:?}");

        // Once decided, every gateway says so at once.
        world.wait_until_quiet().await?;
        for user in [&here, &there] {
            let again = user.press(&coupon_id).await?;
            ensure!(again.status == StatusCode::OK && again.code() == "granted", "{again:?}");
            ensure!(again.text("claim_id") == claim_id, "{again:?}");
        }
        ensure!(world.sql("select count(*) from issued_coupons")? == "1");
        oracle::verify(&world).await?;
        Ok(())
    })
}
