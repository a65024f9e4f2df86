//! Copies of the tables.

use coupon_domain::ClaimCode;
use infrastructure_postgres::PostgresError;
use infrastructure_postgres::dump::{Dump, TABLES};

use crate::database::Database;
use crate::shop::Shop;

async fn open(database: &Database) -> Dump {
    let drive = |connection: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        #[expect(clippy::disallowed_methods, reason = "a test has no task set; the dump outlives nothing")]
        tokio::spawn(connection);
    };
    Dump::open(&database.section, drive).await.unwrap()
}

async fn copy(dump: &Dump, query: &str) -> Result<String, PostgresError> {
    let mut copied = Vec::new();
    dump.copy(query, &mut copied).await?;
    Ok(String::from_utf8(copied).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_copied_as_of_one_moment() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 1, 9, 1).await;
    shop.write(&[shop.granted("ann, \"the first\"", 0, 1, 1)]).await.unwrap();
    shop.park(shop.claim_id("eve", 0)).await.unwrap();
    database.sql("INSERT INTO coupon_retention (coupon_id, losing_claims, last_run_at) SELECT coupon_id, 1, now() FROM coupons");
    let dump = open(&database).await;
    let queries: Vec<&str> = TABLES.iter().map(|(_, query)| *query).collect();
    let claims = copy(&dump, queries[0]).await.unwrap();
    shop.write(&[shop.answered("bob", 0, ClaimCode::SoldOut, 2)]).await.unwrap();
    assert_eq!(copy(&dump, queries[0]).await.unwrap(), claims, "what comes later is not in it");
    for query in queries {
        let copied = copy(&dump, query).await.unwrap();
        assert_eq!(copied.lines().count(), 2, "a heading and a row: {copied}");
    }
    assert!(claims.contains("\"ann, \"\"the first\"\"\""), "{claims}");
    assert!(claims.contains(&shop.claim_id("ann, \"the first\"", 0).to_string()), "{claims}");
    let later = open(&database).await;
    assert_eq!(copy(&later, TABLES[0].1).await.unwrap().lines().count(), 3);
}
