//! Servers that are killed, suspended or configured wrongly.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test, in its helpers too"
)]

mod own_server;

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use local_stack::{Error, ProcessIdentity, Servers, ServersOptions, Supervised};
use own_server::{SOON, only, redis, sql, topics};

#[test]
fn kafka_comes_back_after_kill_9_with_its_topics_and_refuses_to_create_any_by_accident() {
    let servers = Servers::start(only("kafka")).unwrap();
    let kafka = servers.kafka().unwrap();
    let endpoint = kafka.endpoint().to_owned();
    topics(&servers, &["--create", "--topic", "t1.coupon.claims", "--partitions", "3"]);

    assert_eq!(kafka.kill().unwrap().signal(), Some(9));
    assert!(kafka.pid().is_none());
    assert!(matches!(kafka.kill(), Err(Error::NotRunning { .. })));
    kafka.start_again().unwrap();
    assert_eq!(kafka.endpoint(), endpoint);
    assert_eq!(topics(&servers, &["--list"]).trim(), "t1.coupon.claims");

    let ended = Instant::now();
    kafka.terminate().unwrap();
    assert!(ended.elapsed() < SOON, "an idle broker ends by itself, without being killed");
    kafka.restart().unwrap();
    kafka.wait_ready(SOON).unwrap();
    assert!(topics(&servers, &["--describe", "--topic", "t1.coupon.claims"]).contains("PartitionCount: 3"));
}

#[test]
fn a_standby_follows_postgres_until_it_is_promoted_and_both_go_on() {
    let servers = Servers::start(only("postgres")).unwrap();
    let standby = servers.start_standby().unwrap();
    let there = |statement: &str| servers.run_sql(standby.endpoint(), statement);
    sql(&servers, "create table t (x integer)");
    let has_followed = || there("select count(*) from t").is_ok();
    assert!(local_stack::eventually(SOON, has_followed));
    assert!(there("insert into t values (1)").is_err());
    assert_eq!(there("select pg_promote()").unwrap().trim(), "t");
    there("insert into t values (1)").unwrap();
    assert_eq!(sql(&servers, "select count(*) from t").trim(), "0");
    let identifier = "select system_identifier from pg_control_system()";
    assert_eq!(there(identifier).unwrap().trim(), sql(&servers, identifier));
}

#[test]
fn postgres_comes_back_after_kill_9_with_its_rows() {
    let servers = Servers::start(only("postgres")).unwrap();
    let postgres = servers.postgres().unwrap();
    sql(&servers, "create table t (a int); insert into t values (1), (2)");
    assert_eq!(sql(&servers, "show max_connections"), "300");

    // A client that is connected has a backend of its own, which must go too: the restart would refuse its memory.
    let backend = sql(&servers, "select pid from pg_stat_activity where backend_type = 'checkpointer'");
    let backend = ProcessIdentity::of(backend.parse().unwrap()).unwrap();
    assert_eq!(postgres.kill().unwrap().signal(), Some(9));
    assert!(!backend.is_running());

    postgres.start_again().unwrap();
    assert_eq!(sql(&servers, "select count(*) from t"), "2");
    assert!(postgres.terminate().unwrap().success(), "a fast shutdown is a clean one");
    postgres.start_again().unwrap();
    assert_eq!(sql(&servers, "select count(*) from t"), "2");
}

#[test]
fn redis_comes_back_empty_after_kill_9_unless_told_to_keep_its_data() {
    let forgetful = Servers::start(only("redis")).unwrap();
    let keeping = Servers::start(ServersOptions {
        redis_settings: vec![
            ("appendonly".to_owned(), "yes".to_owned()),
            ("appendfsync".to_owned(), "always".to_owned()),
        ],
        ..only("redis")
    })
    .unwrap();
    for (servers, expected) in [(&forgetful, "$-1\r\n"), (&keeping, "$1\r\n1\r\n")] {
        let server = servers.redis().unwrap();
        assert_eq!(redis(server, "SET a 1"), "+OK\r\n");
        assert_eq!(server.kill().unwrap().signal(), Some(9));
        server.start_again().unwrap();
        assert_eq!(redis(server, "GET a"), expected);
        assert!(redis(server, "CONFIG GET maxmemory-policy").contains("noeviction"));
    }
}

#[test]
fn a_suspended_server_does_not_answer_and_a_resumed_one_does() {
    let servers = Servers::start(ServersOptions::default()).unwrap();
    for server in [servers.kafka().unwrap(), servers.postgres().unwrap(), servers.redis().unwrap()] {
        server.suspend().unwrap();
        let silence = server.wait_ready(Duration::from_secs(1)).unwrap_err();
        assert!(matches!(silence, Error::NotReady { .. }), "{silence}");
        server.resume().unwrap();
        server.wait_ready(SOON).unwrap();
    }
    // Suspended again, to be stopped in good order all the same.
    servers.postgres().unwrap().suspend().unwrap();
    servers.stop().unwrap();
}

#[test]
fn a_server_with_a_wrong_setting_says_so_at_once() {
    let began = Instant::now();
    let wrong = ("max_connections".to_owned(), "banana".to_owned());
    let error =
        Servers::start(ServersOptions { postgres_settings: vec![wrong], ..only("postgres") }).unwrap_err();
    assert!(matches!(error, Error::EndedEarly { .. }), "{error}");
    assert!(error.to_string().contains("banana"), "{error}");

    let wrong = ("maxmemory-policy".to_owned(), "banana".to_owned());
    let error = Servers::start(ServersOptions { redis_settings: vec![wrong], ..only("redis") }).unwrap_err();
    assert!(error.to_string().contains("banana"), "{error}");
    assert!(began.elapsed() < SOON);
}
