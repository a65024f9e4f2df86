//! Drafts: stored once, found again, listed in pages.

use coupon_domain::coupon::Window;
use coupon_domain::{CouponId, Expiry, Partition};
use infrastructure_postgres::drafts::{self, Draft, Inserted};
use infrastructure_postgres::{Pool, PostgresError};
use uuid::Uuid;

use crate::database::Database;
use crate::shop::at;

fn draft(number: u8) -> Draft {
    Draft {
        coupon_id: CouponId::new(
            Partition::new(i32::from(number % 3)).unwrap(),
            Uuid::from_u128(number.into()),
        ),
        name: format!("Draft {number} 치킨"),
        quantity: 10_000_000,
        per_user_limit: 100,
        window: Window::new(at(0), at(253_402_300_799_999)).unwrap(),
        expiry: match number % 3 {
            0 => None,
            1 => Some(Expiry::At(at(1))),
            _ => Some(Expiry::DaysAfterIssue(3_650)),
        },
        created_by: "operator".parse().unwrap(),
        created_at: at(i64::from(number)),
        idempotency_key: format!("key-{number}").parse().unwrap(),
    }
}

async fn insert(pool: &Pool, draft: &Draft) -> Result<Inserted, PostgresError> {
    pool.run(async |connection| drafts::insert(connection, draft).await).await
}

async fn list(pool: &Pool, before: Option<CouponId>, limit: u16) -> Vec<u128> {
    let found = pool.run(async |connection| drafts::list(connection, before, limit).await).await.unwrap();
    found.iter().map(|draft| draft.coupon_id.unique().as_u128()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_found_as_it_was_stored() {
    let database = Database::migrated().await;
    let pool = database.pool();
    for draft in [draft(0), draft(1), draft(2)] {
        assert!(matches!(insert(&pool, &draft).await.unwrap(), Inserted::New));
        let found =
            pool.run(async |connection| drafts::find(connection, draft.coupon_id).await).await.unwrap();
        let found = found.unwrap();
        assert!(found.is_same_offer(&draft));
        assert_eq!(found.coupon_id, draft.coupon_id);
        assert_eq!((found.created_by, found.created_at), (draft.created_by, draft.created_at));
        assert_eq!(found.idempotency_key, draft.idempotency_key);
    }
    let none = pool.run(async |connection| drafts::find(connection, draft(9).coupon_id).await).await.unwrap();
    assert!(none.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_makes_one_draft_and_gets_it_again() {
    let database = Database::migrated().await;
    let pool = database.pool();
    insert(&pool, &draft(1)).await.unwrap();
    let other_offer = Draft { coupon_id: draft(2).coupon_id, name: "Other".to_owned(), ..draft(1) };
    match insert(&pool, &other_offer).await.unwrap() {
        Inserted::Existing(existing) => {
            assert_eq!(existing.coupon_id, draft(1).coupon_id);
            assert!(existing.is_same_offer(&draft(1)) && !existing.is_same_offer(&other_offer));
        }
        Inserted::New => panic!("a second draft was made"),
    }
    // Somebody else's request of the same key is another request.
    let other_operator = Draft { created_by: "other".parse().unwrap(), ..other_offer };
    assert!(matches!(insert(&pool, &other_operator).await.unwrap(), Inserted::New));
    assert_eq!(list(&pool, None, 10).await, [2, 1]);

    // Two at once: one makes it, the other gets it.
    let (one, same) = (draft(7), Draft { coupon_id: draft(8).coupon_id, ..draft(7) });
    let (first, second) = tokio::join!(insert(&pool, &one), insert(&pool, &same));
    let new = [first.unwrap(), second.unwrap()].iter().filter(|made| matches!(made, Inserted::New)).count();
    assert_eq!(new, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_taken_is_a_broken_promise_and_no_draft() {
    let database = Database::migrated().await;
    let pool = database.pool();
    insert(&pool, &draft(1)).await.unwrap();
    let same_id = Draft { idempotency_key: "other".parse().unwrap(), ..draft(1) };
    match insert(&pool, &same_id).await {
        Err(PostgresError::Constraint { constraint, .. }) => assert_eq!(constraint, "coupon_drafts_pkey"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_are_listed_newest_first_in_pages() {
    let database = Database::migrated().await;
    let pool = database.pool();
    assert_eq!(list(&pool, None, 10).await, Vec::<u128>::new());
    for number in [3, 1, 7, 5, 2] {
        insert(&pool, &draft(number)).await.unwrap();
    }
    assert_eq!(list(&pool, None, 2).await, [7, 5]);
    assert_eq!(list(&pool, Some(draft(5).coupon_id), 2).await, [3, 2]);
    assert_eq!(list(&pool, Some(draft(2).coupon_id), 2).await, [1]);
    assert_eq!(list(&pool, Some(draft(1).coupon_id), 2).await, Vec::<u128>::new());
}
