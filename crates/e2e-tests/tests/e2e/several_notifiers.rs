use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use couponctl::api::Client;
use e2e_tests::{CouponSpec, World, WorldSpec, eventually};
use local_stack::{Role, Supervised};

const SECOND: &str = "notifier-2";

/// From FACTS of what breaks elsewhere, "result pushed to a replica that does not hold the connection": every replica reads all outcomes along, so whoever holds
/// the connection tells, whichever that is.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec::default())?;
        world.add(Role::Notifier, SECOND)?;
        world.wait_ready(SECOND)?;
        let stock_consumer = world.service(Role::StockConsumer.name())?;
        // Coupons on different partitions, and listeners of each at both replicas, before anything is decided.
        let (tea, cake) =
            (world.publish(&CouponSpec::of(2)).await?, world.publish(&CouponSpec::of(2)).await?);
        stock_consumer.suspend()?;
        let mut listening = Vec::new();
        for (number, coupon_id) in [&tea, &tea, &cake, &cake].into_iter().enumerate() {
            let user = world.user(&format!("user-{number}"))?;
            let claim_id = user.claim(coupon_id).await?;
            let replica = [Role::Notifier.name(), SECOND][number % 2];
            let url = world.service(replica)?.api_url().context("a notifier has an API")?;
            listening.push(follow(Client::new(&url, &user.token)?, claim_id));
        }
        let decide = async {
            for replica in [Role::Notifier.name(), SECOND] {
                let series = r#"coupon_queue_depth{queue="sse_streams",service="notifier"} 2"#;
                eventually("both streams are open", async || {
                    Ok(world.metrics(replica).await?.contains(series).then_some(()))
                })
                .await?;
            }
            Ok(stock_consumer.resume()?)
        };
        let (told, ()) = tokio::try_join!(futures_util::future::try_join_all(listening), decide)?;
        ensure!(told.iter().all(|code| code == "granted"), "{told:?}");
        Ok(())
    })
}

/// The code that the claim's stream decides with.
async fn follow(notifier: Client, claim_id: String) -> Result<String> {
    let (mut code, path) = (String::new(), format!("/v1/claims/{claim_id}/events"));
    let listening = notifier.events(&path, |event, data| {
        if event == "decided" {
            code = data["code"].as_str().unwrap_or_default().to_owned();
        }
        if event == "end" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    tokio::time::timeout(e2e_tests::waiting::GENEROUS, listening).await.context("no end")??;
    Ok(code)
}
