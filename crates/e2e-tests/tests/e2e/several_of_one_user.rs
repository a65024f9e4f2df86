use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use reqwest::StatusCode;
use serde_json::json;

/// Two of a coupon for each user, under keys of their own: no third, and the same key never twice, also across a restock.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec { per_user_limit: 2, ..CouponSpec::of(5) }).await?;
        let ann = world.user("ann")?;
        let press = async |key: &str| -> Result<(String, String)> {
            let pressed = ann.press_with(&coupon_id, &[("Idempotency-Key", key)]).await?;
            let claim_id = pressed.text("claim_id").to_owned();
            let code = match pressed.status {
                StatusCode::ACCEPTED => ann.answer(&claim_id).await?.code().to_owned(),
                _ => pressed.code().to_owned(),
            };
            Ok((claim_id, code))
        };
        let (one, two) = (press("one").await?, press("two").await?);
        ensure!(one.1 == "granted" && two.1 == "granted" && one.0 != two.0, "{one:?} {two:?}");
        ensure!(press("one").await? == one, "the same key is the same claim");
        let third = press("three").await?;
        ensure!(third.1 == "already_issued", "{third:?}");

        world.command(&coupon_id, "restock", Some(json!({"delta": 3}))).await?;
        eventually("the gateway knows the restock", async || {
            let shown = ann.gateway.get(&format!("/v1/coupons/{coupon_id}"), &[]).await?;
            Ok((shown.body["round"] == 1).then_some(()))
        })
        .await?;
        world.wait_until_quiet().await?;
        for key in ["one", "two"] {
            let again = press(key).await?;
            ensure!(again.1 == "granted" && [&one.0, &two.0].contains(&&again.0), "{key}: {again:?}");
        }
        ensure!(press("three").await?.1 == "already_issued", "another round makes no third one");
        ensure!(world.sql("select count(*), max(user_nth) from issued_coupons")? == "2|2");
        oracle::verify(&world).await?;
        Ok(())
    })
}
