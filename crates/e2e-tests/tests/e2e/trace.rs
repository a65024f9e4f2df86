use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use couponctl::api::Answer;
use e2e_tests::user::event;
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use infrastructure_kafka::{Entry, Topic};
use local_stack::{Role, Supervised};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACESTATE: &str = "vendor=abc123,other@tenant=1";

/// What a request says of its trace goes with the claim into both logs and to whoever waits; what is malformed, or recorded by nobody, goes nowhere.
/// A replay makes nothing up, and copies with other headers are copies.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(20)).await?;
        let stock_consumer = world.service(Role::StockConsumer.name())?;

        // The consumer sleeps until the user listens: so the tail tells, and no look-up is faster.
        stock_consumer.suspend()?;
        let traced = [("traceparent", TRACEPARENT), ("tracestate", TRACESTATE)];
        let ann = world.user("ann")?;
        let pressed = ann.press_with(&coupon_id, &traced).await?;
        let (stream_token, claim_id) = (pressed.text("stream_token").to_owned(), accepted(&pressed)?);
        let listening = async { ann.events(&claim_id, Some(&stream_token)).await };
        let waking = async {
            world.wait_for_streams(1).await?;
            stock_consumer.resume()?;
            anyhow::Ok(())
        };
        let (events, woken) = tokio::join!(listening, waking);
        woken?;
        let decided = event(&events?, "decided")?.clone();
        ensure!(decided["code"] == "granted" && decided["traceparent"] == TRACEPARENT, "{decided}");

        let claim = only(&world, Topic::Claims, &claim_id)?;
        let outcome = only(&world, Topic::Outcomes, &claim_id)?;
        for record in [&claim, &outcome] {
            ensure!(record.header("traceparent") == Some(TRACEPARENT), "{record:?}");
            ensure!(record.header("tracestate") == Some(TRACESTATE), "{record:?}");
        }

        let upper_case = TRACEPARENT.to_uppercase();
        let nobody_records = TRACEPARENT.replace("-01", "-00");
        let too_long = format!("{TRACEPARENT}-more");
        for (number, bad) in
            ["", "nonsense", &upper_case, &too_long, &nobody_records, &TRACEPARENT[..54]].iter().enumerate()
        {
            let user = world.user(&format!("badly-traced-{number}"))?;
            let claim_id = accepted(&user.press_with(&coupon_id, &[("traceparent", bad)]).await?)?;
            user.answer(&claim_id).await?;
            goes_nowhere(&world, &claim_id, bad)?;
        }
        let bob = world.user("bob")?;
        let claim_id_of_bob = bob.claim(&coupon_id).await?;
        bob.answer(&claim_id_of_bob).await?;
        goes_nowhere(&world, &claim_id_of_bob, "no header at all")?;
        let carol = world.user("carol")?;
        let headers = [("traceparent", TRACEPARENT), ("tracestate", "malformed")];
        let of_carol = accepted(&carol.press_with(&coupon_id, &headers).await?)?;
        carol.answer(&of_carol).await?;
        let outcome_of_carol = only(&world, Topic::Outcomes, &of_carol)?;
        ensure!(outcome_of_carol.header("traceparent") == Some(TRACEPARENT), "{outcome_of_carol:?}");
        ensure!(outcome_of_carol.header("tracestate").is_none(), "{outcome_of_carol:?}");

        // A zombie's copy of an outcome, under another trace.
        let other = TRACEPARENT.replace("4bf9", "aaaa");
        let payload = outcome.payload.clone().context("an outcome has a value")?;
        world
            .append_with(Topic::Outcomes, 0, &coupon_id, &payload, &[("traceparent", other.as_bytes())])
            .await?;
        let said = world.bounds(Topic::Outcomes, 0)?.end;
        for role in [Role::StockConsumer, Role::DbWriter, Role::Notifier] {
            world.service(role.name())?.kill()?;
            world.service(role.name())?.restart()?;
            world.wait_ready(role.name())?;
        }
        ensure!(world.bounds(Topic::Outcomes, 0)?.end == said, "a replay has said something");
        let late = world.user("late")?;
        ensure!(late.press_to_the_end(&coupon_id).await? == "granted");
        world.wait_until_quiet().await?;
        oracle::verify(&world).await?;
        Ok(())
    })
}

fn accepted(answer: &Answer) -> Result<String> {
    ensure!(answer.status == 202, "{answer:?}");
    Ok(answer.text("claim_id").to_owned())
}

/// The one record of this claim.
fn only(world: &World, topic: Topic, claim_id: &str) -> Result<Entry> {
    let mut found = Vec::new();
    world.read(topic, 0, |entry| {
        let text = String::from_utf8_lossy(entry.payload.as_deref().unwrap_or_default()).into_owned();
        if text.contains(&format!("\"{claim_id}\"")) {
            found.push(entry);
        }
        ControlFlow::Continue(())
    })?;
    ensure!(found.len() == 1, "{claim_id} has {} records in {topic:?}", found.len());
    found.pop().context("there is one")
}

fn goes_nowhere(world: &World, claim_id: &str, because: &str) -> Result<()> {
    for topic in [Topic::Claims, Topic::Outcomes] {
        let record = only(world, topic, claim_id)?;
        ensure!(record.header("traceparent").is_none(), "{because}: {record:?}");
    }
    Ok(())
}
