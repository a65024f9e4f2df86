//! The schema's versions.

use infrastructure_postgres::migrations::{SCHEMA_VERSION, SchemaFit, embedded, migrate, schema_fit};
use infrastructure_postgres::{Connection, PostgresError, closures};

use crate::database::{Database, patient};

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_brought_up_once() {
    let database = Database::empty();
    let mut connection = database.connect().await;
    assert_eq!(schema_fit(&mut connection).await.unwrap(), SchemaFit::Older { found: 0 });

    let ran = migrate(database.connect().await).await.unwrap();
    let versions: Vec<String> = embedded().unwrap();
    assert_eq!(ran.len(), versions.len());
    assert_eq!(schema_fit(&mut connection).await.unwrap(), SchemaFit::Fits);

    let before = database.contents();
    assert_eq!(migrate(database.connect().await).await.unwrap(), Vec::<String>::new());
    assert_eq!(database.contents(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_who_migrate_at_once_both_succeed() {
    let database = Database::empty();
    let (one, other, third) = (database.connect().await, database.connect().await, database.connect().await);
    let ran = std::thread::scope(|scope| {
        let threads = [one, other, third].map(|connection| {
            scope.spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
                runtime.unwrap().block_on(async { migrate(connection).await.map(|names| names.len()) })
            })
        });
        threads.map(|thread| thread.join().unwrap().unwrap())
    });
    assert_eq!(ran.iter().sum::<usize>(), embedded().unwrap().len(), "each migration ran once: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_too_new_only_where_it_says_that_this_release_cannot_work_with_it() {
    let database = Database::migrated().await;
    let mut connection = database.connect().await;
    let next = SCHEMA_VERSION + 1;
    database.sql(&format!("INSERT INTO schema_compatibility VALUES ({next}, {SCHEMA_VERSION})"));
    assert_eq!(schema_fit(&mut connection).await.unwrap(), SchemaFit::Fits, "expanded");
    let contracted = next + 1;
    database.sql(&format!("INSERT INTO schema_compatibility VALUES ({contracted}, {next})"));
    let too_new = SchemaFit::TooNew { found: contracted, compatible_from: next };
    assert_eq!(schema_fit(&mut connection).await.unwrap(), too_new);
    // Nothing is done to a schema that is newer.
    assert_eq!(migrate(database.connect().await).await.unwrap(), Vec::<String>::new());

    database
        .sql("UPDATE schema_compatibility SET schema_version = schema_version - 100, compatible_from = -100");
    let older = SchemaFit::Older { found: contracted - 100 };
    assert_eq!(schema_fit(&mut connection).await.unwrap(), older);
    database.sql("DELETE FROM schema_compatibility");
    assert_eq!(schema_fit(&mut connection).await.unwrap(), SchemaFit::Older { found: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_on_tables_that_are_not_there_names_the_remedy() {
    let database = Database::empty();
    let mut connection = database.connect().await;
    let partition = coupon_domain::Partition::new(0).unwrap();
    let error = infrastructure_postgres::progress::load(&mut connection, partition).await.unwrap_err();
    assert!(matches!(error, PostgresError::Schema(_)), "{error}");
    assert!(error.to_string().contains("couponctl migrate"), "{error}");
}

/// Services run as roles of their own, not as the owner of the tables, let alone as a superuser.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_few_privileges_can_tell_which_cluster_it_is_connected_to() {
    let database = Database::migrated().await;
    let role = format!("role_{}", database.namespace.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN"));
    database.sql(&format!("GRANT SELECT ON partition_progress, redemption_closures TO {role}"));
    let mut url = url_of(&database);
    url = url.replacen("//postgres@", &format!("//{role}@"), 1);
    assert_ne!(url, url_of(&database), "the role must stand in the URL");
    let mut connection = Connection::open(&patient(&url)).await.unwrap();
    let mut superuser = database.connect().await;
    let store = closures::look(connection.as_pooled()).await.unwrap();
    assert_eq!(store, closures::look(superuser.as_pooled()).await.unwrap());
    assert!(store.stand.system_identifier.parse::<u64>().unwrap() > 0);
    assert!(schema_fit(&mut connection).await.is_err(), "it may see nothing else");
    drop(connection);
    database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

fn url_of(database: &Database) -> String {
    database.section.url.clone().unwrap()
}
