//! What became of a claim.

use coupon_domain::outcome::{ClaimOutcome, Outcome, Subject};
use coupon_domain::{
    Chain, ClaimAnswer, ClaimCode, ClaimId, CommandKind, CouponId, CouponStatus, Offset, Partition,
};
use infrastructure_postgres::look_up::{self, IssuedCoupon, LookedUp};
use uuid::Uuid;

use crate::database::Database;
use crate::shop::{EXPIRES_AT_MS, Shop, at, offset};

async fn look_up(database: &Database, claim_id: ClaimId) -> LookedUp {
    database.pool().run(async |connection| look_up::claim(connection, &claim_id, None).await).await.unwrap()
}

/// The answer that was given at `src_offset`.
fn answer(src_offset: i64, claim: &ClaimOutcome) -> Option<ClaimAnswer> {
    ClaimAnswer::of(&Outcome {
        src_offset: offset(src_offset),
        appended_at: at(src_offset * 1_000),
        decided_offset: offset(src_offset),
        rules: 1,
        remaining: None,
        subject: Subject::Claim(claim.clone()),
        chain: Chain::from_bytes([0; 32]),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_deferral_is_the_answer_until_there_is_a_final_one() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 2, 9, 1).await;
    let claim_id = shop.claim_id("ann", 0);
    let expect = |next: i64, answer, issued| LookedUp {
        next_outcome_offset: offset(next),
        next_src: offset(next),
        answer,
        issued,
        parked: None,
        retired: false,
        forgets_already_issued: true,
        winner: None,
    };
    assert_eq!(look_up(&database, claim_id).await, expect(1, None, None));

    let early = shop.deferred("ann", 0, ClaimCode::NotOpen);
    let paused = shop.deferred("ann", 0, ClaimCode::Paused);
    shop.write(std::slice::from_ref(&early)).await.unwrap();
    assert_eq!(look_up(&database, claim_id).await, expect(2, answer(1, &early), None));
    shop.write(&[early.clone(), paused.clone()]).await.unwrap();
    assert_eq!(look_up(&database, claim_id).await, expect(4, answer(3, &paused), None));

    let granted = shop.granted("ann", 0, 1, 1);
    let issued = IssuedCoupon { code: "CODE-1".to_owned(), expires_at: Some(at(EXPIRES_AT_MS)) };
    // Whatever order they come in: a zombie's copies stand anywhere, and the final answer stays.
    shop.write(&[granted.clone(), early, paused]).await.unwrap();
    assert_eq!(look_up(&database, claim_id).await, expect(7, answer(4, &granted), Some(issued)));
    assert_eq!(look_up(&database, shop.claim_id("bob", 0)).await, expect(7, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_names_the_winner_and_has_no_coupon() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 2, 9, 1).await;
    let rejected = ClaimOutcome {
        granted_claim_id: Some(shop.claim_id("ann", u64::MAX)),
        ..shop.answered("ann", 0, ClaimCode::AlreadyIssued, 2)
    };
    shop.write(&[shop.granted("ann", u64::MAX, 1, 1), rejected.clone()]).await.unwrap();
    let found = look_up(&database, rejected.claim_id).await;
    assert_eq!((found.answer, found.issued), (answer(2, &rejected), None));
}

/// Nothing is written of such a refusal, so what the user holds is all that speaks of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_grant_that_stands_in_the_way_of_the_user_who_asks_is_named() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 2, 9, 2).await;
    let (ann, bob) = ("ann".parse().unwrap(), "bob".parse().unwrap());
    let winner = async |shop: &Shop, user, slot| {
        let (pool, claim_id) = (database.pool(), shop.claim_id("ann", slot));
        pool.run(async |connection| look_up::claim(connection, &claim_id, user).await).await.unwrap().winner
    };
    shop.write(&[shop.granted("ann", 7, 1, 1)]).await.unwrap();
    let first = Some(shop.claim_id("ann", 7));
    assert_eq!(winner(&shop, Some(&ann), 8).await, None, "one more may be had");
    assert_eq!(winner(&shop, Some(&ann), 7).await, first, "the same slot, in whatever round");
    shop.write(&[shop.granted("ann", u64::MAX, 2, 2)]).await.unwrap();
    assert_eq!(winner(&shop, Some(&ann), 8).await, first, "the first of as many as may be had");
    assert_eq!(winner(&shop, Some(&ann), u64::MAX).await, Some(shop.claim_id("ann", u64::MAX)));
    assert_eq!(winner(&shop, Some(&bob), 8).await, None);
    assert_eq!(winner(&shop, None, 8).await, None, "nobody was named");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_that_is_retired_says_so_and_keeps_its_answers() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 2, 9, 1).await;
    shop.write(&[shop.granted("ann", 0, 1, 1)]).await.unwrap();
    shop.state.status = CouponStatus::Retired;
    let retire = shop.command(CommandKind::Retire, 1);
    shop.write_command(&retire).await.unwrap();
    let winner = look_up(&database, shop.claim_id("ann", 0)).await;
    assert!(winner.retired && winner.answer.is_some() && winner.issued.is_some());
    let nobody = look_up(&database, shop.claim_id("bob", 0)).await;
    assert_eq!((nobody.retired, nobody.answer, nobody.issued), (true, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_record_could_not_be_read_is_parked_there() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 2, 9, 1).await;
    let claim_id = shop.claim_id("ann", 0);
    for place in 1..=2 {
        shop.park(claim_id).await.unwrap();
        let found = look_up(&database, claim_id).await;
        assert_eq!((found.parked, found.answer), (Some(offset(place)), None));
    }
    shop.write(&[shop.granted("ann", 0, 1, 1)]).await.unwrap();
    let found = look_up(&database, claim_id).await;
    assert_eq!((found.parked, found.answer.is_some()), (Some(offset(2)), true));
    assert_eq!(look_up(&database, shop.claim_id("bob", 0)).await.parked, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_partition_nobody_has_heard_of_has_no_answer_up_to_the_beginning() {
    let database = Database::migrated().await;
    let coupon_id = CouponId::new(Partition::new(8_000).unwrap(), Uuid::from_u128(8_000));
    let shop = Shop::open(&database, 1, 1, 1).await;
    let claim_id = ClaimId { coupon_id, ..shop.claim_id("ann", 0) };
    let nothing = LookedUp {
        next_outcome_offset: Offset::ZERO,
        next_src: Offset::ZERO,
        answer: None,
        issued: None,
        parked: None,
        retired: false,
        forgets_already_issued: false,
        winner: None,
    };
    assert_eq!(look_up(&database, claim_id).await, nothing);
}

/// One statement sees one moment: whatever is written meanwhile, an answer that lies below the watermark told is never missing.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_below_the_watermark_told_with_it_is_never_missing() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 2, 1_000, 1).await;
    let users: Vec<String> = (1..=200).map(|number| format!("user-{number}")).collect();
    let claim_ids: Vec<ClaimId> = users.iter().map(|user| shop.claim_id(user, 0)).collect();
    let writing = async {
        for (issue_no, user) in (1..).zip(&users) {
            shop.write(&[shop.granted(user, 0, issue_no, 1)]).await.unwrap();
        }
    };
    let pool = database.pool();
    let looking = async {
        for (src_offset, claim_id) in (1..).zip(&claim_ids) {
            loop {
                let found = pool
                    .run(async |connection| look_up::claim(connection, claim_id, None).await)
                    .await
                    .unwrap();
                let promised = found.next_outcome_offset > offset(src_offset);
                assert_eq!(found.answer.is_some(), promised, "{found:?} at {src_offset}");
                if promised {
                    break;
                }
            }
        }
    };
    tokio::join!(writing, looking);
}
