use anyhow::{Result, ensure};
use e2e_tests::user::event;
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use reqwest::StatusCode;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(3)).await?;
        let ann = world.user("ann")?;

        let pressed = ann.press(&coupon_id).await?;
        ensure!(pressed.status == StatusCode::ACCEPTED, "{pressed:?}");
        let claim_id = pressed.text("claim_id").to_owned();
        ensure!(
            pressed.location.as_deref() == Some(format!("/v1/claims/{claim_id}").as_str()),
            "{pressed:?}"
        );
        ensure!(
            pressed.body["ticket"]["offset"] == 1,
            "the claim stands behind the publish command: {pressed:?}"
        );

        // By stream, with the token of the 202 alone.
        let nobody = world.user("nobody")?;
        let events = nobody.events(&claim_id, Some(pressed.text("stream_token"))).await?;
        ensure!(event(&events, "position")?["ahead"].is_u64(), "{events:?}");
        let decided = event(&events, "decided")?;
        ensure!(decided["code"] == "granted" && decided["final"] == true, "{decided}");
        ensure!(decided["issue_no"] == 1 && decided["user_nth"] == 1 && decided["rank"] == 1, "{decided}");
        let code = event(&events, "persisted")?["coupon_code"].as_str().unwrap_or_default().to_owned();
        ensure!(code.parse::<coupon_domain::coupon_code::CouponCode>().is_ok(), "{code}");

        // By GET, and in the tables.
        let answer = ann.answer(&claim_id).await?;
        ensure!(answer.text("coupon_code") == code && answer.text("status") == "decided", "{answer:?}");
        let row =
            world.sql("select claim_id, user_id, user_nth, issue_no, code from issued_coupons_spelled")?;
        ensure!(row == format!("{claim_id}|ann|1|1|{code}"), "{row}");

        // Somebody else's claim is as unknown as one that never was.
        for path in ["", "/events"] {
            let other = nobody.notifier.get(&format!("/v1/claims/{claim_id}{path}"), &[]).await?;
            ensure!(other.status == StatusCode::NOT_FOUND, "{other:?}");
        }

        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == 1, "{report}");
        Ok(())
    })
}
