use anyhow::{Context, Result, ensure};
use e2e_tests::user::event;
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};
use serde_json::{Value, json};

/// A claim whose record cannot be read is parked: its user is told so, whether they wait, ask later or ask a notifier that was not there. It holds no
/// unit. Redriven it stands at the end of the line, once: granted while something is left, sold out where nothing is.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        let (poisoned, unlucky) = (world.user("poisoned")?, world.user("unlucky")?);
        let (first, second) = (poisoned.claim_id(&coupon_id).await?, unlucky.claim_id(&coupon_id).await?);

        let poisoning = async {
            world.wait_for_streams(1).await?;
            poison(&world, &coupon_id, &first, "poisoned").await
        };
        let (told, first_letter) = tokio::try_join!(poisoned.events(&first, None), poisoning)?;
        let decided = event(&told, "decided")?;
        ensure!(decided["status"] == "parked" && decided["code"] == "invalid", "{told:?}");
        let second_letter = poison(&world, &coupon_id, &second, "unlucky").await?;
        for (user, claim_id) in [(&poisoned, &first), (&unlucky, &second)] {
            ensure!(user.answer(claim_id).await?.text("status") == "parked");
        }
        world.wait_until_stored().await?;
        world.service(Role::Notifier.name())?.kill()?;
        world.service(Role::Notifier.name())?.restart()?;
        world.wait_ready(Role::Notifier.name())?;
        let late = poisoned.notifier.get(&format!("/v1/claims/{first}"), &[]).await?;
        ensure!(late.text("status") == "parked" && late.code() == "invalid", "{late:?}");
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["dead_lettered"] == 2 && report["ledger"]["granted"] == 0, "{report}");

        let ledger = world.ledger(&coupon_id).await?;
        ensure!(ledger["dead_lettered"] == 2 && ledger["accepted"] == 2, "{ledger}");
        let letters = world.operator()?.get("/admin/v1/dead-letters", &[]).await?.body;
        ensure!(
            letters["open"] == 2 && letters["letters"][0]["letter"] == first_letter.as_str(),
            "{letters}"
        );

        // No unit is held, no place is kept: one of two is gone to somebody who came later.
        ensure!(world.user("later")?.press_to_the_end(&coupon_id).await? == "granted");
        let listed = dlq(&world, &["list"])?;
        ensure!(listed.as_array().context("a list")?.len() == 2, "{listed}");
        let shown = dlq(&world, &["show", &first_letter])?;
        ensure!(shown["claim_id"] == first.as_str() && shown["reason"] == "undecodable", "{shown}");

        let thief = refused(&world, &["redrive", &first_letter, "--user", "thief", "--reason", "why not"])?;
        ensure!(thief.contains("for this user"), "{thief}");
        let redriven = dlq(&world, &["redrive", &first_letter, "--reason", "looked at it"])?;
        ensure!(redriven["claim_id"] == first.as_str(), "{redriven}");
        ensure!(poisoned.final_answer(&first).await? == "granted");
        let again = refused(&world, &["redrive", &first_letter, "--reason", "again"])?;
        ensure!(again.contains("redriven by couponctl") && again.contains("looked at it"), "{again}");

        dlq(&world, &["redrive", &second_letter, "--reason", "too late"])?;
        ensure!(unlucky.final_answer(&second).await? == "sold_out");

        // Pressed again before the poisoned record was reached, the stream of that press ends with its own answer.
        let tea = world.publish(&CouponSpec::of(1)).await?;
        let third = poisoned.claim_id(&tea).await?;
        let stock_consumer = world.service(Role::StockConsumer.name())?;
        stock_consumer.suspend()?;
        let letter = poison(&world, &tea, &third, "poisoned").await?;
        let pressed = poisoned.press(&tea).await?;
        let token = pressed.text("stream_token").to_owned();
        let decide = async {
            world.wait_for_streams(1).await?;
            Ok(stock_consumer.resume()?)
        };
        let (told, ()) = tokio::try_join!(poisoned.events(&third, Some(&token)), decide)?;
        ensure!(event(&told, "decided")?["code"] == "granted", "{told:?}");
        dlq(&world, &["discard", &letter, "--reason", "pressed again"])?;

        // What names no claim can only be discarded.
        let garbage = world.append(Topic::Claims, 0, &coupon_id, b"garbage").await?;
        ensure!(world.user("behind")?.press_to_the_end(&coupon_id).await? == "sold_out");
        let letter = format!("0:{garbage}");
        ensure!(refused(&world, &["redrive", &letter, "--reason", "?"])?.contains("discard it"));
        dlq(&world, &["discard", &letter, "--reason", "noise"])?;
        let left = dlq(&world, &["list"])?;
        ensure!(left == json!([]), "{left}");
        let all = dlq(&world, &["list", "--all"])?;
        ensure!(all.as_array().context("a list")?.len() == 4, "{all}");

        let report = oracle::verify(&world).await?;
        let ledger = &report["ledger"];
        ensure!(
            ledger["granted"] == 3 && ledger["rejected"] == 1 && ledger["dead_lettered"] == 0,
            "{report}"
        );
        Ok(())
    })
}

/// Appends a record that names the claim and its user, and that no release reads. The letter's name.
async fn poison(world: &World, coupon_id: &str, claim_id: &str, user: &str) -> Result<String> {
    let record = json!({"v": 1, "claim_id": claim_id, "coupon_id": coupon_id, "user_id": user, "round": 0, "slot": "0", "received_at": "noon"});
    let offset = world.append(Topic::Claims, 0, coupon_id, record.to_string().as_bytes()).await?;
    Ok(format!("0:{offset}"))
}

fn dlq(world: &World, arguments: &[&str]) -> Result<Value> {
    let printed = world.deployment.couponctl(&[&["dlq", "--output", "json"], arguments].concat())?;
    serde_json::from_str(&printed).with_context(|| printed)
}

/// What the command line says where the answer is no (exit code 6).
fn refused(world: &World, arguments: &[&str]) -> Result<String> {
    let failure = world.deployment.couponctl(&[&["dlq"], arguments].concat()).err();
    let said = failure.with_context(|| format!("{arguments:?} was not refused"))?.to_string();
    ensure!(said.contains("exit status: 6"), "{said}");
    Ok(said)
}
