//! Copies of the tables.

use coupon_domain::ClaimCode;
use infrastructure_postgres::dump::{Dump, TABLES, Table};

use crate::database::{Database, SOON};
use crate::shop::Shop;

async fn open(database: &Database) -> Dump {
    let drive = |connection: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        #[expect(clippy::disallowed_methods, reason = "a test has no task set; the dump outlives nothing")]
        tokio::spawn(connection);
    };
    Dump::open(&database.section, drive).await.unwrap()
}

async fn copy(dump: &Dump, table: &Table) -> String {
    let mut copied = Vec::new();
    dump.copy(table, &mut copied).await.unwrap();
    String::from_utf8(copied).unwrap()
}

fn table(name: &str) -> Table {
    TABLES.into_iter().find(|table| table.name == name).unwrap()
}

/// Copies a table page by page, two rows each; `between` is called behind each page but the last.
async fn copy_pages(dump: &Dump, table: &Table, mut between: impl AsyncFnMut(&str)) -> String {
    let (mut copied, mut position) = (Vec::new(), None);
    loop {
        position = dump.copy_page(table, position.as_ref(), 2, &mut copied).await.unwrap();
        let text = String::from_utf8(copied.clone()).unwrap();
        if position.is_none() {
            return text;
        }
        between(&text).await;
    }
}

/// No connection but those of the shops, which write, has a transaction, or holds back the vacuum.
fn wait_until_no_snapshot_is_held(database: &Database) {
    let held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
        AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)";
    let deadline = std::time::Instant::now() + SOON;
    while database.sql(held) != "0" {
        assert!(std::time::Instant::now() < deadline, "a snapshot is held between pages");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_copied_as_it_stands() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 1, 9, 1).await;
    shop.write(&[shop.granted("ann, \"the first\"", 0, 1, 1)]).await.unwrap();
    shop.park(shop.claim_id("eve", 0)).await.unwrap();
    database.sql("INSERT INTO coupon_retention (coupon_id, losing_claims, last_run_at) SELECT coupon_id, 1, now() FROM coupons");
    let dump = open(&database).await;
    for table in &TABLES {
        let copied = copy(&dump, table).await;
        assert_eq!(copied.lines().count(), 2, "a heading and a row: {copied}");
    }
    let claims = copy(&dump, &table("claims")).await;
    assert!(claims.contains("\"ann, \"\"the first\"\"\""), "{claims}");
    for name in ["claims", "issued_coupons"] {
        let copied = copy(&dump, &table(name)).await;
        assert!(copied.contains(&shop.claim_id("ann, \"the first\"", 0).to_string()), "{copied}");
        assert!(copied.contains(&shop.coupon_id.to_string()), "{copied}");
    }
    // A coupon says up to where it is true.
    let coupons = copy(&dump, &table("coupons")).await;
    let (heading, row) = coupons.trim_end().split_once('\n').unwrap();
    assert!(heading.ends_with(",next_src"), "{heading}");
    assert!(row.ends_with(&format!(",{}", shop.watermark.next_src)), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_is_held_from_page_to_page() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 1, 9, 1).await;
    for (user, issue_no) in [("ann", 1), ("bob", 2), ("cy", 3), ("dan", 4)] {
        shop.write(&[shop.granted(user, 0, issue_no, 1)]).await.unwrap();
    }
    let dump = open(&database).await;
    for (name, pages) in [("claims", 2), ("issued_coupons", 2), ("coupons", 0)] {
        let mut between = 0;
        let copied = copy_pages(&dump, &table(name), async |_| {
            between += 1;
            wait_until_no_snapshot_is_held(&database);
        })
        .await;
        assert_eq!(between, pages, "{name}: {copied}");
        assert_eq!(copied, copy(&dump, &table(name)).await, "{name}: pages make no difference");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_on_where_rows_come_and_go() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 1, 9, 1).await;
    for (user, rank) in [("ann", 1), ("bob", 2), ("cy", 3)] {
        shop.write(&[shop.answered(user, 0, ClaimCode::SoldOut, rank)]).await.unwrap();
    }
    let dump = open(&database).await;
    let mut news = vec![shop.answered("dan", 0, ClaimCode::SoldOut, 4)];
    let copied = copy_pages(&dump, &table("claims"), async |_| {
        // The row that the page ended with, and all before it.
        database.sql("DELETE FROM claims WHERE user_id IN ('ann', 'bob')");
        if let Some(claim) = news.pop() {
            shop.write(&[claim]).await.unwrap();
        }
    })
    .await;
    let users: Vec<bool> = ["ann", "bob", "cy", "dan"].map(|user| copied.contains(user)).into();
    assert_eq!(users, [true; 4], "{copied}");
    assert_eq!(copied.lines().count(), 5, "a heading and each row once: {copied}");
}
