//! What one script writes, and what it leaves alone.

use std::collections::BTreeMap;

use coupon_domain::view_buckets::bucket_of;
use coupon_domain::view_sync::{
    Bulk, Durable, PushId, Reply, Standing, Step, StepLimits, ViewSync, ViewWatermark,
};
use coupon_domain::{ClaimCode, ClaimId, Offset};
use infrastructure_redis::maintenance::DumpedValue;
use infrastructure_redis::{Asks, CouponCounts, FoundAnswer, ViewWrite};
use redis::AsyncCommands;

use crate::installation::{
    Installation, OPEN_MS, PUSH, answer, claim, counts, found, now, reflects, step, written,
};

#[tokio::test]
async fn claims_and_watermark_are_written_together_or_not_at_all() {
    let view = Installation::new();
    let coupon = counts();
    let (ann, bob) = (claim(&coupon, 1), claim(&coupon, 2));
    let granted = answer(ann, ClaimCode::Granted, 7);
    assert_eq!(view.write(coupon, None, 8, &[granted]).await, written());
    let seen = view.reader.prefilter(&[ann, bob], Asks::WatermarkAndAnswers).await.unwrap();
    assert_eq!(
        (seen.answers, seen.watermark, seen.round),
        (vec![granted], Some(reflects(8)), Some(coupon.round))
    );

    // Another watermark than the one expected: somebody else was here, or an older copy is back.
    let sold_out = answer(bob, ClaimCode::SoldOut, 9);
    assert_eq!(view.write(coupon, Some(7), 10, &[sold_out]).await, found(8));
    assert_eq!(view.reader.claim(&bob).await.unwrap(), None);
    assert_eq!(view.maintenance.watermark(coupon.coupon_id).await.unwrap(), Some(reflects(8)));
    assert_eq!(view.write(coupon, Some(8), 10, &[sold_out]).await, written());
    assert_eq!(view.reader.claim(&bob).await.unwrap(), Some(sold_out));

    // A flush: nothing is there, and nothing is written into the gap.
    assert!(view.maintenance.has_view(coupon.coupon_id).await.unwrap());
    assert_eq!(view.maintenance.forget(coupon.coupon_id).await.unwrap(), 1);
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
        assert_eq!(reply, written());
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
async fn everything_of_a_view_expires_together() {
    let view = Installation::new();
    let coupon = counts();
    let (early, late, deferred) = (claim(&coupon, 1), claim(&coupon, 2), claim(&coupon, 3));
    view.write(coupon, None, 5, &[answer(early, ClaimCode::Granted, 4)]).await;
    let later = [answer(late, ClaimCode::Granted, 8), answer(deferred, ClaimCode::Paused, 9)];
    let grows = Step { buckets: 1..3, ..step(Some(5), 10) };
    assert_eq!(view.run(coupon, &grows, &later).await, written());
    let mut redis = view.raw().await;
    let expiries = async |redis: &mut redis::aio::MultiplexedConnection| {
        let keys: Vec<String> = redis.keys(view.key("*")).await.unwrap();
        assert_eq!(keys.len(), 4, "the hash and three buckets");
        let mut found = std::collections::BTreeSet::new();
        for key in keys {
            let at: i64 = redis::cmd("PEXPIRETIME").arg(&key).query_async(redis).await.unwrap();
            found.insert(at - coupon.closes_at.ms());
        }
        found.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(view.writer.expires_at(coupon.closes_at).ms(), coupon.closes_at.ms() + 60_000);
    assert_eq!(expiries(&mut redis).await, [60_000]);
    // The window ends later: a look at the buckets takes them along.
    let longer = CouponCounts { closes_at: coupon.closes_at.plus_ms(1_000), ..coupon };
    let looks = Step { buckets: 3..3, looks_at: 0..3, ..step(Some(10), 10) };
    assert_eq!(view.run(longer, &looks, &[]).await, written());
    assert_eq!(expiries(&mut redis).await, [61_000]);

    // Past that moment nothing that is written stays: a view does not come back in part.
    let over = CouponCounts { closes_at: now().plus_ms(-OPEN_MS), ..counts() };
    let old = claim(&over, 1);
    view.write(over, None, 5, &[answer(old, ClaimCode::Granted, 4)]).await;
    assert_eq!(view.reader.claim(&old).await.unwrap(), None);
    assert_eq!(view.maintenance.watermark(over.coupon_id).await.unwrap(), None);
}

#[tokio::test]
async fn a_growing_view_keeps_every_answer_where_readers_look() {
    let view = Installation::new();
    let coupon = counts();
    let answers: Vec<_> = (0..200u8)
        .map(|number| {
            let claim_id = ClaimId { mac: [number.wrapping_mul(167); 16], ..claim(&coupon, 0) };
            answer(claim_id, ClaimCode::SoldOut, number.into())
        })
        .collect();
    let all: Vec<_> = answers.iter().map(|answer| answer.claim_id).collect();
    view.write(coupon, None, 10, &answers[..40]).await;
    for (grown, some) in (2..).zip(answers[40..].chunks(20)) {
        let at = i64::from(grown) + 8;
        let grows = Step { buckets: grown - 1..grown, ..step(Some(at), at + 1) };
        assert_eq!(view.run(coupon, &grows, some).await, written());
        let written = &answers[..40 + 20 * usize::try_from(grown - 1).unwrap()];
        // The first look is by the shape before.
        let asks = [Asks::WatermarkAndAnswers, Asks::Answers][usize::try_from(grown % 2).unwrap()];
        let seen = view.reader.prefilter(&all, asks).await.unwrap();
        assert_eq!((seen.answers, seen.is_whole), (written.to_vec(), true));
        for rest in all[written.len()..].chunks(50) {
            let seen = view.reader.prefilter(rest, Asks::WatermarkAndAnswers).await.unwrap();
            assert_eq!((seen.answers, seen.is_whole), (vec![], true));
        }
    }
    let mut found = Vec::new();
    let each = |answer| match answer {
        FoundAnswer::Read(_, answer) => found.push(answer.decided_offset.number()),
        FoundAnswer::Unreadable(place) => panic!("{place}"),
    };
    view.maintenance.answers(&[coupon.coupon_id], each).await.unwrap();
    found.sort_unstable();
    assert_eq!(found, (0..200).collect::<Vec<_>>());

    // Under a reader that knows it as it was, it is pushed anew: in fewer buckets, under another id, and goes altogether.
    let anew = Step { push_id: PushId(0xdef), buckets: 2..2, lays: vec![0, 1], ..step(None, 30) };
    assert_eq!(view.run(coupon, &anew, &answers[..9]).await, written());
    let seen = view.reader.prefilter(&all, Asks::WatermarkAndAnswers).await.unwrap();
    assert_eq!(
        (seen.answers, seen.is_whole, seen.watermark),
        (answers[..9].to_vec(), true, Some(reflects(30)))
    );
    view.maintenance.forget(coupon.coupon_id).await.unwrap();
    let seen = view.reader.prefilter(&all, Asks::WatermarkAndAnswers).await.unwrap();
    assert_eq!((seen.answers, seen.is_whole, seen.watermark), (vec![], false, None));
}

/// Thousands of claims in the order of their buckets: all are where readers look, and the watermark covers none of them before the last is there.
#[tokio::test]
async fn a_view_far_behind_is_brought_up_in_bulk() {
    let view = Installation::new();
    let coupon = counts();
    let answers: Vec<_> = (0..3_000u32)
        .map(|number| {
            let mac =
                u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes();
            answer(ClaimId { mac, ..claim(&coupon, 0) }, ClaimCode::SoldOut, number.into())
        })
        .collect();
    let all: Vec<_> = answers.iter().map(|answer| answer.claim_id).collect();
    let at = |rank: u32| Durable { next_src: Offset::new(rank.into()).unwrap(), settled: rank, ahead: 0 };
    let limits = StepLimits { claims: 400, looked_at: 0, bulk: 2_000 };
    let (mut sync, mut bulks, mut id) = (ViewSync::lost(), 0, 0);
    for durable in [at(40), at(3_000)] {
        while !sync.is_current(durable) {
            id += 1;
            let step = sync.next_step(durable, limits, PushId(id), |rank| at(rank).next_src);
            let settled = usize::try_from(step.from_rank).unwrap()..usize::try_from(step.to_rank).unwrap();
            let mut written = answers[settled].to_vec();
            if let Some((bulk, part)) = &step.bulk {
                let from = usize::try_from(bulk.from_rank).unwrap();
                let to = usize::try_from(bulk.target.settled).unwrap();
                let mut sorted = answers[from..to].to_vec();
                sorted.sort_by_key(|answer| bucket_of(&answer.claim_id.mac, bulk.buckets));
                written =
                    sorted[usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap()].to_vec();
                bulks += u32::from(!written.is_empty());
            }
            let reply = view.run(coupon, &step, &written).await;
            assert_eq!(reply, Reply::Written(vec![]));
            sync.answered(&step, durable, &reply);
            let seen = view.reader.prefilter(&all[..40], Asks::WatermarkAndAnswers).await.unwrap();
            assert_eq!(seen.watermark, Some(step.leaves));
            if step.leaves.next_src() >= Some(at(40).next_src) {
                assert_eq!((seen.answers, seen.is_whole), (answers[..40].to_vec(), true), "{step:?}");
            }
        }
    }
    assert_eq!(bulks, 5 + 3, "two thousand, and what was left");
    let seen = view.reader.prefilter(&all, Asks::WatermarkAndAnswers).await.unwrap();
    assert_eq!((seen.answers, seen.is_whole, seen.watermark), (answers, true, Some(reflects(3_000))));
}

/// A bulk's claims are written whatever is found; a bucket that was not there is said to the writer, believed by nobody, and goes with the view.
#[tokio::test]
async fn a_bulk_heals_no_bucket_that_was_lost() {
    let view = Installation::new();
    let coupon = counts();
    let answers = [2, 3].map(|number| answer(claim(&coupon, number), ClaimCode::SoldOut, 6));
    let [ann, bob] = answers.map(|answer| answer.claim_id);
    let two = Step { buckets: 2..2, lays: vec![0, 1], ..step(None, 5) };
    assert_eq!(view.run(coupon, &two, &[]).await, written());
    let target = Durable { next_src: Offset::new(9).unwrap(), settled: 3, ahead: 0 };
    let bulk = Some((Bulk { from_rank: 0, target, buckets: 2 }, 0..2));
    let leaves = ViewWatermark::InBulk { next_src: Offset::new(5).unwrap(), step_id: PushId(1) };
    let of = async |claim_id| {
        let seen = view.reader.prefilter(&[claim_id], Asks::WatermarkAndAnswers).await.unwrap();
        (seen.answers, seen.is_whole, seen.watermark)
    };

    let mut redis = view.raw().await;
    let bucket = view.key(&format!("coupon:{{{}}}:0", coupon.coupon_id));
    let _: u64 = redis.unlink(&bucket).await.unwrap();
    let first = Step { leaves, bulk, buckets: 2..2, ..step(Some(5), 5) };
    assert_eq!(view.run(coupon, &first, &answers).await, Reply::Written(vec![0]));
    assert_eq!(of(ann).await, (vec![answers[0]], false, Some(leaves)));
    assert_eq!(of(bob).await, (vec![answers[1]], true, Some(leaves)));
    let at: i64 = redis.pexpire_time(&bucket).await.unwrap();
    assert_eq!(at, view.writer.expires_at(coupon.closes_at).ms());

    // Somebody else was here: the watermark stays, and what was written stays true.
    let last = [answer(claim(&coupon, 5), ClaimCode::SoldOut, 7)];
    assert_eq!(
        view.run(coupon, &first, &last).await,
        Reply::Found(Some(Standing { watermark: leaves, push_id: PUSH }))
    );
    assert_eq!(of(last[0].claim_id).await, (last.to_vec(), true, Some(leaves)));
}

/// What is lost takes its claim to completeness along, and is said to the writer.
#[tokio::test]
async fn absence_is_not_believed_of_a_bucket_that_was_lost() {
    let view = Installation::new();
    let coupon = counts();
    let ann = claim(&coupon, 2);
    let granted = answer(ann, ClaimCode::Granted, 4);
    let two = Step { buckets: 2..2, lays: vec![0, 1], ..step(None, 5) };
    assert_eq!(view.run(coupon, &two, &[granted]).await, written());
    let lost = |is_lost: bool, claim_id| {
        let view = &view;
        async move {
            let seen = view.reader.prefilter(&[claim_id], Asks::WatermarkAndAnswers).await.unwrap();
            assert_eq!((seen.watermark, seen.is_whole), (Some(reflects(5)), !is_lost));
            let denied = view.maintenance.denied(&[claim_id], Offset::new(5).unwrap()).await.unwrap();
            assert_eq!(denied, (!is_lost && seen.answers.is_empty()).then_some(claim_id));
        }
    };
    lost(false, ann).await;
    lost(false, claim(&coupon, 3)).await;
    let mut redis = view.raw().await;
    let bucket = view.key(&format!("coupon:{{{}}}:0", coupon.coupon_id));
    let _: u64 = redis.unlink(&bucket).await.unwrap();
    lost(true, ann).await;
    lost(false, claim(&coupon, 3)).await;

    // A bucket that somebody else made is no part of it, either; and nothing is written into a gap.
    let _: u64 = redis.hset(&bucket, "push.0000000000000bad", "").await.unwrap();
    lost(true, ann).await;
    let bob = answer(claim(&coupon, 4), ClaimCode::SoldOut, 4);
    let quiet = Step { buckets: 2..2, ..step(Some(5), 5) };
    assert_eq!(view.run(coupon, &quiet, &[bob]).await, Reply::Written(vec![0]));
    assert_eq!(view.reader.claim(&bob.claim_id).await.unwrap(), None);
    let looks = Step { looks_at: 0..2, ..quiet.clone() };
    assert_eq!(view.run(coupon, &looks, &[]).await, Reply::Written(vec![0]));
    // Nor is a bucket split off from it.
    let grows = Step { buckets: 2..3, ..quiet.clone() };
    assert_eq!(view.run(coupon, &grows, &[]).await, Reply::Written(vec![0, 2]));
    let mends = Step { buckets: 3..3, lays: vec![0, 2], ..quiet };
    assert_eq!(view.run(coupon, &mends, &[granted, bob]).await, written());
    lost(false, ann).await;
    assert_eq!(view.reader.claim(&ann).await.unwrap(), Some(granted));
    // Another push made the view: nothing is written for this one.
    let other = Step { push_id: PushId(7), ..mends };
    assert_eq!(view.run(coupon, &other, &[]).await, found(5));
}

#[tokio::test]
async fn a_crowd_of_deferrals_does_not_fill_a_bucket() {
    let view = Installation::new();
    let coupon = counts();
    let crowd: Vec<_> =
        (0..200).map(|number| answer(claim(&coupon, number), ClaimCode::NotOpen, number.into())).collect();
    assert_eq!(view.write(coupon, None, 300, &crowd).await, written());
    let mut redis = view.raw().await;
    let bucket = view.key(&format!("coupon:{{{}}}:0", coupon.coupon_id));
    let held: u64 = redis.hlen(&bucket).await.unwrap();
    assert_eq!(held, 64);
    // Finals are never left out.
    let sold_out: Vec<_> =
        (0..48).map(|number| answer(claim(&coupon, 250 - number), ClaimCode::SoldOut, 299)).collect();
    assert_eq!(view.write(coupon, Some(300), 301, &sold_out).await, written());
    assert_eq!(view.reader.claim(&sold_out[47].claim_id).await.unwrap(), Some(sold_out[47]));
    let packed: String =
        redis::cmd("OBJECT").arg("ENCODING").arg(&bucket).query_async(&mut redis).await.unwrap();
    assert_eq!(packed, "listpack");
}

#[tokio::test]
async fn the_policy_of_a_full_redis_is_told() {
    let view = Installation::new();
    assert_eq!(view.maintenance.eviction_policy().await.unwrap().as_deref(), Some("noeviction"));
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
    let push = "push=0000000000000abc";
    assert_eq!(fields().await, format!("buckets=1 {push} remaining=5 round=2 status=active watermark=5"));
    let halfway = step(Some(5), 6);
    let write = ViewWrite { step: &halfway, counts: coupon, counts_hold: false, answers: &[] };
    assert_eq!(view.write_step(&write).await, written());
    assert_eq!(fields().await, format!("buckets=1 {push} watermark=6"));
    let marker = ViewWatermark::Pushing { push_id: PUSH, chunks: 0 };
    let push = Step { expects: None, leaves: marker, ..halfway.clone() };
    assert_eq!(view.write_step(&ViewWrite { step: &push, ..write }).await, written());
    assert_eq!(view.maintenance.watermark(coupon.coupon_id).await.unwrap(), Some(marker));
}

#[tokio::test]
async fn forgetting_a_coupon_leaves_all_others() {
    let view = Installation::new();
    let (gone, stays) = (counts(), counts());
    let large = Step { buckets: 700..700, lays: (0..700).collect(), ..step(None, 300) };
    view.run(gone, &large, &[answer(claim(&gone, 7), ClaimCode::SoldOut, 7)]).await;
    let ann = claim(&stays, 1);
    view.write(stays, None, 5, &[answer(ann, ClaimCode::Granted, 4)]).await;
    assert_eq!(view.maintenance.forget(gone.coupon_id).await.unwrap(), 700);
    assert_eq!(view.maintenance.forget(gone.coupon_id).await.unwrap(), 0);
    assert_eq!(view.reader.claim(&claim(&gone, 7)).await.unwrap(), None);
    assert_eq!(view.reader.claim(&ann).await.unwrap(), Some(answer(ann, ClaimCode::Granted, 4)));
    let left: Vec<String> = view.raw().await.keys(view.key("*")).await.unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test]
async fn what_somebody_else_wrote_is_as_good_as_absent() {
    let view = Installation::new();
    let coupon = counts();
    let ann = claim(&coupon, 1);
    let mut redis = view.raw().await;
    let hash = view.key(&format!("coupon:{{{}}}", coupon.coupon_id));
    let _: () = redis.hset(&hash, "watermark", "soon").await.unwrap();
    assert_eq!(view.reader.claim(&ann).await.unwrap(), None);
    let seen = view.reader.prefilter(&[ann], Asks::WatermarkAndAnswers).await.unwrap();
    assert_eq!((seen.answers, seen.watermark, seen.round, seen.is_whole), (vec![], None, None, false));
    // In a bucket of ours.
    view.write(coupon, None, 5, &[]).await;
    let _: () = redis.hset(format!("{hash}:0"), &ann.mac[..], "nonsense").await.unwrap();
    let seen = view.reader.prefilter(&[ann], Asks::WatermarkAndAnswers).await.unwrap();
    assert_eq!((seen.answers, seen.is_whole), (vec![], false));
    let mut unreadable = 0;
    let each = |found| unreadable += u32::from(matches!(found, FoundAnswer::Unreadable(_)));
    view.maintenance.answers(&[coupon.coupon_id], each).await.unwrap();
    assert_eq!(unreadable, 1);
}
