use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use local_stack::{Role, Supervised};
use reqwest::StatusCode;

/// A winner whose answer was lost never reads "sold out" as the last word: another gateway says granted, and where it cannot see that, its refusal is only
/// advice and names the place where the win is found.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec { partitions: 1, own_servers: true, ..WorldSpec::default() })?;
        world.add(Role::ApiGateway, "api-gateway-2")?;
        world.wait_ready("api-gateway-2")?;
        let coupon_id = world.publish(&CouponSpec::of(1)).await?;
        // The answer to this press is read by nobody.
        let won = world.user("winner")?.claim(&coupon_id).await?;
        let loser = world.user_at("loser", "api-gateway-2")?;
        eventually("the other gateway knows that nothing is left", async || {
            Ok((loser.press(&coupon_id).await?.code() == "sold_out").then_some(()))
        })
        .await?;
        world.wait_until_quiet().await?;
        let winner = world.user_at("winner", "api-gateway-2")?;
        let again = winner.press(&coupon_id).await?;
        ensure!(again.status == StatusCode::OK && again.code() == "granted", "{again:?}");
        ensure!(again.text("claim_id") == won, "{again:?}");

        world.servers().redis()?.kill()?;
        let advice = winner.press(&coupon_id).await?;
        ensure!(advice.status == StatusCode::CONFLICT && advice.code() == "sold_out", "{advice:?}");
        ensure!(advice.body["advisory"] == true && advice.text("claim_id") == won, "{advice:?}");
        ensure!(advice.location.as_deref() == Some(world.claim_url(&won)?.as_str()), "{advice:?}");
        let found = winner.notifier.get(&format!("/v1/claims/{won}"), &[]).await?;
        ensure!(found.code() == "granted" && !found.text("coupon_code").is_empty(), "{found:?}");

        world.servers().redis()?.start_again()?;
        world.wait_for_full_pushes(1).await?;
        oracle::verify(&world).await?;
        Ok(())
    })
}
