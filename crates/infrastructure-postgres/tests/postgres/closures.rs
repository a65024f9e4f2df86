//! Redeeming is closed by whoever notices that the database was put back in time, and opened by an operator.

use coupon_domain::Partition;
use coupon_domain::restored::StoreStand;
use infrastructure_postgres::closures::{self, Store};
use infrastructure_postgres::progress;
use tokio::task::JoinSet;

use crate::database::Database;

fn partition(number: i32) -> Partition {
    Partition::new(number).unwrap()
}

async fn look(database: &Database) -> Store {
    closures::look(database.connect().await.as_pooled()).await.unwrap()
}

async fn with_beats(beats: &[(i32, i64)]) -> Database {
    let database = Database::migrated().await;
    let mut connection = database.connect().await;
    for (number, beat) in beats {
        progress::load_or_create(&mut connection, partition(*number)).await.unwrap();
        database.sql(&format!("UPDATE partition_progress SET beat = {beat} WHERE partition = {number}"));
    }
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_names_its_cluster_and_its_beats() {
    let database = with_beats(&[]).await;
    let system_identifier = database.sql("SELECT system_identifier FROM pg_control_system()");
    let empty = StoreStand { system_identifier: system_identifier.clone(), beats: [].into() };
    assert_eq!(look(&database).await, Store { stand: empty, closure: None });
    let database = with_beats(&[(0, 7), (3, 0)]).await;
    let stand = StoreStand { system_identifier, beats: [(partition(0), 7), (partition(3), 0)].into() };
    assert_eq!(look(&database).await, Store { stand, closure: None });
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_raises_the_beats_in_the_same_commit_and_stands_until_it_is_ended() {
    let database = with_beats(&[(0, 5), (1, 9), (2, 30)]).await;
    let mut connection = database.connect().await;
    let connection = connection.as_pooled();
    let floors = [(partition(0), 10), (partition(1), 9), (partition(2), 20), (partition(7), 1)];
    assert!(closures::close(connection, "db-writer", "it went back", &floors).await.unwrap());
    let store = look(&database).await;
    let beats: Vec<i64> = store.stand.beats.into_values().collect();
    assert_eq!(beats, [11, 10, 30], "above what was published, never lower than they were");
    let closure = store.closure.unwrap();
    assert_eq!((closure.closed_by.as_str(), closure.reason.as_str()), ("db-writer", "it went back"));

    // The first reason stands.
    assert!(!closures::close(connection, "api-gateway", "again", &floors).await.unwrap());
    assert_eq!(closures::standing(connection).await.unwrap(), Some(closure.clone()));
    assert_eq!(closures::last_ended(connection).await.unwrap(), None);

    assert_eq!(closures::reopen(connection, "olive").await.unwrap(), Some(closure.clone()));
    assert_eq!(closures::standing(connection).await.unwrap(), None);
    assert_eq!(closures::reopen(connection, "olive").await.unwrap(), None);
    let ended = closures::last_ended(connection).await.unwrap().unwrap();
    assert_eq!((ended.closure, ended.reopened_by.as_str()), (closure, "olive"));
    assert!(
        closures::close(connection, "db-writer", "once more", &[]).await.unwrap(),
        "the next restore closes again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_close_at_once() {
    let beats: Vec<(i32, i64)> = (0..20).map(|number| (number, 1)).collect();
    let database = with_beats(&beats).await;
    let pool = database.pool();
    let mut closing = JoinSet::new();
    for number in 0..20 {
        let mut floors: Vec<_> = beats.iter().map(|(number, _)| (partition(*number), 50)).collect();
        if number % 2 == 0 {
            floors.reverse();
        }
        let pool = pool.clone();
        closing.spawn(async move {
            pool.run(async |connection| closures::close(connection, "gateway", "restored", &floors).await)
                .await
        });
    }
    let results: Vec<bool> = closing.join_all().await.into_iter().map(Result::unwrap).collect();
    assert_eq!(results.iter().filter(|is_new| **is_new).count(), 1);
    assert!(look(&database).await.stand.beats.values().all(|beat| *beat == 51));
}
