use anyhow::{Result, ensure};
use e2e_tests::{Burst, CouponSpec, World, WorldSpec, eventually, oracle};
use infrastructure_kafka::Topic;
use local_stack::Role;
use reqwest::StatusCode;
use serde_json::json;

use crate::wrong_topics::alter;

/// Somebody changes the topics under a running system: it is named wherever people look, nothing is promised that is not durable and dated, and once
/// it is put right the line goes on, with what got in undated parked.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let every_second = |role| (role, "FIRSTCOME__KAFKA__TOPICS_CHECK_MS", "1000".to_owned());
        let settings = [Role::ApiGateway, Role::StockConsumer].map(every_second).to_vec();
        let world = World::start(WorldSpec { partitions: 1, settings, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(100_000)).await?;
        let claims = world.layout().name(Topic::Claims);
        let burst = Burst::start(&world, &coupon_id, 40)?;
        burst.wait_for_accepted(20).await?;

        alter(&world, &claims, "message.timestamp.type=CreateTime")?;
        for role in [Role::ApiGateway, Role::StockConsumer] {
            is_named(&world, role, "message.timestamp.type=CreateTime, needed is LogAppendTime").await?;
        }
        let checked = world.deployment.couponctl(&["topics", "check"]).err().map(|error| error.to_string());
        ensure!(checked.as_ref().is_some_and(|said| said.contains("CreateTime")), "{checked:?}");
        // What a gateway appends that has not noticed yet.
        let ann = world.user("ann")?;
        let claim_id = ann.claim_id(&coupon_id).await?;
        let claim = json!({"v": 1, "claim_id": claim_id, "coupon_id": coupon_id, "user_id": ann.name, "round": 0, "slot": "0", "received_at": 1});
        let undated = world.append(Topic::Claims, 0, &coupon_id, claim.to_string().as_bytes()).await?;
        let pressed = ann.press(&coupon_id).await?;
        ensure!(pressed.status == StatusCode::SERVICE_UNAVAILABLE, "no 202 without a date: {pressed:?}");
        ensure!(
            pressed.code() == "not_accepted" && pressed.text("detail").contains("CreateTime"),
            "{pressed:?}"
        );
        eventually("the undated record is answered", async || {
            let outcomes = world.records(Topic::Outcomes, 0)?;
            let outcome = outcomes.into_iter().find(|outcome| outcome["src_offset"] == undated);
            let Some(outcome) = outcome else { return Ok(None) };
            let said = (&outcome["code"], &outcome["invalid_reason"], &outcome["appended_at"]);
            ensure!(said == (&json!("invalid"), &json!("undated"), &json!(0)), "{outcome}");
            Ok(Some(()))
        })
        .await?;

        alter(&world, &claims, "message.timestamp.type=LogAppendTime")?;
        is_mended(&world, Role::ApiGateway).await?;
        burst.wait_for_accepted(burst.accepted() + 40).await?;
        ensure!(
            ann.press_to_the_end(&coupon_id).await? == "granted",
            "pressing again is a place at the end of the line"
        );
        let told = burst.end().await?;
        let others: Vec<_> = told.iter().filter(|told| told.code != "granted").collect();
        ensure!(others.is_empty(), "{others:?}");

        for (topic, setting, needed) in [
            (Topic::Claims, "cleanup.policy=compact", "delete"),
            (Topic::Outcomes, "retention.ms=60000", "at least 86400000"),
            (Topic::Claims, "retention.bytes=1000000", "-1"),
            (Topic::State, "unclean.leader.election.enable=true", "false"),
        ] {
            let name = world.layout().name(topic);
            alter(&world, &name, setting)?;
            is_named(&world, Role::ApiGateway, &format!("{name} has {setting}, needed is {needed}")).await?;
            let put_back = match needed {
                "at least 86400000" => "retention.ms=604800000".to_owned(),
                needed => format!("{}={needed}", setting.split('=').next().unwrap_or_default()),
            };
            alter(&world, &name, &put_back)?;
            is_mended(&world, Role::ApiGateway).await?;
        }
        let text = world.metrics(Role::ApiGateway.name()).await?;
        ensure!(
            text.contains("coupon_topic_setting_wrong")
                && !text
                    .lines()
                    .any(|line| line.starts_with("coupon_topic_setting_wrong") && line.ends_with(" 1"))
        );
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == told.len() + 1, "{report}");
        Ok(())
    })
}

/// `/readyz` tells it, and stays what it was: a gateway that refuses with a reason is better than none.
async fn is_named(world: &World, role: Role, what: &str) -> Result<()> {
    let text = readyz_with(world, role, what, true).await?;
    ensure!(text.starts_with("ok\n"), "{}: {text}", role.name());
    Ok(())
}

async fn is_mended(world: &World, role: Role) -> Result<()> {
    readyz_with(world, role, "topics: ", false).await.map(drop)
}

async fn readyz_with(world: &World, role: Role, what: &str, says: bool) -> Result<String> {
    let url = format!("{}/readyz", world.service(role.name())?.ops_url());
    eventually(&format!("{} says of {what:?}: {says}", role.name()), async || {
        let text = reqwest::get(&url).await?.text().await?;
        Ok((text.contains(what) == says).then_some(text))
    })
    .await
}
