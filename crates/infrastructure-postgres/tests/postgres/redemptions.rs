//! ONCE-USED and OWN-ONLY: an issued coupon is redeemed at most once, by its owner, in time.

use coupon_domain::ClaimId;
use coupon_domain::limits::{IDEMPOTENCY_KEY_CHARS_MAX, ORDER_REF_BYTES_MAX};
use infrastructure_postgres::closures;
use infrastructure_postgres::redemptions::{Redeemed, Redemption, redeem};
use infrastructure_postgres::wallet::{HeldCoupon, Standing};
use infrastructure_postgres::{Pool, PostgresSection};
use tokio::task::JoinSet;

use crate::database::Database;
use crate::shop::{EXPIRES_AT_MS, Shop, at};

/// A shop in which ann and bob hold one coupon each that never expires.
async fn shop(database: &Database) -> Shop {
    let mut shop = Shop::open(database, 3, 9, 1).await;
    shop.write(&[shop.granted("ann", 0, 1, 1), shop.granted("bob", 0, 2, 1)]).await.unwrap();
    database.sql("UPDATE issued_coupons SET expires_at = NULL");
    shop
}

fn wish(claim_id: ClaimId, user: &str, key: &str, order: &str) -> Redemption {
    Redemption {
        claim_id,
        user_id: user.parse().unwrap(),
        idempotency_key: key.parse().unwrap(),
        order_ref: order.parse().unwrap(),
    }
}

async fn ask(pool: &Pool, wish: &Redemption) -> Redeemed {
    pool.run(async |connection| redeem(connection, wish).await).await.unwrap()
}

