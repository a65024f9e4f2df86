use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use couponctl::api::Answer;
use e2e_tests::{CouponSpec, User, World, WorldSpec, eventually, oracle};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use local_stack::{Role, Supervised};
use reqwest::StatusCode;

/// Keys that the gateway takes of one user for one coupon, here.
const SLOTS_MAX: usize = 200;
const KEYS: usize = 1_000;
const STREAMS: usize = 100;
/// Streams that one claim may have; the default.
const STREAMS_OF_A_CLAIM: f64 = 3.0;

/// One user with a thousand keys under a limit of two, and one token with a hundred streams: nothing grows by it, and whoever asks is told.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let often = "10000".to_owned();
        let settings = vec![
            (Role::ApiGateway, "FIRSTCOME__CLAIMS__USER_REQUESTS_PER_S", often.clone()),
            (Role::ApiGateway, "FIRSTCOME__CLAIMS__USER_REQUESTS_BURST", often.clone()),
            (Role::ApiGateway, "FIRSTCOME__CLAIMS__SLOTS_PER_USER_MAX", SLOTS_MAX.to_string()),
            (Role::Notifier, "FIRSTCOME__NOTIFY__USER_REQUESTS_PER_S", often.clone()),
            (Role::Notifier, "FIRSTCOME__NOTIFY__USER_REQUESTS_BURST", often),
        ];
        let world = World::start(WorldSpec { partitions: 1, settings, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec { per_user_limit: 2, ..CouponSpec::of(5) }).await?;
        keys(&world, &coupon_id).await?;
        streams(&world, &coupon_id).await?;
        oracle::verify(&world).await?;
        Ok(())
    })
}

async fn keys(world: &World, coupon_id: &str) -> Result<()> {
    let ann = world.user("ann")?;
    let press = async |key: usize| press(&ann, coupon_id, &format!("key-{key}")).await;
    for key in 0..2 {
        let pressed = press(key).await?;
        ensure!(ann.answer_to(&pressed).await?.code() == "granted", "{pressed:?}");
    }
    let pressing = stream::iter(2..KEYS).map(press).buffer_unordered(20);
    let (taken, refused): (Vec<_>, Vec<_>) = pressing
        .try_collect::<Vec<_>>()
        .await?
        .into_iter()
        .partition(|pressed| pressed.status == StatusCode::ACCEPTED);
    let mut reasons = BTreeMap::<_, usize>::new();
    for answer in &refused {
        *reasons.entry((answer.status.as_u16(), answer.code().to_owned())).or_default() += 1;
    }
    ensure!(
        reasons == BTreeMap::from([((429, "too_many_keys".to_owned()), KEYS - SLOTS_MAX)]),
        "{reasons:?}"
    );
    world.wait_until_quiet().await?;

    // They are in the log and were answered; nothing else is left of them.
    let rows = world.sql("select settled, issued, (select count(*) from claims) from coupons")?;
    ensure!(rows == "2|2|2", "{rows}");
    let ledger = world.ledger(coupon_id).await?;
    ensure!(ledger["accepted"] == 2 && ledger["granted"] == 2, "{ledger}");
    for pressed in taken.iter().take(3) {
        let claim_id = pressed.text("claim_id");
        for path in [String::new(), format!("?after={}", pressed.body["ticket"]["offset"])] {
            let told = ann.notifier.get(&format!("/v1/claims/{claim_id}{path}"), &[]).await?;
            ensure!(told.code() == "already_issued" && told.body["final"] == true, "{path}: {told:?}");
        }
        // The stream token names nobody; the place of the press says it all the same.
        let events = ann.events(claim_id, Some(pressed.text("stream_token"))).await?;
        ensure!(e2e_tests::user::event(&events, "decided")?["code"] == "already_issued", "{events:?}");
    }
    Ok(())
}

async fn streams(world: &World, coupon_id: &str) -> Result<()> {
    let bob = world.user("bob")?;
    let stock_consumer = world.service(Role::StockConsumer.name())?;
    stock_consumer.suspend()?;
    let pressed = press(&bob, coupon_id, "one").await?;
    ensure!(pressed.status == StatusCode::ACCEPTED, "{pressed:?}");
    let (claim_id, token) = (pressed.text("claim_id").to_owned(), pressed.text("stream_token").to_owned());
    let listen = async |user: User| {
        let (claim_id, token) = (claim_id.clone(), token.clone());
        user.events(&claim_id, Some(&token)).await
    };
    let listening = stream::iter(0..STREAMS).map(|_| listen(bob.clone())).buffer_unordered(STREAMS);
    let told = async {
        let ended: Vec<_> = listening.collect().await;
        Ok::<_, anyhow::Error>(ended.into_iter().flatten().count())
    };
    let watching = async {
        eventually("all but the last have given way", async || {
            let replaced =
                of(world, r#"coupon_limit_hits_total{limit="waiters_per_claim",service="notifier"} "#)
                    .await?;
            Ok((replaced >= f64::from(u16::try_from(STREAMS)?) - STREAMS_OF_A_CLAIM).then_some(()))
        })
        .await?;
        let open = of(world, r#"coupon_queue_depth{queue="waiters",service="notifier"} "#).await?;
        ensure!(open <= STREAMS_OF_A_CLAIM, "{open} streams of one claim are open");
        stock_consumer.resume()?;
        Ok(())
    };
    let (told, ()) = tokio::try_join!(told, watching)?;
    ensure!(told == 3, "{told} were told");
    Ok(())
}

/// Presses until there is an answer: on a busy machine the log may not acknowledge in time.
async fn press(user: &User, coupon_id: &str, key: &str) -> Result<Answer> {
    eventually("the press is answered", async || {
        let pressed = user.press_with(coupon_id, &[("Idempotency-Key", key)]).await?;
        Ok((pressed.status != StatusCode::SERVICE_UNAVAILABLE).then_some(pressed))
    })
    .await
}

/// The value of a series of the notifier's.
async fn of(world: &World, series: &str) -> Result<f64> {
    let metrics = world.metrics(Role::Notifier.name()).await?;
    let value =
        metrics.lines().find_map(|line| line.strip_prefix(series)).context("there is such a series")?;
    Ok(value.parse()?)
}
