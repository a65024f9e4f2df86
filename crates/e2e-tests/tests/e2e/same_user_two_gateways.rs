use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use local_stack::Role;
use reqwest::StatusCode;

/// Where the second gateway says that the notifier is.
const ELSEWHERE: &str = "https://answers.example.org";

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec::default())?;
        // A name of its own: without it links and Locations would lead back to the gateway, which has no answers.
        let elsewhere = [("FIRSTCOME__CLAIMS__NOTIFIER_URL", ELSEWHERE)];
        world.add_with(Role::ApiGateway, "api-gateway-2", &elsewhere)?;
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
        let elsewhere = format!("{ELSEWHERE}/v1/claims/{claim_id}");
        for (user, location) in [(&here, world.claim_url(&claim_id)?), (&there, elsewhere)] {
            let again = user.press(&coupon_id).await?;
            ensure!(again.location.as_ref() == Some(&location), "{again:?}");
            ensure!(again.status == StatusCode::OK && again.code() == "granted", "{again:?}");
            ensure!(again.text("claim_id") == claim_id, "{again:?}");
        }
        let pressed = world.user_at("bob", "api-gateway-2")?.press(&coupon_id).await?;
        let location = format!("{ELSEWHERE}/v1/claims/{}", pressed.text("claim_id"));
        ensure!(pressed.status == StatusCode::ACCEPTED, "{pressed:?}");
        ensure!(pressed.location.as_ref() == Some(&location), "{pressed:?}");
        let answer = format!("{location}?after={}", pressed.body["ticket"]["offset"]);
        ensure!(pressed.body["links"]["claim"] == answer, "{pressed:?}");
        world.wait_until_quiet().await?;
        ensure!(world.sql("select count(*) from issued_coupons")? == "2");
        oracle::verify(&world).await?;
        Ok(())
    })
}
