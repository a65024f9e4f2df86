use anyhow::{Context, Result, ensure};
use e2e_tests::user::event;
use e2e_tests::{CouponSpec, World, WorldSpec, eventually};
use local_stack::Role;
use reqwest::StatusCode;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(1)).await?;
        let (winner, loser) = (world.user("winner")?, world.user("loser")?);

        // Nobody listens when the outcome falls.
        let won = winner.claim(&coupon_id).await?;
        world.wait_until_quiet().await?;
        let events = winner.events(&won, None).await?;
        ensure!(event(&events, "decided")?["code"] == "granted", "{events:?}");
        ensure!(event(&events, "persisted")?["coupon_code"].is_string(), "{events:?}");

        // The same again, as a browser reconnects: with the end seen there is nothing more to say; without it, everything again.
        let decided_offset = event(&events, "decided")?["decided_offset"].to_string();
        let http = reqwest::Client::new();
        let notifier = world.service(Role::Notifier.name())?.api_url().context("a notifier has an API")?;
        let reconnect = async |last_seen: &str| {
            let url = format!("{notifier}/v1/claims/{won}/events");
            http.get(url).bearer_auth(&winner.token).header("Last-Event-ID", last_seen).send().await
        };
        ensure!(reconnect(&decided_offset).await?.status() == StatusCode::NO_CONTENT);
        let again = reconnect("0").await?;
        ensure!(again.status() == StatusCode::OK);
        ensure!(again.headers()["x-accel-buffering"] == "no", "{:?}", again.headers());
        let text = again.text().await?;
        ensure!(
            text.contains("event: decided") && text.contains(&format!("id: {decided_offset}\n")),
            "{text}"
        );

        // A notifier that was not there when the outcome fell.
        ensure!(loser.press_to_the_end(&coupon_id).await? == "sold_out");
        world.add(Role::Notifier, "notifier-2")?;
        world.wait_ready("notifier-2")?;
        let second = world.service("notifier-2")?.api_url().context("a notifier has an API")?;
        let late = couponctl::api::Client::new(&second, &winner.token)?;
        eventually("the second notifier knows the grant", async || {
            let answer = late.get(&format!("/v1/claims/{won}"), &[]).await?;
            Ok((answer.code() == "granted").then_some(()))
        })
        .await?;
        let mut said = Vec::new();
        late.events(&format!("/v1/claims/{won}/events"), |event, data| {
            said.push((event.to_owned(), data.clone()));
            if event == "end" {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        })
        .await?;
        ensure!(event(&said, "decided")?["code"] == "granted", "{said:?}");
        Ok(())
    })
}