fn now(redeemed: Redeemed) -> HeldCoupon {
    match redeemed {
        Redeemed::Now(held) => held,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_is_used_once_and_the_same_request_hears_the_same_again() {
    let database = Database::migrated().await;
    let shop = shop(&database).await;
    let pool = database.pool();
    let first = wish(shop.claim_id("ann", 0), "ann", "till-1", "order-1");
    let held = now(ask(&pool, &first).await);
    assert_eq!(held.claim_id, first.claim_id);
    assert_eq!((held.code.as_str(), held.issue_no, held.standing), ("CODE-1", 1, Standing::Used));
    assert_eq!(held.used.as_ref().map(|(_, order_ref)| order_ref), Some(&first.order_ref));

    assert_eq!(ask(&pool, &first).await, Redeemed::Before(held));
    let other_body = wish(first.claim_id, "ann", "till-1", "order-2");
    assert_eq!(ask(&pool, &other_body).await, Redeemed::KeyReused);
    let other_key = wish(first.claim_id, "ann", "till-2", "order-1");
    assert_eq!(ask(&pool, &other_key).await, Redeemed::AlreadyUsed);

    let written = "SELECT redeemed_by, r.order_ref, idempotency_key, redeemed_at = used_at, i.order_ref = r.order_ref \
        FROM redemptions r JOIN issued_coupons i USING (claim_mac, coupon_id)";
    assert_eq!(database.sql(written), "ann|order-1|till-1|t|t");
    // A key names a request about one coupon: bob's is another.
    now(ask(&pool, &wish(shop.claim_id("bob", 0), "bob", "till-1", "order-1")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_at_once_one_succeeds() {
    let database = Database::migrated().await;
    let shop = shop(&database).await;
    let section = PostgresSection { pool_size_max: 20, ..database.section.clone() };
    let pool = Pool::new(&section).unwrap();
    let (claim_id, mut requests) = (shop.claim_id("ann", 0), JoinSet::new());
    for number in 0..100 {
        let pool = pool.clone();
        // Ten requests, each sent ten times.
        let wish = wish(claim_id, "ann", &format!("key-{}", number % 10), &format!("order-{}", number % 10));
        requests.spawn(async move { ask(&pool, &wish).await });
    }
    let answers = requests.join_all().await;
    let count = |wanted: fn(&Redeemed) -> bool| answers.iter().filter(|answer| wanted(answer)).count();
    assert_eq!(count(|answer| matches!(answer, Redeemed::Now(_))), 1, "{answers:?}");
    assert_eq!(count(|answer| matches!(answer, Redeemed::Before(_))), 9, "{answers:?}");
    assert_eq!(count(|answer| *answer == Redeemed::AlreadyUsed), 90, "{answers:?}");
    assert_eq!(database.count("redemptions"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_expired_cannot_be_used_and_what_was_used_in_time_stays_used() {
    let database = Database::migrated().await;
    let shop = shop(&database).await;
    let pool = database.pool();
    let used = wish(shop.claim_id("bob", 0), "bob", "in-time", "order-1");
    let held = now(ask(&pool, &used).await);
    database.sql(&format!("UPDATE issued_coupons SET expires_at = to_timestamp({EXPIRES_AT_MS} / 1000.0)"));
    let late = wish(shop.claim_id("ann", 0), "ann", "late", "order-2");
    match ask(&pool, &late).await {
        Redeemed::Expired(held) => assert_eq!(held.expires_at, Some(at(EXPIRES_AT_MS))),
        other => panic!("{other:?}"),
    }
    let expired = HeldCoupon { expires_at: Some(at(EXPIRES_AT_MS)), ..held };
    assert_eq!(ask(&pool, &used).await, Redeemed::Before(expired));
    assert_eq!(database.count("redemptions"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_coupon_is_as_unknown_as_one_that_never_was() {
    let database = Database::migrated().await;
    let shop = shop(&database).await;
    let pool = database.pool();
    let claim_id = shop.claim_id("ann", 0);
    let never = shop.claim_id("nobody", 0);
    let misspelled = ClaimId { slot: coupon_domain::Slot(1), ..claim_id };
    for (claim_id, user) in [(claim_id, "bob"), (never, "nobody"), (misspelled, "ann")] {
        assert_eq!(ask(&pool, &wish(claim_id, user, "k", "order")).await, Redeemed::Unknown, "{user}");
    }
    // Also where ann has used hers.
    now(ask(&pool, &wish(claim_id, "ann", "k", "order")).await);
    assert_eq!(ask(&pool, &wish(claim_id, "bob", "k", "order")).await, Redeemed::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_closure_stands_nobody_redeems_anything() {
    let database = Database::migrated().await;
    let shop = shop(&database).await;
    let pool = database.pool();
    let used = wish(shop.claim_id("bob", 0), "bob", "k", "order-1");
    now(ask(&pool, &used).await);
    let close = pool.run(async |connection| closures::close(connection, "test", "restored", &[]).await);
    assert!(close.await.unwrap());
    // Rows may be missing for now: not even "unknown" is certain.
    for wish in [
        wish(shop.claim_id("ann", 0), "ann", "k", "order-2"),
        used,
        wish(shop.claim_id("eve", 0), "eve", "k", "o"),
    ] {
        match ask(&pool, &wish).await {
            Redeemed::Closed(closure) => assert_eq!(closure.reason, "restored"),
            other => panic!("{other:?}"),
        }
    }
    let reopened = pool.run(async |connection| closures::reopen(connection, "olive").await).await.unwrap();
    assert_eq!(reopened.unwrap().closed_by, "test");
    now(ask(&pool, &wish(shop.claim_id("ann", 0), "ann", "k", "order-2")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_an_order_reference_and_a_key_is_stored_as_it_is() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 3, 99, 99).await;
    let pool = database.pool();
    let longest = ("x".repeat(ORDER_REF_BYTES_MAX), "é".repeat(ORDER_REF_BYTES_MAX / 2));
    let texts =
        ["'", "\\", "$1", " ", "\u{fffe}\u{10ffff}", "a\u{202e}b", longest.0.as_str(), longest.1.as_str()];
    let longest_key = "~".repeat(IDEMPOTENCY_KEY_CHARS_MAX);
    for (number, text) in (1u16..).zip(texts) {
        let slot = u64::MAX - u64::from(number);
        shop.write(&[shop.granted("ann", slot, number.into(), number)]).await.unwrap();
        database.sql("UPDATE issued_coupons SET expires_at = NULL");
        let wish = wish(shop.claim_id("ann", slot), "ann", &longest_key, text);
        let held = now(ask(&pool, &wish).await);
        assert_eq!(held.used.as_ref().map(|(_, order_ref)| order_ref.as_str()), Some(text));
        assert_eq!(ask(&pool, &wish).await, Redeemed::Before(held));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_redemption_is_refused_by_the_tables_too() {
    let database = Database::migrated().await;
    let shop = shop(&database).await;
    now(ask(&database.pool(), &wish(shop.claim_id("ann", 0), "ann", "k", "order-1")).await);
    let again = "INSERT INTO redemptions SELECT claim_mac, coupon_id, now(), 'other', 'order-2', 'ann' FROM redemptions";
    let refused =
        database.pool().run(async |connection| crate::database::execute(connection, again).await).await;
    match refused {
        Err(infrastructure_postgres::PostgresError::Constraint { constraint, .. }) => {
            assert_eq!(constraint, "redemptions_once");
        }
        other => panic!("{other:?}"),
    }
}
