//! A server of a test's own, and talking to it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use local_stack::{ExternalServers, Server, Servers, ServersOptions};

pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const NOBODY: &str = "nobody-is-asked";

/// A stack of which only the named server is our own, so that a test that breaks Redis need not wait for Kafka.
pub(crate) fn only(server: &str) -> ServersOptions {
    let other = |name: &str| (name != server).then(|| NOBODY.to_owned());
    ServersOptions {
        external: ExternalServers {
            kafka_bootstrap: other("kafka"),
            database_url: other("postgres"),
            redis_url: other("redis"),
        },
        ..ServersOptions::default()
    }
}

/// Sends one command to Redis and returns the answer, up to a kilobyte.
pub(crate) fn redis(server: &Server, command: &str) -> String {
    let address = server.endpoint().strip_prefix("redis://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut answer = [0; 1024];
    let length = connection.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

pub(crate) fn sql(servers: &Servers, statement: &str) -> String {
    servers.run_sql(servers.database_url(), statement).unwrap().trim().to_owned()
}

pub(crate) fn topics(servers: &Servers, arguments: &[&str]) -> String {
    servers.kafka_tool("org.apache.kafka.tools.TopicCommand", arguments).unwrap()
}
