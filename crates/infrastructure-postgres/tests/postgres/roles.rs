//! What the services' roles may not do. What they may is seen by every end-to-end test: there the services log in by these roles.

use crate::database::Database;

#[tokio::test(flavor = "multi_thread")]
async fn a_role_may_do_its_service_s_work_and_nothing_else() {
    let database = Database::migrated().await;
    let claims = "claims SET rank = 1";
    let refused = [
        ("firstcome_writer", format!("UPDATE {claims}")),
        ("firstcome_writer", "DELETE FROM claims".to_owned()),
        ("firstcome_writer", "TRUNCATE claims".to_owned()),
        ("firstcome_writer", "UPDATE issued_coupons SET user_id = 'thief'".to_owned()),
        ("firstcome_writer", "INSERT INTO redemptions DEFAULT VALUES".to_owned()),
        ("firstcome_gateway", format!("UPDATE {claims}")),
        ("firstcome_gateway", "INSERT INTO claims DEFAULT VALUES".to_owned()),
        ("firstcome_gateway", "UPDATE coupons SET quantity = quantity + 1".to_owned()),
        ("firstcome_gateway", "UPDATE issued_coupons SET user_id = 'thief'".to_owned()),
        ("firstcome_gateway", "UPDATE partition_progress SET next_src = 0".to_owned()),
        ("firstcome_gateway", "UPDATE redemption_closures SET reopened_by = 'me'".to_owned()),
        ("firstcome_gateway", "DELETE FROM redemptions".to_owned()),
        ("firstcome_gateway", "UPDATE command_requests SET coupon_id = gen_random_uuid()".to_owned()),
        ("firstcome_writer", "INSERT INTO command_requests DEFAULT VALUES".to_owned()),
        ("firstcome_retention", "DELETE FROM commands".to_owned()),
        ("firstcome_retention", "UPDATE issued_coupons SET expires_at = now()".to_owned()),
        ("firstcome_reader", "INSERT INTO coupon_drafts DEFAULT VALUES".to_owned()),
        ("firstcome_reader", "UPDATE partition_progress SET beat = 0".to_owned()),
        ("firstcome_reader", "CREATE TABLE mine (a int)".to_owned()),
    ];
    for (role, statement) in refused {
        let error = database.try_sql_as(role, &statement).unwrap_err();
        assert!(error.contains("permission denied"), "{role}: {statement}: {error}");
    }
    for role in ["firstcome_writer", "firstcome_gateway", "firstcome_reader"] {
        for table in ["claims", "issued_coupons_spelled", "schema_compatibility"] {
            database.try_sql_as(role, &format!("SELECT * FROM {table}")).unwrap();
        }
    }
    // Once more: nothing to migrate, and the grants are the same.
    let again = infrastructure_postgres::migrations::migrate(database.connect().await).await.unwrap();
    assert!(again.is_empty(), "{again:?}");
}
