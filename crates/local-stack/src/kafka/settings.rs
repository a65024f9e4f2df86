//! The broker's settings: small pools and heaps, single replicas, and nothing created by accident.

use std::fmt::Write as _;
use std::path::Path;

use crate::address;
use crate::encryption::{Encryption, USER};
use crate::server::Hosting;

/// Enough for the demo's load on two cores; resident about 230 MB.
pub(super) const JVM: [&str; 6] = [
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    // Its files under /tmp would outlive a killed JVM.
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
];

/// Tools live for a second: compile little, start quickly.
pub(super) const TOOL_JVM: [&str; 4] =
    ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/// The broker logs to stdout, which is the server's log file.
pub(super) const LOGGING: &str = "\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1} %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
";

/// Tools print their result on stdout; only errors may stand beside it.
pub(super) const TOOL_LOGGING: &str = "\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %-5p %c{1} %m%n
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
";

/// `server.properties`. A later line wins over an earlier one, so the caller's own settings come last.
pub(super) fn server(hosting: &Hosting, data: &Path, broker_port: u16, controller_port: u16) -> String {
    let protocol = if hosting.encryption.is_some() { "SASL_SSL" } else { "PLAINTEXT" };
    let listeners = |host| {
        let broker = std::net::SocketAddr::new(host, broker_port);
        let controller = std::net::SocketAddr::new(host, controller_port);
        format!("{protocol}://{broker},CONTROLLER://{controller}")
    };
    let controller = address::endpoint(hosting.bind, controller_port);
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         listeners={}\n\
         advertised.listeners={}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name={protocol}\n\
         listener.security.protocol.map={protocol}:{protocol},CONTROLLER:PLAINTEXT\n\
         controller.quorum.bootstrap.servers={controller}\n\
         log.dirs={}\n",
        listeners(hosting.bind),
        listeners(address::reachable(hosting.bind)),
        data.display(),
    );
    text.push_str(FIXED);
    if let Some(encryption) = &hosting.encryption {
        text.push_str(&encrypted(encryption, &hosting.password));
    }
    for (name, value) in &hosting.extra {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

/// The broker's listener: our certificate, and one user who may prove it in any of three ways. The controller's stays in the open: it
/// is this process's alone.
fn encrypted(encryption: &Encryption, password: &str) -> String {
    let module = "org.apache.kafka.common.security";
    let listener = "listener.name.sasl_ssl";
    format!(
        "ssl.keystore.type=PEM\n\
         ssl.keystore.location={}\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={}\n\
         ssl.client.auth=none\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         sasl.mechanism.inter.broker.protocol=PLAIN\n\
         {listener}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required \
         username=\"{USER}\" password=\"{password}\" user_{USER}=\"{password}\";\n\
         {listener}.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         {listener}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n",
        encryption.kafka_store().display(),
        encryption.ca_file().display(),
    )
}

/// After `kill -9` the controller waits for the end of the dead broker's session before it lets the new one in. With
/// Kafka's own 9 s a restart takes 12 s, with 3 s it takes 5 s (measured).
///
/// `min.insync.replicas` is not set here: it belongs to the topic (a broker-wide value is dropped under ELR).
const FIXED: &str = "\
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=2
num.recovery.threads.per.data.dir=1
background.threads=2
offsets.topic.num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
";
