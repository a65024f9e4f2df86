//! The life of a service, on a stand-in that speaks the probes (`examples/stand_in_service.rs`) instead of the real binaries.
#![expect(clippy::unwrap_used, reason = "a failed expectation fails the test, in its helpers too")]

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use local_stack::{
    Deployment, Error, ExternalServers, Namespace, Role, Servers, ServersOptions, Service, ServiceSpec,
    Supervised,
};

const SOON: Duration = Duration::from_secs(20);

/// Cargo builds examples along with the tests, beside the folder of the test binaries.
fn stand_in() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/stand_in_service");
    assert!(program.is_file(), "run `cargo test -p local-stack`, which builds {}", program.display());
    program
}

/// Servers that are never asked: what is tested here is how services are started and stopped.
fn deployment() -> (Servers, Deployment) {
    let external = ExternalServers {
        kafka_bootstrap: Some("kafka.example:9092".to_owned()),
        database_url: Some("postgres://postgres@database.example/postgres".to_owned()),
        redis_url: Some("redis://redis.example".to_owned()),
    };
    let servers = Servers::start(ServersOptions { external, ..ServersOptions::default() }).unwrap();
    let namespace = Namespace {
        name: "t1".to_owned(),
        topic_prefix: "t1.".to_owned(),
        group_prefix: "t1.".to_owned(),
        redis_key_prefix: "t1:".to_owned(),
        database_url: "postgres://postgres@database.example/t1".to_owned(),
        partitions: 3,
    };
    let deployment = Deployment::new(&servers, namespace);
    (servers, deployment)
}

fn start(deployment: &Deployment, role: Role, behaviour: &str) -> Service {
    let mut spec = ServiceSpec::new(role).env("STAND_IN", behaviour);
    spec.binary = Some(stand_in());
    deployment.start(&spec).unwrap()
}

/// The names of the variables that the stand-in got, without `FIRSTCOME__`.
fn variables(service: &Service) -> Vec<String> {
    let log = std::fs::read_to_string(service.log()).unwrap();
    let names = log.lines().filter_map(|line| line.strip_prefix("FIRSTCOME__")?.split_once('='));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn a_service_is_ready_when_its_probe_says_so_and_ends_with_zero_on_sigterm() {
    let (_servers, deployment) = deployment();
    let service = start(&deployment, Role::ApiGateway, "ready after 3");
    service.wait_started(SOON).unwrap();
    service.wait_ready(SOON).unwrap();
    assert!(service.pid().is_some());
    assert!(service.exit_status().unwrap().is_none());
    assert_eq!(service.terminate().unwrap().code(), Some(0));
    assert!(service.pid().is_none());
    assert_eq!(service.exit_status().unwrap().unwrap().code(), Some(0));
}

#[test]
fn a_service_that_ends_early_shows_its_log() {
    let (_servers, deployment) = deployment();
    let began = Instant::now();
    let error = start(&deployment, Role::DbWriter, "exit 3").wait_ready(SOON).unwrap_err();
    assert!(matches!(&error, Error::EndedEarly { status, .. } if status.code() == Some(3)), "{error}");
    assert!(error.to_string().contains("the configuration makes no sense"), "{error}");
    assert!(began.elapsed() < SOON);
}

#[test]
fn a_service_that_is_not_ready_in_time_shows_its_reasons() {
    let (_servers, deployment) = deployment();
    let service = start(&deployment, Role::Notifier, "never ready");
    service.wait_started(SOON).unwrap();
    let error = service.wait_ready(Duration::from_millis(300)).unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("replaying"), "{error}");
}

