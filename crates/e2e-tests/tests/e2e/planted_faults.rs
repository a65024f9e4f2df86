use anyhow::{Context, Result, ensure};
use coupon_domain::wire::{decode_outcome, encode_outcome};
use coupon_domain::{ClaimCode, Offset, Outcome, outcome::Subject};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};
use serde_json::json;

/// Whatever is changed behind the system's back, audit and oracle name it. Each fault is undone before the next, and both are content again; the
/// last two cannot be undone.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        // Nothing is decided before all stand in line, so that the last is refused by the log.
        let stock_consumer = world.service(Role::StockConsumer.name())?;
        stock_consumer.suspend()?;
        let mut claims = Vec::new();
        for user in ["first", "second", "third"] {
            claims.push(world.user(user)?.claim(&coupon_id).await?);
        }
        stock_consumer.resume()?;
        oracle::verify(&world).await?;

        rows_deleted_or_changed(&world).await?;
        answers_in_redis_changed(&world, &claims).await?;
        outcomes_forged(&world, &coupon_id).await
    })
}

async fn rows_deleted_or_changed(world: &World) -> Result<()> {
    world.sql("create table kept_claims as select * from claims where code = 'sold_out'")?;
    world.sql("create table kept_issued as select * from issued_coupons where issue_no = 2")?;
    let faults = [
        (
            "delete from claims where code = 'sold_out'",
            "insert into claims select * from kept_claims",
            "AGREE",
        ),
        (
            "delete from issued_coupons where issue_no = 2",
            "insert into issued_coupons select * from kept_issued",
            "AGREE",
        ),
        ("update claims set rank = 9 where rank = 3", "update claims set rank = 3 where rank = 9", "AGREE"),
        (
            "update issued_coupons set user_id = 'thief' where issue_no = 1",
            "update issued_coupons set user_id = 'first' where issue_no = 1",
            "AGREE",
        ),
        ("update coupons set issued = 1", "update coupons set issued = 2", "AGREE"),
        ("update audit_events set actor = 'nobody'", "update audit_events set actor = 'operator'", "AGREE"),
    ];
    for (fault, remedy, promise) in faults {
        world.sql(fault)?;
        both_name(world, promise).with_context(|| fault.to_owned())?;
        world.sql(remedy)?;
        oracle::verify(world).await.with_context(|| remedy.to_owned())?;
    }
    Ok(())
}

async fn answers_in_redis_changed(world: &World, claims: &[String]) -> Result<()> {
    let (granted, refused) = (&claims[0], &claims[2]);
    let told = world.answer_in_view(refused).await?.context("the refusal is in the view")?;
    let winner = world.answer_in_view(granted).await?.context("the grant is in the view")?;
    // The first byte is the code: 0 granted, 1 sold out, 3 closed.
    ensure!(told.starts_with("01") && winner.starts_with("00"), "{told} {winner}");
    let changed = format!("03{}", &told[2..]);
    for fault in [Some(changed.as_str()), None, Some(winner.as_str())] {
        world.change_answer_in_view(refused, fault).await?;
        both_name(world, "AGREE").with_context(|| format!("{fault:?}"))?;
        world.change_answer_in_view(refused, Some(&told)).await?;
        oracle::verify(world).await?;
    }
    Ok(())
}

async fn outcomes_forged(world: &World, coupon_id: &str) -> Result<()> {
    // A later copy that says otherwise: everybody skips it, but it stands in the log.
    let outcomes = world.records(Topic::Outcomes, 0)?;
    let sold_out =
        outcomes.iter().find(|outcome| outcome["code"] == "sold_out").context("one was refused")?;
    let forged = sold_out.to_string().replace("sold_out", "closed");
    world.append(Topic::Outcomes, 0, coupon_id, forged.as_bytes()).await?;
    both_name(world, "ONE-OUTCOME")?;

    // A grant too many, with a chain that fits: only who folds the line again can know.
    world.stop(Role::StockConsumer.name())?;
    world.stop(Role::DbWriter.name())?;
    let claim_id = format!("{coupon_id}.0.0.{}", "e".repeat(32));
    let claim = json!({"v": 1, "claim_id": claim_id, "coupon_id": coupon_id, "user_id": "fourth", "round": 0, "slot": "0", "received_at": 0});
    let src = world.append(Topic::Claims, 0, coupon_id, claim.to_string().as_bytes()).await?;
    let records = world.records(Topic::Outcomes, 0)?;
    let last = records.iter().find(|outcome| outcome["src_offset"] == src - 1).context("the one before")?;
    let last = decode_outcome(last.to_string().as_bytes())?;
    let granted = records.iter().find(|outcome| outcome["code"] == "granted").context("somebody won")?;
    let mut forged = Outcome {
        src_offset: Offset::new(src)?,
        decided_offset: Offset::new(src)?,
        ..decode_outcome(granted.to_string().as_bytes())?
    };
    if let Subject::Claim(forged) = &mut forged.subject {
        ensure!(forged.code == ClaimCode::Granted);
        forged.claim_id = claim_id.parse()?;
        forged.user_id = "fourth".parse()?;
        forged.issue_no = Some(3);
    }
    forged.chain = last.chain.next(&forged);
    world.append(Topic::Outcomes, 0, coupon_id, &encode_outcome(&forged)).await?;
    for promise in ["FIRST-COME", "NO-OVERSELL"] {
        both_name(world, promise)?;
    }
    // db-writer would write it, and the table's own guard refuses.
    world.service(Role::DbWriter.name())?.restart()?;
    eventually("the writer halts", async || {
        let metrics = world.metrics(Role::DbWriter.name()).await.unwrap_or_default();
        let halted = r#"coupon_partition_halted{partition="0",reason="constraint",service="db-writer"} 1"#;
        Ok(metrics.lines().any(|line| line == halted).then_some(()))
    })
    .await?;
    ensure!(world.sql("select issued from coupons")? == "2", "nothing was written");
    Ok(())
}

/// Both the audit (exit code 5) and the oracle name this promise.
fn both_name(world: &World, promise: &str) -> Result<()> {
    let audit = world.deployment.couponctl(&["audit"]).err().context("the audit saw nothing")?.to_string();
    ensure!(audit.contains("exit status: 5"), "{audit}");
    let named = audit.lines().any(|line| line.starts_with(&format!("{promise}: ")));
    ensure!(named, "the audit does not name {promise}: {audit}");
    let oracle = oracle::judge(world, &["--quiet"]).err().context("the oracle saw nothing")?.to_string();
    ensure!(
        oracle.contains(&format!("\"promise\": \"{promise}\"")),
        "the oracle does not name {promise}: {oracle}"
    );
    Ok(())
}
