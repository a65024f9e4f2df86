use anyhow::{Context, Result, ensure};
use coupon_domain::CouponId;
use e2e_tests::{CouponSpec, World, WorldSpec};
use local_stack::{Role, Supervised};
use serde_json::Value;

/// An audit of one coupon reads that coupon's rows and its view alone, each by its name: what is wrong with another one of the same line it neither sees nor says, and
/// what is wrong with its own it does. On servers of its own, where it is forbidden to scan Redis.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, own_servers: true, ..WorldSpec::default() })?;
        let [mine, other] =
            [world.publish(&CouponSpec::of(2)).await?, world.publish(&CouponSpec::of(2)).await?];
        // Nothing is decided before all stand in line, so that the last are refused by the log.
        let stock_consumer = world.service(Role::StockConsumer.name())?;
        stock_consumer.suspend()?;
        let (mut of_mine, mut of_other) = (Vec::new(), Vec::new());
        for user in ["first", "second", "third"] {
            of_mine.push(world.user(user)?.claim(&mine).await?);
            of_other.push(world.user(user)?.claim(&other).await?);
        }
        stock_consumer.resume()?;
        world.wait_until_quiet().await?;

        world.redis(&["ACL", "SETUSER", "auditor", "-scan"]).await?;
        let whole = world.deployment.couponctl(&["audit"]).err().context("nobody may scan")?.to_string();
        ensure!(whole.contains("exit status: 1"), "{whole}");
        only_its_own_is_compared(&world, &mine)?;

        let of = |coupon: &str| Ok::<_, anyhow::Error>(coupon.parse::<CouponId>()?.unique());
        for fault in [
            "delete from claims where rank = 3",
            "update claims set user_id = 'nobody' where rank = 1",
            "update issued_coupons set user_id = 'thief' where issue_no = 1",
            "update coupons set issued = 1 where true",
            "update audit_events set actor = 'nobody' where true",
        ] {
            world.sql(&format!("{fault} and coupon_id = '{}'", of(&other)?))?;
        }
        world.change_answer_in_view(&of_other[0], Some("ff")).await?;
        only_its_own_is_compared(&world, &mine)?;
        let said = broken(&world, &other)?;
        let wanted = ["table claims", "table issued_coupons", "table coupons", "table commands", "Redis"];
        for place in wanted {
            ensure!(said.contains(&format!("AGREE: {place}")), "{place} is not named: {said}");
        }

        faults_of_its_own_are_named(&world, &mine, &other, &of_mine[2]).await
    })
}

/// Everything that there is of a coupon with three claims, two of them granted, and nothing else.
fn only_its_own_is_compared(world: &World, coupon_id: &str) -> Result<()> {
    let report =
        world.deployment.couponctl(&["audit", "--quiet", "--coupon", coupon_id, "--output", "json"])?;
    let report: Value = serde_json::from_str(&report)?;
    let promises = report["promises"].as_array().context("promises")?;
    let agree = promises.iter().find(|line| line["promise"] == "AGREE").context("AGREE")?;
    for (what, count) in [
        ("rows of claims", 3),
        ("issued coupons", 2),
        ("rows of coupons", 1),
        ("rows of commands", 1),
        ("answers in Redis", 3),
        ("views", 1),
    ] {
        ensure!(agree["checked"][what] == count, "{what}, not {count}: {report}");
    }
    ensure!(report["ledger"]["accepted"] == 3, "{report}");
    Ok(())
}

async fn faults_of_its_own_are_named(world: &World, mine: &str, other: &str, refused: &str) -> Result<()> {
    let told = world.answer_in_view(refused).await?.context("the refusal is in the view")?;
    world.change_answer_in_view(refused, None).await?;
    let said = broken(world, mine)?;
    ensure!(said.contains("are missing"), "{said}");
    world.change_answer_in_view(refused, Some(&told)).await?;
    only_its_own_is_compared(world, mine)?;

    // A row where the line has a record of another coupon: no look by place meets it.
    let [mine, other_unique] = [mine, other].map(|coupon| coupon.parse::<CouponId>().map(|id| id.unique()));
    let (unique, other_unique) = (mine?, other_unique?);
    let stray = format!(
        "insert into claims (src_partition, src_offset, coupon_id, claim_mac, slot, appended_at, code, round, final, user_id) \
         select 0, (select published_offset from coupons where coupon_id = '{other_unique}'), coupon_id, gen_random_uuid(), 0, \
             appended_at, 'paused', 0, false, user_id from claims where coupon_id = '{unique}' and rank = 1"
    );
    world.sql(&stray)?;
    let mine = CouponId::new(coupon_domain::Partition::new(0)?, unique).to_string();
    let said = broken(world, &mine)?;
    ensure!(said.contains("1 rows are there, but no outcome"), "{said}");
    world.sql("delete from claims where code = 'paused'")?;
    world.sql(&format!("update claims set rank = 9 where rank = 3 and coupon_id = '{unique}'"))?;
    let said = broken(world, &mine)?;
    ensure!(said.contains("differs from the log in rank"), "{said}");
    Ok(())
}

/// What the audit of a coupon says, which has to find a broken promise.
fn broken(world: &World, coupon_id: &str) -> Result<String> {
    let said = world.deployment.couponctl(&["audit", "--coupon", coupon_id]).err();
    let said = said.context("the audit saw nothing")?.to_string();
    ensure!(said.contains("exit status: 5"), "{said}");
    Ok(said)
}
