//! Kafka: one node that is broker and controller (KRaft), on one JVM of modest size.

mod artifacts;
mod handshake;
mod settings;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;

use crate::account::Account;
use crate::address;
use crate::command;
use crate::encryption::{USER, write_secret};
use crate::environment;
use crate::error::Error;
use crate::install;
use crate::launch::Launch;
use crate::ports::{PortLease, PortWish};
use crate::server::{Hosting, Server, remove_folder, write_file};
use crate::stop_request::StopRequest;

pub(crate) use artifacts::{KAFKA_VERSION, KafkaSource};
pub(crate) use handshake::ask as ask_for_brokers;

/// A controlled shutdown of an idle broker takes less than a second.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Starts a Kafka and waits until its broker takes part in the cluster.
pub(crate) fn start(hosting: &Hosting, libraries: &Path) -> Result<Server, Error> {
    let java = java()?;
    let broker = PortLease::take(hosting.bind, hosting.port)?;
    let controller = PortLease::take(hosting.bind, PortWish::Any)?;
    let folder = hosting.folder("kafka")?;
    let properties = folder.join("server.properties");
    let logging = folder.join("log4j2.properties");
    let data = folder.join("log");
    write_secret(&properties, &settings::server(hosting, &data, broker.port(), controller.port()))?;
    write_file(&logging, settings::LOGGING)?;
    format_once(&java, libraries, &folder, &properties, &logging, &hosting.password)?;

    let address = address::endpoint(hosting.bind, broker.port());
    let mut arguments: Vec<OsString> = settings::JVM.map(OsString::from).into();
    arguments.extend(class_path(libraries, &logging));
    arguments.extend(["kafka.Kafka".into(), properties.into_os_string()]);
    let launch = Launch {
        name: "kafka".to_owned(),
        program: java,
        arguments,
        environment: Vec::new(),
        account: Account::Own,
        lifetime: hosting.lifetime.clone(),
        log: hosting.log.clone(),
        stop_request: StopRequest::Terminate,
    };
    let encryption = hosting.encryption.clone();
    let ready = Box::new(move || handshake::ask(address, encryption.as_ref()));
    Server::start(address.to_string(), vec![broker, controller], launch, STOP_DEADLINE, ready)
}

/// Runs one of Kafka's command-line tools by its class, such as `org.apache.kafka.tools.TopicCommand`.
pub(crate) fn run_tool(libraries: &Path, class: &str, arguments: &[&str]) -> Result<String, Error> {
    let logging = tempfile::Builder::new().suffix(".properties").tempfile();
    let logging = logging.map_err(Error::io("create a temporary file"))?;
    write_file(logging.path(), settings::TOOL_LOGGING)?;
    let mut tool = Account::Own.command(&java()?);
    tool.args(settings::TOOL_JVM).args(class_path(libraries, logging.path())).arg(class).args(arguments);
    command::capture(&mut tool, class, command::SHORT * 2)
}

/// Whether there is a Java to run Kafka with.
pub(crate) fn java_is_installed() -> bool {
    java().is_ok()
}

/// Gives the data directory its identity, once. The marker is written last: a format that was interrupted starts over.
fn format_once(
    java: &Path,
    libraries: &Path,
    folder: &Path,
    properties: &Path,
    logging: &Path,
    password: &str,
) -> Result<(), Error> {
    let marker = folder.join("formatted");
    if marker.exists() {
        return Ok(());
    }
    let data = folder.join("log");
    remove_folder(&data)?;
    let mut tool = Account::Own.command(java);
    tool.args(settings::TOOL_JVM)
        .args(class_path(libraries, logging))
        .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", &random_cluster_id(), "-c"])
        .arg(properties);
    // Always, so that the same data can be used with encryption later; nobody is asked for it in the open.
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        tool.arg("--add-scram").arg(format!("{mechanism}=[name={USER},password={password}]"));
    }
    command::capture(&mut tool, "formatting Kafka's data directory", command::SHORT * 2)?;
    write_file(&marker, "")
}

/// Kafka's ids are 16 bytes in URL-safe base64 without padding: 22 characters, of which the last carries two bits.
fn random_cluster_id() -> String {
    let mut random = rand::rng();
    let mut id: String = (0..21).map(|_| random.sample(rand::distr::Alphanumeric)).map(char::from).collect();
    id.push('A');
    id
}

fn class_path(libraries: &Path, logging: &Path) -> [OsString; 3] {
    let mut configuration = OsString::from("-Dlog4j2.configurationFile=");
    configuration.push(logging);
    [configuration, "-cp".into(), libraries.join("*").into_os_string()]
}

fn java() -> Result<PathBuf, Error> {
    let of_home =
        environment::path("JAVA_HOME").map(|home| home.join("bin/java")).filter(|java| java.is_file());
    of_home.or_else(|| environment::find_program("java")).ok_or_else(|| install::missing("java"))
}
