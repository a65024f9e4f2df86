//! Requests that can do without PostgreSQL: each has its time and no longer, and none is held up by another one's connection.

use std::time::{Duration, Instant};

use infrastructure_postgres::{Pool, PostgresError, PostgresSection};

use crate::database::{Database, execute, text};

fn impatient(database: &Database, pool_size_max: u32) -> Pool {
    let section = PostgresSection { request_timeout_ms: 1_000, pool_size_max, ..database.section.clone() };
    Pool::new(&section).unwrap()
}

async fn answers(pool: &Pool) -> Result<usize, PostgresError> {
    pool.run(async |connection| execute(connection, "SELECT 1").await).await
}

async fn takes_too_long(pool: &Pool) -> Result<usize, PostgresError> {
    pool.run(async |connection| execute(connection, "SELECT pg_sleep(120)").await).await
}

fn assert_too_late<T: std::fmt::Debug>(result: Result<T, PostgresError>) {
    assert!(matches!(result, Err(PostgresError::Timeout(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_in_time_and_does_not_hold_up_the_next_one() {
    let database = Database::empty();
    let pool = impatient(&database, 1);
    answers(&pool).await.unwrap();
    let started = Instant::now();
    assert_too_late(takes_too_long(&pool).await);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    answers(&pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_no_connection_behind_that_is_busy_or_in_a_transaction() {
    let database = Database::empty();
    let pool = impatient(&database, 1);
    let gone = tokio::time::timeout(Duration::from_millis(300), takes_too_long(&pool)).await;
    assert!(gone.is_err());
    answers(&pool).await.unwrap();

    let halfway = pool.run(async |connection| {
        execute(connection, "BEGIN").await?;
        execute(connection, "CREATE TABLE left_behind ()").await?;
        std::future::pending::<Result<(), PostgresError>>().await
    });
    assert!(tokio::time::timeout(Duration::from_millis(300), halfway).await.is_err());
    let in_transaction = pool.run(async |connection| {
        execute(connection, "CREATE TABLE committed ()").await?;
        execute(connection, "SELECT 1").await
    });
    in_transaction.await.unwrap();
    assert_eq!(
        database.sql(
            "SELECT string_agg(relname, ' ') FROM pg_class WHERE relname IN ('left_behind', 'committed')"
        ),
        "committed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_connections_than_configured() {
    let database = Database::empty();
    let pool = impatient(&database, 2);
    assert_eq!(pool.usage(), (0, 2));
    let (one, other, third) = tokio::join!(takes_too_long(&pool), takes_too_long(&pool), async {
        let third = answers(&pool).await;
        (third, pool.usage())
    });
    assert_too_late(third.0);
    assert_eq!(third.1.1, 2);
    assert_too_late(one);
    assert_too_late(other);
    assert_eq!(pool.usage(), (0, 2));
    answers(&pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_told_since_when_its_connection_exists() {
    let database = Database::empty();
    let pool = impatient(&database, 1);
    let since = async || pool.run_since(async |_, connected_at| Ok(connected_at)).await.unwrap();
    let before = Instant::now();
    let first = since().await;
    assert!(first > before);
    assert_eq!(since().await, first, "the same connection");
    assert_too_late(takes_too_long(&pool).await);
    let lost = Instant::now();
    assert!(since().await > lost, "another connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_refused_does_not_cost_the_connection() {
    let database = Database::migrated().await;
    let pool = impatient(&database, 1);
    let backend = async || {
        let pid = pool.run(async |connection| text(connection, "SELECT pg_backend_pid()::text").await);
        pid.await.unwrap()
    };
    let before = backend().await;
    let refused = pool
        .run(async |connection| execute(connection, "INSERT INTO schema_compatibility VALUES (1, 1)").await)
        .await;
    assert!(matches!(refused, Err(PostgresError::Constraint { .. })), "{refused:?}");
    assert_eq!(backend().await, before);
    assert_too_late(takes_too_long(&pool).await);
    assert_ne!(backend().await, before);
}
