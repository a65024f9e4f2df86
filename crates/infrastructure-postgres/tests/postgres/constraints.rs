//! The independent guard: what the log must never say is refused, and leaves nothing behind.

use coupon_domain::outcome::ClaimOutcome;
use coupon_domain::{ClaimCode, CommandKind, CouponId, CouponStatus, Partition};
use infrastructure_postgres::PostgresError;
use infrastructure_postgres::batch::{Move, Written};
use uuid::Uuid;

use crate::database::Database;
use crate::shop::Shop;

/// A shop that has granted ann one of her two.
async fn shop(database: &Database, quantity: u64) -> Shop {
    let mut shop = Shop::open(database, 4, quantity, 2).await;
    shop.write(&[shop.granted("ann", 1, 1, 1)]).await.unwrap();
    shop
}

/// The batch is refused by this constraint, nothing of it is left behind, and the next batch is welcome.
async fn refuses(database: &Database, shop: &mut Shop, claims: &[ClaimOutcome], expected: &str) {
    let before = database.contents();
    let refused = shop.write(claims).await;
    assert_refused(refused, expected);
    assert_eq!(database.contents(), before, "{expected}");
    let written = shop.write(&[shop.deferred("eve", 1, ClaimCode::NotOpen)]).await.unwrap();
    assert!(matches!(written, Written::Committed { .. }), "{expected}");
}

