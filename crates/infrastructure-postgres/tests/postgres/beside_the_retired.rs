//! What is read for one coupon is read through keys that begin with it: the rows of a year of drops beside it are not touched.

use crate::database::Database;
use crate::shop::Shop;

/// Drops of another partition that are over, and the rows of each. Enough that reading all of them would be the worse plan for every look at
/// another coupon.
const DROPS: u32 = 50;
const ROWS: u32 = 2_000;

fn retired_drops() -> String {
    let coupon = |n: &str| format!("lpad(to_hex(255 + {n}), 32, '0')::uuid");
    let (of_drop, of_row, last) = (coupon("d"), coupon(&format!("n / {ROWS}")), DROPS * ROWS - 1);
    format!(
        "INSERT INTO coupons SELECT {of_drop}, 1, name, {ROWS}, per_user_limit, opens_at, closes_at, expires_at,
             expires_after_days, rules, key_id, 'retired', round, {ROWS}, {ROWS}, {ROWS}, version,
             last_command_mac, last_command_code, {ROWS}, published_offset, published_at
         FROM coupons, generate_series(0, {DROPS} - 1) d;
         INSERT INTO claims (src_partition, src_offset, coupon_id, claim_mac, slot, appended_at, rank, issue_no, code, round,
             user_nth, final, user_id)
         SELECT 1, n, {of_row}, gen_random_uuid(), 0, now(), n % {ROWS} + 1, n % {ROWS} + 1, 'granted', 0, 1, true, 'user ' || n
         FROM generate_series(0, {last}) n;
         INSERT INTO issued_coupons (claim_mac, coupon_id, slot, issued_at, src_partition, issue_no, per_user_limit, round,
             user_nth, user_id, code)
         SELECT claim_mac, coupon_id, slot, appended_at, src_partition, issue_no, 1, round, user_nth, user_id, 'CODE-' || rank
         FROM claims;
         INSERT INTO redemptions (claim_mac, coupon_id, redeemed_at, idempotency_key, order_ref, redeemed_by)
         SELECT claim_mac, coupon_id, now(), 'key', 'order', user_id FROM issued_coupons;
         INSERT INTO parked_claims SELECT 1, n, {of_row}, gen_random_uuid() FROM generate_series(0, {last}) n;"
    )
}

/// An audit's statement, which ends where its condition begins.
fn audited(sql: &str, condition: &str) -> String {
    format!("{sql} WHERE {condition}")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_look_at_a_coupon_reads_the_rows_of_others() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 0, 9, 1).await;
    database.sql(&retired_drops());
    shop.write(&[shop.granted("ann", 0, 1, 1)]).await.unwrap();
    database.sql("VACUUM ANALYZE");
    let mac = uuid::Uuid::from_bytes(shop.claim_id("ann", 0).mac);
    let coupon = shop.coupon_id.unique();
    let named = format!("'{{{coupon}}}'");
    let counts = include_str!("../../src/sql/audited_counts.sql");
    let strays = include_str!("../../src/sql/audited_strays.sql");
    let commands = include_str!("../../src/sql/audited_commands.sql");
    let claims =
        format!("{} AND c.src_offset = ANY($2)", include_str!("../../src/sql/audited_claims.sql").trim_end());
    let looks = [
        ("final_claims", include_str!("../../src/sql/final_claims.sql"), "uuid", format!("'{coupon}'")),
        (
            "claim_counts",
            include_str!("../../src/sql/claim_counts.sql"),
            "integer, uuid",
            format!("0, '{coupon}'"),
        ),
        (
            "claim_standings",
            include_str!("../../src/sql/claim_standings.sql"),
            "uuid[], uuid, integer, bigint",
            format!("'{{{mac}}}', '{coupon}', 0, 9"),
        ),
        (
            "look_up_claim",
            include_str!("../../src/sql/look_up_claim.sql"),
            "integer, uuid, uuid, bigint, text",
            format!("0, '{mac}', '{coupon}', 0, 'ann'"),
        ),
        (
            "look_at_issued_coupon",
            include_str!("../../src/sql/look_at_issued_coupon.sql"),
            "uuid, uuid, smallint, bigint, text",
            format!("'{mac}', '{coupon}', 0::smallint, 0, 'ann'"),
        ),
        (
            "redeem",
            include_str!("../../src/sql/redeem.sql"),
            "text, uuid, uuid, smallint, bigint, text, text",
            format!("'order', '{mac}', '{coupon}', 0::smallint, 0, 'ann', 'key'"),
        ),
        ("audited_claims", &claims, "integer, bigint[]", "0, '{1,2,3}'".to_owned()),
        (
            "audited_claim_counts",
            include_str!("../../src/sql/audited_claim_counts.sql"),
            "uuid[], bigint, bigint",
            format!("'{{{coupon}}}', 0, 9"),
        ),
        ("audited_counts", &audited(counts, "o.partition = $1"), "integer", "0".to_owned()),
        ("audited_strays", &audited(strays, "o.partition = $1"), "integer", "0".to_owned()),
        ("audited_commands", &audited(commands, "c.src_partition = $1"), "integer", "0".to_owned()),
        ("audited_counts, named", &audited(counts, "o.coupon_id = ANY($1)"), "uuid[]", named.clone()),
        ("audited_strays, named", &audited(strays, "o.coupon_id = ANY($1)"), "uuid[]", named.clone()),
        ("audited_commands, named", &audited(commands, "c.coupon_id = ANY($1)"), "uuid[]", named.clone()),
        (
            "parked, named",
            "SELECT src_offset, coupon_id, claim_mac FROM parked_claims WHERE coupon_id = ANY($1)",
            "uuid[]",
            named,
        ),
    ];
    for (name, sql, types, values) in looks {
        let plan = database.sql(&format!("PREPARE look ({types}) AS {sql}; EXPLAIN EXECUTE look ({values})"));
        assert!(plan.contains("Scan"), "{name}: {plan}");
        for table in ["claims", "issued_coupons", "redemptions", "parked_claims"] {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{name} reads all of {table}:\n{plan}");
        }
    }
    assert_eq!(
        database.count("claims"),
        usize::try_from(DROPS * ROWS).unwrap() + 1,
        "the plans were made for these"
    );
}
