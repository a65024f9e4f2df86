//! Connections that many writers share: never more than configured, and none goes on that was left in the middle of something.

use std::time::Duration;

use infrastructure_postgres::shared::Lease;
use infrastructure_postgres::{PostgresError, PostgresSection, SharedConnections};

use crate::database::{Database, execute, text};

fn of(database: &Database, pool_size_max: u32) -> SharedConnections {
    SharedConnections::new(&PostgresSection { pool_size_max, ..database.section.clone() })
}

async fn lease(connections: &SharedConnections, writer: usize) -> Lease {
    match connections.take(writer).await.lease() {
        Ok(lease) => lease,
        Err(place) => connections.open(place).await.unwrap(),
    }
}

async fn backend(lease: &mut Lease) -> String {
    text(lease.connection().as_pooled(), "SELECT pg_backend_pid()::text").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_writers_share_three_connections_and_each_finds_its_own_again_while_it_is_free() {
    let database = Database::empty();
    let connections = of(&database, 3);
    let everybody = (0..100).map(|writer| {
        let connections = &connections;
        async move {
            let mut lease = lease(connections, writer).await;
            let backend = backend(&mut lease).await;
            lease.give_back();
            backend
        }
    });
    let backends: std::collections::BTreeSet<_> =
        futures_util::future::join_all(everybody).await.into_iter().collect();
    assert!(backends.len() <= 3, "{backends:?}");
    let known = lease(&connections, 7).await;
    let id = known.id();
    known.give_back();
    let again = lease(&connections, 7).await;
    assert_eq!(again.id(), id);
    let other = lease(&connections, 7).await;
    assert_ne!(other.id(), id, "another one is free");
    let third = lease(&connections, 7).await;
    assert_eq!(connections.in_use(), 3);
    let waiting = tokio::time::timeout(Duration::from_millis(200), connections.take(7)).await;
    assert!(waiting.is_err(), "the fourth waits");
    again.give_back();
    assert_eq!(lease(&connections, 8).await.id(), id);
    drop((other, third));
    assert_eq!(connections.in_use(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_awaited_or_broke_is_another_connection_next_time() {
    let database = Database::empty();
    let connections = of(&database, 1);
    let mut left = lease(&connections, 0).await;
    let id = left.id();
    let begun = execute(left.connection().as_pooled(), "SELECT pg_sleep(120)");
    assert!(tokio::time::timeout(Duration::from_millis(200), begun).await.is_err());
    drop(left);
    let mut next = lease(&connections, 0).await;
    assert_ne!(next.id(), id);
    let backend = backend(&mut next).await;
    let id = next.id();
    let refused = execute(next.connection().as_pooled(), "SELECT 1 / 0").await.map_err(|_| {
        PostgresError::Constraint { constraint: "none".to_owned(), message: "a person must look".to_owned() }
    });
    next.give_back_after(refused.as_ref());
    let mut next = lease(&connections, 0).await;
    assert_eq!(next.id(), id, "the connection did nothing wrong");
    database.sql(&format!("SELECT pg_terminate_backend({backend})"));
    let broken = execute(next.connection().as_pooled(), "SELECT 1").await;
    assert!(broken.as_ref().is_err_and(PostgresError::is_passing), "{broken:?}");
    next.give_back_after(broken.as_ref());
    let mut next = lease(&connections, 0).await;
    assert_ne!(next.id(), id);
    execute(next.connection().as_pooled(), "SELECT 1").await.unwrap();
}
