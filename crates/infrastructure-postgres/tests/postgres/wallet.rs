//! What a user holds.

use infrastructure_postgres::wallet::{HeldCoupon, Standing, WalletPlace, list};

use crate::database::Database;
use crate::shop::{Shop, at};

async fn page(database: &Database, user: &str, place: Option<WalletPlace>, limit: u16) -> Vec<HeldCoupon> {
    let user = user.parse().unwrap();
    database.pool().run(async |connection| list(connection, &user, place, limit).await).await.unwrap()
}

fn issue_numbers(held: &[HeldCoupon]) -> Vec<u32> {
    held.iter().map(|held| held.issue_no).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_is_read_page_by_page_newest_first() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 1, 50, 9).await;
    assert_eq!(page(&database, "ann", None, 10).await, []);
    let grants: Vec<_> =
        (1u16..=7).map(|nth| shop.granted("ann", u64::from(nth), u32::from(nth) * 2 - 1, nth)).collect();
    let between: Vec<_> =
        (1u16..=7).map(|nth| shop.granted("bob", u64::from(nth), u32::from(nth) * 2, nth)).collect();
    let mixed: Vec<_> = grants.into_iter().zip(between).flat_map(|(one, other)| [one, other]).collect();
    shop.write(&mixed).await.unwrap();

    let all = page(&database, "ann", None, 100).await;
    assert_eq!(issue_numbers(&all), [13, 11, 9, 7, 5, 3, 1]);
    let (mut paged, mut place) = (Vec::new(), None);
    loop {
        let page = page(&database, "ann", place, 3).await;
        let Some(last) = page.last() else { break };
        place = Some(WalletPlace::of(last));
        paged.extend(page);
    }
    assert_eq!(paged, all);
    // The same moment for all: the order is still one, and no page overlaps or leaves anything out.
    database.sql("UPDATE issued_coupons SET issued_at = to_timestamp(77)");
    let (mut seen, mut place) = (Vec::new(), None);
    for _ in 0..4 {
        let page = page(&database, "ann", place, 2).await;
        place = page.last().map(WalletPlace::of);
        seen.extend(issue_numbers(&page));
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 3, 5, 7, 9, 11, 13]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_coupon_says_where_it_stands() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 1, 9, 3).await;
    let grants = [shop.granted("ann", 1, 1, 1), shop.granted("ann", 2, 2, 2), shop.granted("ann", 3, 3, 3)];
    shop.write(&grants).await.unwrap();
    database.sql(
        "UPDATE issued_coupons SET expires_at = now() + interval '1 hour' WHERE issue_no <> 1; \
         UPDATE issued_coupons SET used_at = to_timestamp(9), order_ref = 'order-1' WHERE issue_no = 2",
    );
    let held = page(&database, "ann", None, 10).await;
    let standings: Vec<_> = held.iter().map(|held| held.standing).collect();
    assert_eq!(standings, [Standing::Issued, Standing::Used, Standing::Expired]);
    assert_eq!(held[1].used, Some((at(9_000), "order-1".parse().unwrap())));
    assert_eq!(held[2].claim_id, shop.claim_id("ann", 1));
    assert_eq!(held[2].issued_at, at(1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_costs_what_is_on_it() {
    let database = Database::migrated().await;
    let _shop = Shop::open(&database, 1, 9, 1).await;
    database.sql(
        "INSERT INTO issued_coupons (claim_mac, coupon_id, slot, issued_at, src_partition, issue_no, per_user_limit, \
            round, user_nth, user_id, code) \
         SELECT gen_random_uuid(), gen_random_uuid(), 0, to_timestamp(n), 1, 1, 1, 0, 1, 'user-' || n % 500, 'C' \
         FROM generate_series(1, 20000) AS n; \
         ANALYZE issued_coupons",
    );
    let plan = database.sql(
        "EXPLAIN SELECT * FROM issued_coupons i \
         WHERE i.user_id = 'user-7' AND (i.issued_at, i.claim_mac, i.coupon_id) < (to_timestamp(9000), gen_random_uuid(), gen_random_uuid()) \
         ORDER BY i.issued_at DESC, i.claim_mac DESC, i.coupon_id DESC LIMIT 5",
    );
    assert!(plan.contains("Index Scan Backward using issued_coupons_wallet"), "{plan}");
    assert!(!plan.contains("Sort"), "{plan}");
}
