use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use reqwest::StatusCode;
use serde_json::json;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        let mut first_round = BTreeMap::new();
        for name in ["ann", "bob", "cy", "dee"] {
            let user = world.user(name)?;
            let pressed = user.press(&coupon_id).await?;
            let claim_id = pressed.text("claim_id").to_owned();
            let code = match pressed.status {
                StatusCode::ACCEPTED => user.answer(&claim_id).await?.code().to_owned(),
                _ => pressed.code().to_owned(),
            };
            first_round.insert(name, (claim_id, code));
        }
        let codes: Vec<&str> = first_round.values().map(|(_, code)| code.as_str()).collect();
        ensure!(codes == ["granted", "granted", "sold_out", "sold_out"], "{first_round:?}");
        world.wait_until_quiet().await?;
        let rows_before = world.sql("select claim_id, code, rank from claims_spelled order by src_offset")?;

        let restocked =
            world.command(&coupon_id, "restock", Some(json!({"delta": 1, "reason": "more came in"}))).await?;
        ensure!(restocked.body["version"] == 2, "{restocked:?}");
        let cy = world.user("cy")?;
        let pressed = eventually("the gateway knows the restock", async || {
            let pressed = cy.press(&coupon_id).await?;
            Ok((pressed.status == StatusCode::ACCEPTED).then_some(pressed))
        })
        .await?;
        // Another round, so another claim; the old one keeps its answer.
        let claim_id = pressed.text("claim_id");
        ensure!(claim_id != first_round["cy"].0 && claim_id.contains(".1.0."), "{claim_id}");
        ensure!(cy.answer(claim_id).await?.code() == "granted");
        // A winner stays a winner under the old claim, and gets no second one.
        let ann = world.user("ann")?.press(&coupon_id).await?;
        ensure!(ann.status == StatusCode::OK && ann.text("claim_id") == first_round["ann"].0, "{ann:?}");
        ensure!(world.user("dee")?.press_to_the_end(&coupon_id).await? == "sold_out");

        world.wait_until_quiet().await?;
        let rows_after = world.sql("select claim_id, code, rank from claims_spelled order by src_offset")?;
        ensure!(
            rows_after.starts_with(&rows_before),
            "an outcome changed:\n{rows_before}\n-- became\n{rows_after}"
        );
        ensure!(world.sql("select round, quantity, issued, version from coupons")? == "1|3|3|2");
        let refused =
            world.try_command(&coupon_id, "restock", Some(json!({"delta": -1})), "take-back").await?;
        ensure!(refused.code() == "refused" && refused.text("refusal") == "below_issued", "{refused:?}");
        oracle::verify(&world).await?;
        Ok(())
    })
}
