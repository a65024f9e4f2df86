use anyhow::{Context, Result, ensure};
use e2e_tests::{CouponSpec, User, World, WorldSpec, oracle};
use infrastructure_kafka::Topic;
use serde_json::{Value, json};

/// What is over goes, each after its time, and whoever compares the tables with the log knows what is gone. Nothing of a coupon that lives goes.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let (over, lives) =
            (world.publish(&CouponSpec::of(2)).await?, world.publish(&CouponSpec::of(1)).await?);
        let [ann, bob, cy] = [world.user("ann")?, world.user("bob")?, world.user("cy")?];
        let (used, kept) = (ann.win(&over).await?, bob.win(&over).await?);
        // Past the gateway, which would refuse from memory: claims that the log decides.
        let lost = lose(&world, &cy, &over).await?;
        ann.win(&lives).await?;
        lose(&world, &cy, &lives).await?;
        let redeemed = ann.redeem(&used, "key", "order-1").await?;
        ensure!(redeemed.status == reqwest::StatusCode::CREATED, "{redeemed:?}");
        world.command(&over, "close", None).await?;
        world.command(&over, "retire", None).await?;
        world.wait_until_stored().await?;

        let apply = |more: &[&str]| {
            let arguments = [&["retention", "apply", "-o", "json", "--batch-rows", "1"], more].concat();
            world.deployment.couponctl(&arguments)
        };
        for (flag, other) in [("--claims-days", "--coupons-days"), ("--coupons-days", "--claims-days")] {
            let refused =
                apply(&[flag, "6", other, "30"]).err().context("shorter than the logs")?.to_string();
            ensure!(refused.contains(flag) && refused.contains("7 days"), "{refused}");
        }
        let goes = |more: &[&str], wanted: (u64, u64), why: &str| -> Result<()> {
            let gone = deleted(&apply(more)?)?;
            ensure!(gone == wanted, "{gone:?}, not {wanted:?}: {why}");
            Ok(())
        };
        goes(&[], (0, 0), "it was retired today")?;

        // Forty days later, as far as PostgreSQL can tell.
        let days = |sign| {
            let sql = format!(
                "UPDATE commands SET appended_at = appended_at {sign} interval '40 days' WHERE kind = 'retire';
                 UPDATE issued_coupons SET used_at = used_at {sign} interval '40 days' WHERE used_at IS NOT NULL;
                 UPDATE redemptions SET redeemed_at = redeemed_at {sign} interval '40 days';
                 UPDATE coupon_retention SET issued_ended_from = issued_ended_from {sign} interval '40 days'"
            );
            world.sql(&sql)
        };
        days("-")?;
        goes(&["--dry-run"], (1, 0), "coupons are kept for a year")?;
        goes(&["--dry-run", "--coupons-days", "30"], (1, 1), "not where they are kept for a month")?;
        goes(&["--coupons-days", "30"], (1, 1), "it was a dry run before")?;
        goes(&["--coupons-days", "30"], (0, 0), "once is enough")?;
        days("+")?;
        let counts = "select (select count(*) from claims), (select count(*) from issued_coupons), (select count(*) from redemptions)";
        ensure!(world.sql(counts)? == "3|2|0", "{}", world.sql(counts)?);

        // Nobody is told what is not so.
        let wallet = ann.wallet("").await?.body;
        ensure!(
            wallet["coupons"].as_array().map(Vec::len) == Some(1),
            "the one of the coupon that lives: {wallet}"
        );
        ensure!(
            bob.redeem(&kept, "key", "order-2").await?.status == reqwest::StatusCode::CREATED,
            "it never expires"
        );
        for (user, claim_id) in [(&ann, &used), (&cy, &lost)] {
            let answer = user.answer(claim_id).await?;
            ensure!(answer.code() == "closed", "{answer:?}");
        }
        world.wait_until_quiet().await?;
        oracle::verify(&world).await?;
        // What goes without being told is a broken promise as before.
        world.sql("DELETE FROM claims WHERE code = 'sold_out'")?;
        let audit = world.deployment.couponctl(&["audit"]).err().map(|error| error.to_string());
        ensure!(audit.as_ref().is_some_and(|said| said.contains("AGREE")), "{audit:?}");
        Ok(())
    })
}

/// A claim that comes too late; its id.
async fn lose(world: &World, user: &User, coupon_id: &str) -> Result<String> {
    let claim_id = user.claim_id(coupon_id).await?;
    let claim = json!({"v": 1, "claim_id": claim_id, "coupon_id": coupon_id, "user_id": user.name, "round": 0, "slot": "0", "received_at": 1});
    world.append(Topic::Claims, 0, coupon_id, claim.to_string().as_bytes()).await?;
    let answer = user.final_answer(&claim_id).await?;
    ensure!(answer == "sold_out", "{answer}");
    Ok(claim_id)
}

fn deleted(said: &str) -> Result<(u64, u64)> {
    let said: Value = serde_json::from_str(said)?;
    let count = |name: &str| said[name].as_u64().context("a count");
    Ok((count("losing_claims")?, count("issued_coupons")?))
}
