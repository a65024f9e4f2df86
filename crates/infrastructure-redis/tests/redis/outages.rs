//! A Redis that is silent, and one that is killed. Each test has a server of its own.

use std::time::{Duration, Instant};

use coupon_domain::ClaimCode;
use coupon_domain::view_sync::Reply;
use infrastructure_redis::{RedisError, RedisSection};
use local_stack::{ExternalServers, Servers, ServersOptions, Supervised};

use crate::installation::{Installation, answer, claim, counts, written};

/// Far beyond what anything here takes, on a machine that is busy with something else.
const SOON: Duration = Duration::from_secs(60);
/// What an answer may take beyond its limit.
const MARGIN: Duration = Duration::from_secs(5);

fn only_redis() -> (Servers, Installation) {
    let nobody = || Some("nobody-is-asked".to_owned());
    let external =
        ExternalServers { kafka_bootstrap: nobody(), database_url: nobody(), ..Default::default() };
    let servers = Servers::start(ServersOptions { external, ..ServersOptions::default() }).unwrap();
    let section = RedisSection {
        url: Some(servers.redis_url().to_owned()),
        read_timeout_ms: 200,
        write_timeout_ms: 400,
        ..RedisSection::default()
    };
    (servers, Installation::at(section))
}

/// Look-ups go on at once, not each after its time-out, and the view is of use again soon after Redis is.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_redis_costs_a_few_time_outs_and_then_nothing() {
    let (servers, view) = only_redis();
    let coupon = counts();
    let ann = claim(&coupon, 1);
    let granted = answer(ann, ClaimCode::Granted, 4);
    assert_eq!(view.write(coupon, None, 5, &[granted]).await, written());
    assert_eq!(view.reader.claim(&ann).await.unwrap(), Some(granted));
    assert_eq!(view.up.get(), 1);

    servers.redis().unwrap().suspend().unwrap();
    let started = Instant::now();
    let error = view.reader.prefilter(&[ann], infrastructure_redis::Asks::Answers).await.unwrap_err();
    assert!(matches!(error, RedisError::Timeout(limit) if limit == Duration::from_millis(200)), "{error}");
    assert!(started.elapsed() < Duration::from_millis(200) + MARGIN);
    assert_eq!(view.up.get(), 0);
    // A script that got no answer may have run: the caller is told so.
    assert_eq!(view.write(coupon, Some(5), 6, &[]).await, Reply::Unknown);
    let started = Instant::now();
    let mut at_once = 0;
    while at_once < 100 {
        assert!(started.elapsed() < SOON, "every look-up waits for a Redis that does not answer");
        at_once += u32::from(matches!(view.reader.claim(&ann).await, Err(RedisError::Unavailable(_))));
    }

    servers.redis().unwrap().resume().unwrap();
    is_of_use_again(&view, || async { view.reader.claim(&ann).await.ok().flatten() == Some(granted) }).await;
    assert_eq!(view.up.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_killed_is_found_again_and_its_loss_is_seen() {
    let (servers, view) = only_redis();
    let coupon = counts();
    let ann = claim(&coupon, 1);
    assert_eq!(view.write(coupon, None, 5, &[answer(ann, ClaimCode::Granted, 4)]).await, written());
    servers.redis().unwrap().kill().unwrap();
    assert!(view.reader.claim(&ann).await.is_err());
    assert_eq!(view.write(coupon, Some(5), 6, &[]).await, Reply::Unknown);
    assert!(view.maintenance.watermark(coupon.coupon_id).await.is_err());

    servers.redis().unwrap().start_again().unwrap();
    is_of_use_again(&view, || async { view.reader.claim(&ann).await.is_ok() }).await;
    // It came back empty: a delta finds no watermark, and only a push may write.
    let mut reply = Reply::Unknown;
    is_of_use_again(&view, || async {
        matches!(view.maintenance.watermark(coupon.coupon_id).await, Ok(None))
    })
    .await;
    let started = Instant::now();
    while reply == Reply::Unknown {
        assert!(started.elapsed() < SOON);
        reply = view.write(coupon, Some(5), 6, &[]).await;
    }
    assert_eq!(reply, Reply::Found(None));
}

async fn is_of_use_again<F: Future<Output = bool>>(view: &Installation, mut works: impl FnMut() -> F) {
    let started = Instant::now();
    while !works().await {
        assert!(started.elapsed() < SOON, "{:?} is still of no use", view.section.url);
    }
}
