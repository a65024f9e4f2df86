//! The three real servers: started, shared, dropped, detached.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test, in its helpers too"
)]

mod own_server;

use std::io::{Read, Write};
use std::net::TcpStream;

use local_stack::{
    Error, ExternalServers, PortWish, ServerPorts, Servers, ServersOptions, Supervised, namespace,
    servers_for_tests,
};
use own_server::{only, redis, sql, topics};

#[test]
fn the_shared_servers_answer_and_every_namespace_has_its_own_database() {
    let servers = servers_for_tests();
    assert!(std::ptr::eq(servers, servers_for_tests()));
    let (one, other) = (namespace(servers, 3).unwrap(), namespace(servers, 3).unwrap());
    assert_ne!(one.topic_prefix, other.topic_prefix);
    assert_ne!(one.redis_key_prefix, other.redis_key_prefix);

    servers.run_sql(&one.database_url, "create table t (a int); insert into t values (7)").unwrap();
    assert_eq!(servers.run_sql(&one.database_url, "select a from t").unwrap(), "7\n");
    let elsewhere = servers.run_sql(&other.database_url, "select a from t").unwrap_err().to_string();
    assert!(elsewhere.contains("does not exist"), "{elsewhere}");

    one.drop_database(servers).unwrap();
    assert!(servers.run_sql(&one.database_url, "select 1").is_err());
    assert!(topics(servers, &["--list"]).trim().is_empty() || servers.kafka().is_err());
}

#[test]
fn two_stacks_that_start_at_once_share_no_port() {
    let stacks = std::thread::scope(|scope| {
        let start = || Servers::start(ServersOptions::default()).unwrap();
        let threads = [scope.spawn(start), scope.spawn(start)];
        threads.map(|thread| thread.join().unwrap())
    });
    let mut ports: Vec<u16> = stacks
        .iter()
        .flat_map(|servers| [servers.kafka(), servers.postgres(), servers.redis()])
        .map(|server| server.unwrap().port().unwrap())
        .collect();
    assert!(ports.iter().all(|port| (21_000..30_000).contains(port)), "{ports:?}");
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 6);
}

#[test]
fn servers_outlive_the_thread_that_asked_for_them() {
    let servers = std::thread::spawn(|| Servers::start(only("redis")).unwrap()).join().unwrap();
    assert_eq!(redis(servers.redis().unwrap(), "PING"), "+PONG\r\n");
}

#[test]
fn dropped_servers_leave_neither_process_nor_folder() {
    let servers = Servers::start(ServersOptions::default()).unwrap();
    let processes = [servers.kafka(), servers.postgres(), servers.redis()]
        .map(|server| server.unwrap().identity().unwrap());
    let folder = servers.log_directory();
    assert!(folder.join("kafka.log").is_file());
    drop(servers);
    assert!(processes.iter().all(|process| !process.is_running()));
    assert!(!folder.parent().unwrap().exists());
}

#[test]
fn detached_servers_go_on_when_their_handle_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let options = ServersOptions { die_with_parent: false, ..only("redis") };
    let refused = Servers::start(options.clone()).unwrap_err().to_string();
    assert!(refused.contains("need a directory"), "{refused}");

    let directory = Some(folder.path().to_owned());
    let servers = Servers::start(ServersOptions { directory, ..options }).unwrap();
    let process = servers.redis().unwrap().identity().unwrap();
    let port = servers.redis().unwrap().port().unwrap();
    drop(servers);
    assert!(process.is_running());

    // Its port is taken, as the next stack finds out.
    let ports = ServerPorts { redis: PortWish::Exactly(port), ..ServerPorts::default() };
    let taken = Servers::start(ServersOptions { ports, ..only("redis") }).unwrap_err();
    assert!(matches!(taken, Error::NoFreePort { .. }), "{taken}");
    std::process::Command::new("kill").args(["-9", &process.pid().to_string()]).status().unwrap();
}

#[test]
fn servers_that_somebody_else_runs_are_used_and_cannot_be_broken_from_here() {
    let owner = Servers::start(only("redis")).unwrap();
    let external = ExternalServers {
        kafka_bootstrap: Some("127.0.0.1:9".to_owned()),
        database_url: Some("postgres://nobody@127.0.0.1:9/none".to_owned()),
        redis_url: Some(owner.redis_url().to_owned()),
    };
    let user = Servers::start(ServersOptions { external, ..ServersOptions::default() }).unwrap();
    assert_eq!(user.redis_url(), owner.redis_url());
    assert_eq!(user.kafka_bootstrap(), "127.0.0.1:9");
    for server in [user.kafka(), user.postgres(), user.redis()] {
        assert!(matches!(server, Err(Error::External { .. })));
    }
    user.stop().unwrap();
    assert_eq!(redis(owner.redis().unwrap(), "PING"), "+PONG\r\n");
}

#[test]
fn beyond_loopback_postgres_and_redis_ask_for_the_password_that_is_in_their_urls() {
    let bind = "0.0.0.0".parse().unwrap();
    let servers = Servers::start(ServersOptions { bind, ..only("redis") }).unwrap();
    let (login, address) = servers.redis_url().strip_prefix("redis://:").unwrap().split_once('@').unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let mut exchange = |command: &str| {
        connection.write_all(command.as_bytes()).unwrap();
        let mut answer = [0; 256];
        let length = connection.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(exchange("PING\r\n").starts_with("-NOAUTH"));
    assert_eq!(exchange(&format!("AUTH {login}\r\n")), "+OK\r\n");
    assert_eq!(exchange("PING\r\n"), "+PONG\r\n");

    let servers = Servers::start(ServersOptions { bind, ..only("postgres") }).unwrap();
    assert!(servers.database_url().starts_with("postgres://postgres:"), "{}", servers.database_url());
    assert_eq!(sql(&servers, "select 1"), "1");
}

#[test]
fn encrypted_servers_take_their_one_user_through_tls_and_nobody_else() {
    let servers = Servers::start(ServersOptions { encrypted: true, ..ServersOptions::default() }).unwrap();
    assert_eq!(sql(&servers, "select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t");
    topics(&servers, &["--create", "--topic", "t", "--partitions", "1"]);
    assert_eq!(topics(&servers, &["--list"]).trim(), "t");
    assert!(servers.redis_url().starts_with("rediss://firstcome:"), "{}", servers.redis_url());

    // Who begins without a handshake gets no answer of theirs.
    let mut connection = TcpStream::connect(("127.0.0.1", servers.redis().unwrap().port().unwrap())).unwrap();
    connection.write_all(b"PING\r\n").unwrap();
    let mut answer = Vec::new();
    // It may hang up by a reset.
    let _ = connection.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"+PONG"), "{answer:?}");
    let open = format!("{}?sslmode=disable", servers.database_url());
    let refused = servers.run_sql(&open, "select 1").unwrap_err().to_string();
    assert!(refused.contains("no encryption"), "{refused}");

    // Certificates and passwords are still theirs after a restart.
    for server in [servers.kafka(), servers.postgres(), servers.redis()] {
        let server = server.unwrap();
        server.kill().unwrap();
        server.start_again().unwrap();
    }
    assert_eq!(topics(&servers, &["--list"]).trim(), "t");
}
