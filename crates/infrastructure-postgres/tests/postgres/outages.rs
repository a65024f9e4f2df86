//! A PostgreSQL that is killed, and one that is silent. Each test has a server of its own.

use std::time::{Duration, Instant};

use infrastructure_postgres::{Connection, Pool, PostgresError, PostgresSection, migrations, progress};
use local_stack::{ExternalServers, Servers, ServersOptions, Supervised, eventually};

use crate::database::{Database, SOON, execute};

/// What an answer may take beyond its limit, on a machine that is busy with something else.
const MARGIN: Duration = Duration::from_secs(5);

fn only_postgres() -> (Servers, PostgresSection) {
    let nobody = || Some("nobody-is-asked".to_owned());
    let external = ExternalServers { kafka_bootstrap: nobody(), redis_url: nobody(), ..Default::default() };
    let servers = Servers::start(ServersOptions { external, ..ServersOptions::default() }).unwrap();
    let section = PostgresSection {
        url: Some(servers.database_url().to_owned()),
        connect_timeout_ms: 1_000,
        request_timeout_ms: 1_000,
        ..PostgresSection::default()
    };
    (servers, section)
}

async fn answers(pool: &Pool) -> Result<usize, PostgresError> {
    pool.run(async |connection| execute(connection, "SELECT 1").await).await
}

async fn answers_soon(pool: &Pool) {
    let started = Instant::now();
    while let Err(error) = answers(pool).await {
        assert!(started.elapsed() < SOON, "{error}");
    }
}

/// Connecting, asking the pool and using a connection that was open before are all told in time.
async fn is_unreachable_in_time(section: &PostgresSection, pool: &Pool) {
    let started = Instant::now();
    let error = Connection::open(section).await.err().unwrap();
    assert!(error.is_passing(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1) + MARGIN, "{:?}", started.elapsed());
    for _ in 0..3 {
        let started = Instant::now();
        let error = answers(pool).await.unwrap_err();
        assert!(error.is_passing(), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1) + MARGIN, "{:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_postgres_is_unreachable_and_the_pool_is_back_when_it_is() {
    let (servers, section) = only_postgres();
    let postgres = servers.postgres().unwrap();
    migrations::migrate(Connection::open(&section).await.unwrap()).await.unwrap();
    let pool = Pool::new(&section).unwrap();
    let (one, other) = tokio::join!(answers(&pool), answers(&pool));
    assert!(one.is_ok() && other.is_ok());
    let mut connection = Connection::open(&section).await.unwrap();
    let partition = coupon_domain::Partition::new(0).unwrap();
    let before = progress::load_or_create(&mut connection, partition).await.unwrap();

    postgres.kill().unwrap();
    let error = progress::load(&mut connection, partition).await.unwrap_err();
    assert!(matches!(error, PostgresError::Unreachable(_)), "{error}");
    is_unreachable_in_time(&section, &pool).await;

    postgres.start_again().unwrap();
    answers_soon(&pool).await;
    let error = progress::load(&mut connection, partition).await.unwrap_err();
    assert!(matches!(error, PostgresError::Unreachable(_)), "a lost connection stays lost: {error}");
    let mut connection = Connection::open(&section).await.unwrap();
    assert_eq!(progress::load(&mut connection, partition).await.unwrap(), Some(before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_postgres_is_unreachable_in_time_and_the_pool_goes_on_with_it() {
    let (servers, section) = only_postgres();
    let postgres = servers.postgres().unwrap();
    let pool = Pool::new(&section).unwrap();
    answers(&pool).await.unwrap();
    postgres.suspend().unwrap();
    is_unreachable_in_time(&section, &pool).await;
    assert_eq!(pool.usage().0, 0, "nobody holds a connection any more");
    postgres.resume().unwrap();
    answers_soon(&pool).await;
}

/// A machine that loses its power sends nothing any more, and whoever waits for an answer sends nothing either: only TCP's own probes,
/// by default after two hours, find out.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_vanishes_is_looked_for_after_seconds() {
    let database = Database::empty();
    let idle_ms = || {
        let sql = "SELECT client_port FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let port: u16 = database.sql(sql).parse().unwrap();
        let mut idle_ms = None;
        assert!(eventually(SOON, || {
            idle_ms = keepalive_ms(port);
            idle_ms.is_some()
        }));
        idle_ms.unwrap()
    };
    let connection = database.connect().await;
    assert!(idle_ms() <= 10_000);
    drop(connection);
    assert!(eventually(SOON, || database
        .sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        == "1"));
    let pool = database.pool();
    answers(&pool).await.unwrap();
    assert!(idle_ms() <= 10_000);
}

/// When the kernel will next probe the peer of the connection from this port.
fn keepalive_ms(local_port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let connection = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1)?.ends_with(&format!(":{local_port:04X}")).then_some(fields)
    })?;
    // The timer that runs (2: keepalive) and in how many hundredths of a second it ends, in hex.
    let hundredths = connection.get(5)?.strip_prefix("02:")?;
    Some(u64::from_str_radix(hundredths, 16).unwrap() * 10)
}