fn assert_refused(result: Result<Written, PostgresError>, expected: &str) {
    match result {
        Err(PostgresError::Constraint { constraint, .. }) => assert_eq!(constraint, expected),
        other => panic!("{expected} did not refuse: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_there_are_cannot_be_issued() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 2).await;
    let one_too_many = [shop.granted("bob", 1, 2, 1), shop.granted("cid", 1, 3, 1)];
    refuses(&database, &mut shop, &one_too_many, "coupons_issued_within_quantity").await;
    // The last one is not one too many.
    shop.write(&one_too_many[..1]).await.unwrap();
    refuses(&database, &mut shop, &one_too_many[1..], "coupons_issued_within_quantity").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_has_one_final_outcome() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    let second = shop.answered("ann", 1, ClaimCode::SoldOut, 2);
    refuses(&database, &mut shop, &[second], "claims_one_final_outcome").await;
    let twice = shop.answered("bob", 1, ClaimCode::Closed, 2);
    refuses(&database, &mut shop, &[twice.clone(), twice], "claims_one_final_outcome").await;
    // Any number of deferrals before it, which is what pressing again too early makes.
    let deferred = shop.deferred("cid", 1, ClaimCode::NotOpen);
    shop.write(&[deferred.clone(), deferred, shop.granted("cid", 1, 2, 1)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_granted_once() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    // With a row of its own in `claims` it would break the rule above; here only the coupon is issued again.
    let again = ClaimOutcome { is_final: false, rank: None, ..shop.granted("ann", 1, 2, 2) };
    refuses(&database, &mut shop, &[again], "issued_coupons_pkey").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_one_coupon_per_slot() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    // Another round makes another claim of the same slot.
    let mut other_round = shop.granted("ann", 1, 2, 2);
    other_round.claim_id.mac = [9; 16];
    refuses(&database, &mut shop, &[other_round], "issued_coupons_user_slot").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_grants_are_counted_without_repeats_and_within_the_limit() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    let (first_again, second) = (shop.granted("ann", 2, 2, 1), shop.granted("ann", 2, 2, 2));
    let third = shop.granted("ann", 3, 3, 3);
    refuses(&database, &mut shop, &[first_again], "issued_coupons_user_nth").await;
    shop.write(&[second]).await.unwrap();
    refuses(&database, &mut shop, &[third], "issued_coupons_within_user_limit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_issue_number_is_given_twice() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    let same_number = shop.granted("bob", 1, 1, 1);
    refuses(&database, &mut shop, &[same_number], "issued_coupons_issue_no").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_the_line_has_one_answer() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    let (bob, cid) = (shop.deferred("bob", 1, ClaimCode::Paused), shop.deferred("cid", 1, ClaimCode::Paused));
    shop.write(&[bob]).await.unwrap();
    // A watermark that was put back by hand, behind the rows.
    let here = shop.watermark;
    shop.watermark.next_src = here.next_src.previous().unwrap();
    database.sql("UPDATE partition_progress SET next_src = next_src - 1");
    refuses_once(&database, &mut shop, &[cid], "claims_pkey").await;
}

async fn refuses_once(database: &Database, shop: &mut Shop, claims: &[ClaimOutcome], expected: &str) {
    let before = database.contents();
    assert_refused(shop.write(claims).await, expected);
    assert_eq!(database.contents(), before, "{expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_needs_a_coupon_that_is_there_and_not_retired() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    let mut unknown = shop.granted("bob", 1, 1, 1);
    unknown.claim_id.coupon_id = CouponId::new(Partition::new(4).unwrap(), Uuid::from_u128(999));
    let known = shop.granted("cid", 1, 2, 1);
    refuses(&database, &mut shop, &[known.clone(), unknown], "coupons_counted").await;

    shop.state.status = CouponStatus::Retired;
    shop.state.version = 2;
    let retire = shop.command(CommandKind::Retire, 1);
    shop.write_command(&retire).await.unwrap();
    refuses(&database, &mut shop, &[known], "coupons_counted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_must_find_the_coupon_as_the_log_says() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    let before = database.contents();
    let pause = shop.command(CommandKind::Pause, 1);
    let (issued, coupon_id) = (shop.state.issued, shop.coupon_id);
    for wrong in [0, issued + 1] {
        shop.state.issued = wrong;
        assert_refused(shop.write_command(&pause).await, "coupon_as_the_log_says");
    }
    shop.state.issued = issued;
    shop.state.coupon_id = CouponId::new(coupon_id.partition(), Uuid::from_u128(999));
    assert_refused(shop.write_command(&pause).await, "coupon_as_the_log_says");
    shop.state.coupon_id = coupon_id;
    assert_eq!(database.contents(), before);
    shop.write_command(&pause).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_is_published_once_and_a_command_is_answered_once() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    let before = database.contents();
    let publish = shop.command(CommandKind::Publish, 5);
    assert_refused(shop.write_command(&publish).await, "coupons_pkey");
    let first_command = shop.command(CommandKind::Pause, 0);
    assert_refused(shop.write_command(&first_command).await, "commands_one_answer");
    assert_eq!(database.contents(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restock_cannot_take_back_what_is_granted() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    shop.write(&[shop.granted("bob", 1, 2, 1)]).await.unwrap();
    let before = database.contents();
    shop.state.quantity = 1;
    let restock = shop.command(CommandKind::Restock, 1);
    assert_refused(shop.write_command(&restock).await, "coupons_issued_within_quantity");
    assert_eq!(database.contents(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_and_offsets_out_of_range_are_refused() {
    let database = Database::migrated().await;
    let mut shop = shop(&database, 9).await;
    let partition = Partition::new(4).unwrap();
    let (before, pool) = (database.contents(), database.pool());
    for (change, constraint) in [
        ("next_src = -1", "partition_progress_next_src_check"),
        ("next_outcome_offset = -1", "partition_progress_next_outcome_offset_check"),
        ("chain = 'short'", "partition_progress_chain_check"),
        ("beat = -1", "partition_progress_beat_check"),
        ("partition = 10000", "partition_progress_partition_check"),
    ] {
        let refused = pool.run(async |connection| {
            crate::database::execute(connection, &format!("UPDATE partition_progress SET {change}")).await
        });
        match refused.await {
            Err(PostgresError::Constraint { constraint: found, .. }) => assert_eq!(found, constraint),
            other => panic!("{change}: {other:?}"),
        }
    }
    assert_eq!(database.contents(), before);
    let step = Move { partition, ..shop.step(0) };
    let rows = infrastructure_postgres::batch::OutcomeRows::default();
    infrastructure_postgres::batch::write_outcomes(&mut shop.connection, &step, &rows).await.unwrap();
}
