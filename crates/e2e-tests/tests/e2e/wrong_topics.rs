use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::waiting::GENEROUS;
use e2e_tests::{World, WorldSpec, eventually};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};

/// Topics that are kept in a way that breaks promises are refused with exit code 3, all of them named; topics that are not there are waited
/// for.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::prepare(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let claims = world.layout().name(Topic::Claims);
        let state = world.layout().name(Topic::State);
        alter(&world, &claims, "message.timestamp.type=CreateTime")?;
        alter(&world, &state, "cleanup.policy=delete")?;
        for role in Role::ALL {
            world.add(role, role.name())?;
            let service = world.service(role.name())?;
            let status = service.wait_exit(GENEROUS)?;
            ensure!(status.code() == Some(3), "{} ended with {status}", role.name());
            let log = service.log_tail(20);
            ensure!(log.contains("message.timestamp.type=CreateTime, needed is LogAppendTime"), "{log}");
            ensure!(log.contains("cleanup.policy=delete, needed is compact"), "{log}");
        }
        alter(&world, &claims, "message.timestamp.type=LogAppendTime")?;
        alter(&world, &state, "cleanup.policy=compact")?;
        let checked = world.deployment.couponctl(&["topics", "check"])?;
        ensure!(checked.contains("as they must be"), "{checked}");

        // More partitions than there are: waited for, with the reason on the probe, until somebody applies them.
        let more = vec![(Role::ApiGateway, "FIRSTCOME__KAFKA__PARTITIONS", "2".to_owned())];
        let mut grown = World::prepare(WorldSpec { partitions: 1, settings: more, ..WorldSpec::default() })?;
        grown.add(Role::ApiGateway, "api-gateway")?;
        let probe = format!("{}/startupz", grown.service("api-gateway")?.ops_url());
        eventually("the probe tells what is awaited", async || {
            let Ok(response) = reqwest::get(&probe).await else { return Ok(None) };
            let text = response.text().await?;
            Ok(text
                .contains("has 1 partitions, 2 are configured: run `couponctl topics apply`")
                .then_some(()))
        })
        .await?;
        grown.deployment.couponctl(&["topics", "apply", "--topic-partitions", "2"])?;
        grown.service("api-gateway")?.wait_ready(Duration::from_secs(60))?;
        Ok(())
    })
}

pub(crate) fn alter(world: &World, topic: &str, setting: &str) -> Result<()> {
    let arguments = ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", setting];
    world.servers().kafka_tool("kafka.admin.ConfigCommand", &arguments)?;
    Ok(())
}
