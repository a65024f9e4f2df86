use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};
use reqwest::StatusCode;

/// Somebody deletes `coupon.claims` and makes it anew. The partition halts by name and guesses nothing; its gateways stop saying 202.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(10)).await?;
        for number in 0..5 {
            ensure!(world.user(&format!("early-{number}"))?.press_to_the_end(&coupon_id).await? == "granted");
        }
        world.wait_until_quiet().await?;
        recreate(&world)?;

        let late = world.user("late")?;
        let refused = eventually("the gateway meets the new log", async || {
            let pressed = late.press(&coupon_id).await?;
            ensure!(pressed.status != StatusCode::ACCEPTED, "202 for a log that nobody knows: {pressed:?}");
            Ok((pressed.code() == "log_mismatch").then_some(pressed))
        })
        .await?;
        ensure!(refused.status == StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");

        // Each of these presses would have made the new log longer, until it looked as long as the old one.
        for number in 0..20 {
            let pressed = world.user(&format!("later-{number}"))?.press(&coupon_id).await?;
            ensure!(pressed.code() == "log_mismatch", "{pressed:?}");
        }

        let stock_consumer = world.service(Role::StockConsumer.name())?;
        stock_consumer.kill()?;
        stock_consumer.restart()?;
        world.wait_until_unready(Role::StockConsumer.name(), "halted, log_mismatch").await?;
        ensure!(world.sql("select count(*) from issued_coupons")? == "5", "and nothing was written");

        // A gateway that has seen nothing of it knows it from the line's own record.
        eventually("the line says that it stands still", async || {
            let said =
                world.records(Topic::State, 0)?.into_iter().any(|record| record["halted"] == "log_mismatch");
            Ok(said.then_some(()))
        })
        .await?;
        let gateway = world.service(Role::ApiGateway.name())?;
        gateway.kill()?;
        gateway.restart()?;
        world.wait_ready(Role::ApiGateway.name())?;
        let pressed = late.press(&coupon_id).await?;
        ensure!(
            pressed.code() == "not_accepted" && pressed.text("detail").contains("log_mismatch"),
            "{pressed:?}"
        );
        Ok(())
    })
}

fn recreate(world: &World) -> Result<()> {
    let topic = world.layout().name(Topic::Claims);
    let class = "org.apache.kafka.tools.TopicCommand";
    world.servers().kafka_tool(class, &["--delete", "--topic", &topic])?;
    let create = ["--create", "--topic", &topic, "--partitions", "1", "--replication-factor", "1"];
    let settings = ["--config", "message.timestamp.type=LogAppendTime", "--config", "cleanup.policy=delete"];
    world.servers().kafka_tool(class, &[&create[..], &settings].concat())?;
    Ok(())
}
