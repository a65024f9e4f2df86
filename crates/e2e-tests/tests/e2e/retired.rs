use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use local_stack::Role;
use reqwest::StatusCode;
use serde_json::Value;

/// A coupon that is over is retired by the command that is meant to run on a schedule: it leaves state and view, what was issued stays, and running it again
/// has no effect.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let (over, stays) =
            (world.publish(&CouponSpec::of(2)).await?, world.publish(&CouponSpec::of(1)).await?);
        let ann = world.user("ann")?;
        let won = ann.claim(&over).await?;
        ensure!(ann.answer(&won).await?.code() == "granted");
        // Its window has not ended: nothing is retired, whatever the operator made of it.
        world.command(&over, "close", None).await?;
        ensure!(
            retire(&world, "0s")?.is_empty(),
            "an offer that was ended early is not over for its window's time"
        );
        let short = CouponSpec { closes_in_ms: 10_000, ..CouponSpec::of(1) };
        let short = world.publish(&short).await?;
        let bob = world.user("bob")?;
        ensure!(bob.press_to_the_end(&short).await? == "granted");
        let answered = eventually("its window ends and it is retired", async || {
            let answers = retire(&world, "0s")?;
            Ok((!answers.is_empty()).then_some(answers))
        })
        .await?;
        ensure!(answered.len() == 1 && answered[0]["coupon_id"] == short.as_str(), "{answered:?}");
        ensure!(answered[0]["code"] == "applied", "{answered:?}");
        ensure!(retire(&world, "0s")?.is_empty(), "the same again finds nothing to do");

        eventually("the gateways forget it", async || {
            let shown = bob.gateway.get(&format!("/v1/coupons/{short}"), &[]).await?;
            Ok((shown.status == StatusCode::NOT_FOUND).then_some(()))
        })
        .await?;
        world.wait_until_quiet().await?;
        ensure!(bob.press(&short).await?.code() == "unknown_coupon");
        // By one coupon's name, too.
        world.deployment.couponctl(&["coupon", "retire", &over, "--admin-url", &admin(&world)?])?;
        world.wait_until_quiet().await?;
        let issued = world.sql("select user_id from issued_coupons order by user_id")?;
        ensure!(issued == "ann\nbob", "what was issued stays: {issued}");
        ensure!(ann.notifier.get(&format!("/v1/claims/{won}"), &[]).await?.code() == "granted");
        ensure!(world.user("cy")?.press_to_the_end(&stays).await? == "granted", "all others go on");
        let report = oracle::verify(&world).await?;
        ensure!(report["compared"]["whole views"] == 1, "only the live one has a view: {report}");
        Ok(())
    })
}

fn admin(world: &World) -> Result<String> {
    let url = world.service(Role::ApiGateway.name())?.admin_url();
    url.ok_or_else(|| anyhow::anyhow!("a gateway has an admin API"))
}

fn retire(world: &World, closed_for: &str) -> Result<Vec<Value>> {
    let url = admin(world)?;
    let arguments = ["coupon", "retire", "--closed-for", closed_for, "--output", "json", "--admin-url", &url];
    let said = world.deployment.couponctl(&arguments)?;
    Ok(serde_json::from_str(said.trim())?)
}
