use anyhow::{Result, ensure};
use e2e_tests::user::event;
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use local_stack::{Role, Supervised};
use reqwest::StatusCode;

/// No word that anything else would say.
const ANN: &str = "ann.of.cleves@example.org";
const LOG_LINES_MAX: usize = 100_000;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(3)).await?;
        let ann = world.user(ANN)?;

        let pressed = ann.press(&coupon_id).await?;
        ensure!(pressed.status == StatusCode::ACCEPTED, "{pressed:?}");
        let claim_id = pressed.text("claim_id").to_owned();
        ensure!(pressed.location.as_deref() == Some(world.claim_url(&claim_id)?.as_str()), "{pressed:?}");
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
        ensure!(row == format!("{claim_id}|{ANN}|1|1|{code}"), "{row}");

        // Somebody else's claim is as unknown as one that never was.
        for path in ["", "/events"] {
            let other = nobody.notifier.get(&format!("/v1/claims/{claim_id}{path}"), &[]).await?;
            ensure!(other.status == StatusCode::NOT_FOUND, "{other:?}");
        }

        // Each service is there as the role that it has in production, and nobody as more.
        let roles = "select string_agg(distinct usename, ' ' order by usename) from pg_stat_activity \
            where datname = current_database() and pid <> pg_backend_pid()";
        let roles = world.sql(roles)?;
        ensure!(roles == "firstcome_gateway firstcome_reader firstcome_writer", "{roles}");

        logs_are_discreet(&world, &[ANN, &ann.token, pressed.text("stream_token"), &code])?;
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == 1, "{report}");
        Ok(())
    })
}

/// No service writes down who somebody is, what opens anything, or what a coupon is worth.
fn logs_are_discreet(world: &World, secrets: &[&str]) -> Result<()> {
    let jwt_secret = world.deployment.credentials.jwt_secret.as_str();
    for role in Role::ALL {
        let log = world.service(role.name())?.log_tail(LOG_LINES_MAX);
        ensure!(log.contains(" starts "), "{} has said nothing: {log}", role.name());
        for secret in secrets.iter().chain([&jwt_secret]) {
            ensure!(!log.contains(secret), "{} has written {secret} into its log", role.name());
        }
    }
    Ok(())
}
