//! What one script writes, and what it leaves alone.

use std::collections::BTreeMap;

use coupon_domain::ClaimCode;
use coupon_domain::view_sync::{Reply, Step, ViewWatermark};
use infrastructure_redis::ViewWrite;
use infrastructure_redis::maintenance::DumpedValue;
use redis::AsyncCommands;

use crate::installation::{Installation, OPEN_MS, answer, claim, counts, now, reflects};

#[tokio::test]
async fn claims_and_watermark_are_written_together_or_not_at_all() {
    let view = Installation::new();
    let coupon = counts();
    let (ann, bob) = (claim(&coupon, 1), claim(&coupon, 2));
    let granted = answer(ann, ClaimCode::Granted, 7);
    assert_eq!(view.write(coupon, None, 8, &[granted]).await, Reply::Written);
    let seen = view.reader.prefilter(&[ann, bob]).await.unwrap();
    assert_eq!(
        (seen.answers, seen.watermark, seen.round),
        (vec![granted], Some(reflects(8)), Some(coupon.round))
    );

    // Another watermark than the one expected: somebody else was here, or an older copy is back.
    let sold_out = answer(bob, ClaimCode::SoldOut, 9);
    assert_eq!(view.write(coupon, Some(7), 10, &[sold_out]).await, Reply::Found(Some(reflects(8))));
    assert_eq!(view.reader.claim(&bob).await.unwrap(), None);
    assert_eq!(view.maintenance.watermark(coupon.coupon_id).await.unwrap(), Some(reflects(8)));
    assert_eq!(view.write(coupon, Some(8), 10, &[sold_out]).await, Reply::Written);
    assert_eq!(view.reader.claim(&bob).await.unwrap(), Some(sold_out));

    // A flush: nothing is there, and nothing is written into the gap.
    assert!(view.maintenance.has_view(coupon.coupon_id).await.unwrap());
    assert_eq!(view.maintenance.forget(coupon.coupon_id).await.unwrap(), 2);
    assert!(!view.maintenance.has_view(coupon.coupon_id).await.unwrap());
    assert_eq!(view.write(coupon, Some(10), 11, &[sold_out]).await, Reply::Found(None));
    assert_eq!(view.reader.claim(&bob).await.unwrap(), None);
}

#[tokio::test]
async fn a_deferral_never_stands_over_what_is_newer_or_final() {
    let view = Installation::new();
    let coupon = counts();
    let ann = claim(&coupon, 1);
    let seen = async || view.reader.claim(&ann).await.unwrap();
    let write = async |at, leaves, code, decided| {
        let reply = view.write(coupon, at, leaves, &[answer(ann, code, decided)]).await;
        assert_eq!(reply, Reply::Written);
    };
    write(None, 10, ClaimCode::Paused, 9).await;
    write(Some(10), 11, ClaimCode::NotOpen, 3).await;
    assert_eq!(seen().await, Some(answer(ann, ClaimCode::Paused, 9)), "an older one comes late");
    write(Some(11), 12, ClaimCode::Paused, 11).await;
    assert_eq!(seen().await, Some(answer(ann, ClaimCode::Paused, 11)));
    write(Some(12), 13, ClaimCode::Granted, 12).await;
    write(Some(13), 14, ClaimCode::Paused, 13).await;
    assert_eq!(seen().await, Some(answer(ann, ClaimCode::Granted, 12)));
}

