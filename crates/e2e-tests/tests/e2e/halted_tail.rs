use anyhow::{Context, Result, ensure};
use e2e_tests::waiting::GENEROUS;
use e2e_tests::{CouponSpec, World, WorldSpec, eventually};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};
use reqwest::StatusCode;

/// An outcome of a newer release stops the tails of all notifiers at the same record. Whoever listens already is told all the same, by look-ups, and the
/// notifiers stay in service: their other partitions go on.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(1)).await?;
        world.wait_until_stored().await?;
        let stock_consumer = world.service(Role::StockConsumer.name())?;
        stock_consumer.suspend()?;
        let ann = world.user("ann")?;
        let pressed = ann.press(&coupon_id).await?;
        ensure!(pressed.status == StatusCode::ACCEPTED, "{pressed:?}");
        let events = pressed.body["links"]["events"].as_str().unwrap_or_default();
        let mut stream = reqwest::get(events).await?;
        let mut said = String::from_utf8_lossy(&stream.chunk().await?.unwrap_or_default()).into_owned();
        ensure!(said.contains("event: position"), "her place is ahead of the tail: {said}");

        world.append(Topic::Outcomes, 0, &coupon_id, br#"{"v":99}"#).await?;
        let halted = r#"coupon_partition_halted{partition="0",reason="newer_version",service="notifier"} 1"#;
        eventually("the notifier's tail stands still", async || {
            Ok(world.metrics(Role::Notifier.name()).await?.contains(halted).then_some(()))
        })
        .await?;
        stock_consumer.resume()?;
        let rest = async {
            while !said.contains("event: waiting") {
                let chunk = stream.chunk().await?.context("the stream ended")?;
                said.push_str(&String::from_utf8_lossy(&chunk));
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(GENEROUS, rest).await.context("she is told nothing")??;
        // db-writer stands still at the same record: the code is to come, and so is the end.
        ensure!(said.contains(r#""code":"granted""#) && !said.contains("event: end"), "{said}");
        let ready =
            reqwest::get(format!("{}/readyz", world.service(Role::Notifier.name())?.ops_url())).await?;
        ensure!(ready.status() == StatusCode::OK, "{}", ready.text().await?);
        ensure!(ann.answer(pressed.text("claim_id")).await?.code() == "granted", "and whoever comes later");
        Ok(())
    })
}