#[test]
fn a_killed_service_starts_again_on_the_same_ports() {
    let (_servers, deployment) = deployment();
    let service = start(&deployment, Role::ApiGateway, "");
    service.wait_ready(SOON).unwrap();
    let (before, api_url) = (service.pid(), service.api_url());
    assert_eq!(service.kill().unwrap().signal(), Some(9));
    service.restart().unwrap();
    service.wait_ready(SOON).unwrap();
    assert_ne!(service.pid(), before);
    assert_eq!(service.api_url(), api_url);

    service.suspend().unwrap();
    assert!(service.wait_ready(Duration::from_millis(300)).is_err());
    service.resume().unwrap();
    service.wait_ready(SOON).unwrap();
    service.restart().unwrap();
    service.wait_ready(SOON).unwrap();
}

#[test]
fn each_role_gets_the_variables_that_it_knows_and_no_others() {
    let (_servers, deployment) = deployment();
    let expected = [
        (
            Role::ApiGateway,
            "ADMIN__LISTEN AUTH__ADMIN__AUDIENCE AUTH__AUDIENCE AUTH__HS256_SECRET AUTH__ISSUER \
             CLAIMS__NOTIFIER_URL HTTP__LISTEN KAFKA__BOOTSTRAP_SERVERS KAFKA__PARTITIONS KAFKA__TOPIC_PREFIX KEYS__ACTIVE_ID \
             KEYS__SECRETS__K1 OPS__LISTEN POSTGRES__URL PROFILE REDIS__KEY_PREFIX REDIS__URL",
        ),
        (
            Role::StockConsumer,
            "KAFKA__BOOTSTRAP_SERVERS KAFKA__GROUP_PREFIX KAFKA__PARTITIONS KAFKA__TOPIC_PREFIX OPS__LISTEN \
             POSTGRES__URL PROFILE REDIS__KEY_PREFIX REDIS__URL",
        ),
        (
            Role::DbWriter,
            "KAFKA__BOOTSTRAP_SERVERS KAFKA__GROUP_PREFIX KAFKA__PARTITIONS KAFKA__TOPIC_PREFIX KEYS__SECRETS__K1 \
             OPS__LISTEN POSTGRES__URL PROFILE",
        ),
        (
            Role::Notifier,
            "AUTH__AUDIENCE AUTH__HS256_SECRET AUTH__ISSUER HTTP__LISTEN KAFKA__BOOTSTRAP_SERVERS KAFKA__PARTITIONS \
             KAFKA__TOPIC_PREFIX KEYS__SECRETS__K1 OPS__LISTEN POSTGRES__URL PROFILE REDIS__KEY_PREFIX REDIS__URL",
        ),
    ];
    for (role, expected) in expected {
        let mut spec = ServiceSpec::new(role);
        spec.binary = Some(stand_in());
        if role == Role::ApiGateway {
            spec = spec.notifier_url("http://127.0.0.1:1");
        }
        let service = deployment.start(&spec).unwrap();
        service.wait_ready(SOON).unwrap();
        assert_eq!(variables(&service).join(" "), expected, "{role:?}");
        let given: Vec<_> =
            service.environment().iter().filter(|(name, _)| name.contains("SECRET")).collect();
        assert!(given.iter().all(|(_, value)| value.len() >= 32));
    }
}

#[test]
fn two_instances_of_one_role_have_their_own_ports_and_logs() {
    let (_servers, deployment) = deployment();
    let [one, other] = ["stock-consumer-1", "stock-consumer-2"].map(|name| {
        let mut spec = ServiceSpec::new(Role::StockConsumer).instance(name);
        spec.binary = Some(stand_in());
        deployment.start(&spec).unwrap()
    });
    one.wait_ready(SOON).unwrap();
    other.wait_ready(SOON).unwrap();
    assert_ne!(one.ops_url(), other.ops_url());
    assert_ne!(one.log(), other.log());
    assert!(other.log_tail(50).contains("FIRSTCOME__KAFKA__GROUP_PREFIX=t1."));
}

#[test]
fn a_missing_binary_is_answered_with_the_command_that_builds_it() {
    let error =
        local_stack::binary(local_stack::BuildProfile::Release, "no-such-service").unwrap_err().to_string();
    assert!(error.contains("cargo build --release --workspace --bins"), "{error}");
}