#[tokio::test]
async fn a_hash_never_outlives_the_claims_that_it_vouches_for() {
    let view = Installation::new();
    let coupon = counts();
    let (early, late, deferred) = (claim(&coupon, 1), claim(&coupon, 2), claim(&coupon, 3));
    view.write(coupon, None, 5, &[answer(early, ClaimCode::Granted, 4)]).await;
    let later = [answer(late, ClaimCode::Granted, 8), answer(deferred, ClaimCode::Paused, 9)];
    view.write(coupon, Some(5), 10, &later).await;
    view.write(coupon, Some(10), 11, &[]).await;

    let mut redis = view.raw().await;
    let expires_at = view.writer.expires_at(coupon.closes_at).ms();
    assert_eq!(expires_at, coupon.closes_at.ms() + 60_000);
    let mut finals = 0;
    let keys: Vec<String> = redis.keys(view.key("*")).await.unwrap();
    assert_eq!(keys.len(), 4);
    for key in keys {
        let at: i64 = redis::cmd("PEXPIRETIME").arg(&key).query_async(&mut redis).await.unwrap();
        if at == expires_at {
            finals += 1;
        } else {
            assert!(key.ends_with(&"03".repeat(16)), "{key} expires at {at}");
            assert!(at - now().ms() <= 60_000, "a deferral stays a minute");
        }
    }
    assert_eq!(finals, 3, "the hash and both grants");

    // Past that moment nothing that is written stays: a view does not come back in part.
    let over = infrastructure_redis::CouponCounts { closes_at: now().plus_ms(-OPEN_MS), ..counts() };
    let old = claim(&over, 1);
    assert_eq!(view.write(over, None, 5, &[answer(old, ClaimCode::Granted, 4)]).await, Reply::Written);
    assert_eq!(view.reader.claim(&old).await.unwrap(), None);
    assert_eq!(view.maintenance.watermark(over.coupon_id).await.unwrap(), None);
}

#[tokio::test]
async fn counts_stand_only_where_they_belong_to_the_watermark() {
    let view = Installation::new();
    let coupon = counts();
    let fields = async || {
        let mut found = BTreeMap::new();
        view.maintenance
            .dump(|key, value| {
                assert!(key.contains(&coupon.coupon_id.to_string()), "{key}");
                if let DumpedValue::Fields(fields) = value {
                    found = fields;
                }
            })
            .await
            .unwrap();
        found.into_iter().map(|(field, value)| format!("{field}={value}")).collect::<Vec<_>>().join(" ")
    };
    view.write(coupon, None, 5, &[]).await;
    assert_eq!(fields().await, "remaining=5 round=2 status=active watermark=5");
    let halfway = Step { expects: Some(reflects(5)), leaves: reflects(6), from_rank: 0, to_rank: 0 };
    let write = ViewWrite { step: halfway, counts: coupon, counts_hold: false, answers: &[] };
    assert_eq!(view.writer.write(&write).await, Reply::Written);
    assert_eq!(fields().await, "watermark=6");
    let marker = ViewWatermark::Pushing { push_id: 7, chunks: 0 };
    let push = Step { expects: None, leaves: marker, ..halfway };
    assert_eq!(view.writer.write(&ViewWrite { step: push, ..write }).await, Reply::Written);
    assert_eq!(view.maintenance.watermark(coupon.coupon_id).await.unwrap(), Some(marker));
}

#[tokio::test]
async fn forgetting_a_coupon_leaves_all_others() {
    let view = Installation::new();
    let (gone, stays) = (counts(), counts());
    let many: Vec<_> =
        (0..200).map(|number| answer(claim(&gone, number), ClaimCode::SoldOut, number.into())).collect();
    view.write(gone, None, 300, &many).await;
    let ann = claim(&stays, 1);
    view.write(stays, None, 5, &[answer(ann, ClaimCode::Granted, 4)]).await;
    assert_eq!(view.maintenance.forget(gone.coupon_id).await.unwrap(), 200);
    assert_eq!(view.maintenance.forget(gone.coupon_id).await.unwrap(), 0);
    assert_eq!(view.reader.claim(&claim(&gone, 7)).await.unwrap(), None);
    assert_eq!(view.reader.claim(&ann).await.unwrap(), Some(answer(ann, ClaimCode::Granted, 4)));
}

#[tokio::test]
async fn what_somebody_else_wrote_is_as_good_as_absent() {
    let view = Installation::new();
    let coupon = counts();
    let ann = claim(&coupon, 1);
    let mut redis = view.raw().await;
    let rest = ann.to_string().split_once('.').unwrap().1.to_owned();
    let _: () =
        redis.set(view.key(&format!("claim:{{{}}}:{rest}", coupon.coupon_id)), "nonsense").await.unwrap();
    let _: () =
        redis.hset(view.key(&format!("coupon:{{{}}}", coupon.coupon_id)), "watermark", "soon").await.unwrap();
    assert_eq!(view.reader.claim(&ann).await.unwrap(), None);
    let seen = view.reader.prefilter(&[ann]).await.unwrap();
    assert_eq!((seen.answers, seen.watermark, seen.round), (vec![], None, None));
}
