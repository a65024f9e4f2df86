use anyhow::{Result, ensure};
use couponctl::api::Answer;
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use reqwest::StatusCode;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec::default())?;
        sold_out(&world).await?;
        not_open(&world).await?;
        paused_and_resumed(&world).await?;
        closed(&world).await?;
        unknown(&world).await?;
        oracle::verify(&world).await?;
        Ok(())
    })
}

async fn sold_out(world: &World) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec::of(1)).await?;
    ensure!(world.user("first")?.press_to_the_end(&coupon_id).await? == "granted");
    let refused = refused_by_the_gateway(world, &coupon_id, StatusCode::CONFLICT).await?;
    ensure!(refused.code() == "sold_out", "{refused:?}");
    // Every refusal names the caller's claim, its Location, and what it rests on.
    let claim_id = refused.text("claim_id");
    ensure!(refused.location.as_deref() == Some(world.claim_url(claim_id)?.as_str()), "{refused:?}");
    ensure!(refused.body["decided_offset"].is_i64() && refused.body["advisory"].is_boolean(), "{refused:?}");
    Ok(())
}

/// The gateway's own refusal, once it knows. Somebody else presses each time: whoever was early enough to get into the log has an answer of theirs from then
/// on, and reads that.
async fn refused_by_the_gateway(world: &World, coupon_id: &str, status: StatusCode) -> Result<Answer> {
    let mut number = 0;
    eventually("the gateway knows", async || {
        number += 1;
        let pressed = world.user(&format!("late-{number}"))?.press(coupon_id).await?;
        Ok((pressed.status == status).then_some(pressed))
    })
    .await
}

async fn not_open(world: &World) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec { opens_in_ms: 600_000, ..CouponSpec::default() }).await?;
    let early = world.user("early")?.press(&coupon_id).await?;
    ensure!(early.status == StatusCode::CONFLICT && early.code() == "not_open", "{early:?}");
    Ok(())
}

async fn paused_and_resumed(world: &World) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec::of(1)).await?;
    let user = world.user("patient")?;
    world.command(&coupon_id, "pause", None).await?;
    let refused = eventually("the gateway knows the pause", async || {
        let pressed = user.press(&coupon_id).await?;
        Ok((pressed.status == StatusCode::CONFLICT).then_some(pressed))
    })
    .await?;
    ensure!(refused.code() == "paused", "{refused:?}");
    world.command(&coupon_id, "resume", None).await?;
    let pressed = eventually("the gateway knows the end of the pause", async || {
        let pressed = user.press(&coupon_id).await?;
        Ok((pressed.status == StatusCode::ACCEPTED).then_some(pressed))
    })
    .await?;
    ensure!(pressed.text("claim_id") == refused.text("claim_id"), "pressing again is the same claim");
    ensure!(user.answer_to(&pressed).await?.code() == "granted");
    Ok(())
}

async fn closed(world: &World) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec::of(1)).await?;
    world.command(&coupon_id, "close", None).await?;
    let refused = refused_by_the_gateway(world, &coupon_id, StatusCode::GONE).await?;
    ensure!(refused.code() == "closed", "{refused:?}");
    let over = world.publish(&CouponSpec { closes_in_ms: -30_000, ..CouponSpec::default() }).await?;
    ensure!(world.user("too-late")?.press(&over).await?.code() == "closed");
    Ok(())
}

async fn unknown(world: &World) -> Result<()> {
    let user = world.user("lost")?;
    let coupon_id = format!("c0-{}", "0".repeat(32));
    let answer = user.press(&coupon_id).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND && answer.code() == "unknown_coupon", "{answer:?}");
    Ok(())
}
