//! The `local-stack` program itself: what it starts it stops, and nothing is left.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation fails the test, in its helpers too"
)]

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use local_stack::{ProcessIdentity, eventually};
use program::{local_stack, signal, sql, variable};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// A state directory whose stack is stopped at the end of the test, also if it fails.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        // As tempdir would have it, the user postgres could not reach its cluster.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        Self(tempfile::Builder::new().permissions(permissions).tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("stack")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = local_stack();
        command.arg(name).arg("--dir").arg(self.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let (name, rest) = arguments.split_first().unwrap();
        self.command(name).args(rest).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refuse(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path().join("state.json")).unwrap()).unwrap()
    }

    /// Every process that the state knows, if it still runs.
    fn processes(&self) -> Vec<ProcessIdentity> {
        let Ok(text) = fs::read(self.path().join("state.json")) else {
            return Vec::new();
        };
        let state: Value = serde_json::from_slice(&text).unwrap();
        let records = state["processes"].as_array().unwrap().clone();
        records.into_iter().map(|record| serde_json::from_value(record).unwrap()).collect()
    }

    fn files(&self) -> Vec<String> {
        names_in(&self.path())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn up_status_env_down_leave_no_process_and_no_lock() {
    let home = Home::new();
    assert!(home.refuse(&["env"]).contains("local-stack up"));
    assert_eq!(home.run(&["status"]).status.code(), Some(1));

    assert!(
        home.succeed(&["up", "--no-services", "--no-sync", "--partitions", "5"]).contains("the stack is up")
    );
    let processes = home.processes();
    assert_eq!(processes.len(), 3);
    let status: Value = serde_json::from_str(&home.succeed(&["status", "--output", "json"])).unwrap();
    assert_eq!(status["up"], true);
    let names: Vec<&str> = status["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| process["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["kafka", "postgres", "redis"]);

    let env = home.succeed(&["env"]);
    assert_eq!(variable(&env, "TOPIC_PARTITIONS"), "5");
    assert_eq!(variable(&env, "JWT_SECRET").len(), 48);
    assert_eq!(sql(variable(&env, "DATABASE_URL"), "select current_database()").stdout, b"local\n");
    assert!(variable(&env, "KAFKA_BOOTSTRAP").starts_with("127.0.0.1:"));
    assert!(variable(&env, "REDIS_URL").starts_with("redis://127.0.0.1:"));
    assert!(home.succeed(&["logs", "redis"]).contains("Ready to accept connections"));
    assert!(home.succeed(&["logs", "--lines", "3"]).contains("kafka          | "));

    let again = home.succeed(&["up", "--no-services"]);
    assert!(again.contains("already up") && again.contains(variable(&env, "KAFKA_BOOTSTRAP")), "{again}");
    assert_eq!(home.processes(), processes);

    home.succeed(&["down"]);
    assert!(processes.iter().all(|process| !process.is_running()));
    assert_eq!(home.files(), ["logs"]);
    assert_eq!(home.succeed(&["down"]), "no stack was up\n");
}

#[test]
fn kept_data_come_back_with_their_secrets_and_addresses() {
    let home = Home::new();
    home.succeed(&["up", "--no-services"]);
    let before = home.succeed(&["env"]);
    sql(variable(&before, "DATABASE_URL"), "create table t (a int); insert into t values (7)");
    home.succeed(&["down", "--keep-data"]);
    assert_eq!(home.files(), ["data", "logs"]);

    home.succeed(&["up", "--no-services"]);
    assert_eq!(home.succeed(&["env"]), before);
    assert_eq!(sql(variable(&before, "DATABASE_URL"), "select a from t").stdout, b"7\n");
    home.succeed(&["down"]);
    assert_eq!(home.files(), ["logs"]);
}

/// `up` that is killed when at least one server runs and Kafka, which takes seconds, is not ready yet.
fn interrupt_up(home: &Home) -> Vec<ProcessIdentity> {
    let mut up = home.command("up");
    let mut up = up.args(["--no-services", "--no-sync"]).stderr(Stdio::null()).spawn().unwrap();
    assert!(eventually(SOON, || !home.processes().is_empty()));
    assert!(home.refuse(&["down"]).contains("wait for it to end"), "one at a time");
    up.kill().unwrap();
    up.wait().unwrap();
    assert_eq!(home.state()["phase"], "starting");
    home.processes()
}

#[test]
fn an_interrupted_up_is_cleaned_by_down_or_the_next_up_and_a_crashed_stack_by_the_next_up() {
    let home = Home::new();
    let started = interrupt_up(&home);
    home.succeed(&["down"]);
    assert!(started.iter().all(|process| !process.is_running()));
    assert_eq!(home.files(), ["logs"]);

    let started = interrupt_up(&home);
    home.succeed(&["up", "--no-services", "--no-sync"]);
    assert!(started.iter().all(|process| !process.is_running()));
    let crashed = home.processes();
    signal("-KILL", crashed[0].pid());
    assert!(eventually(SOON, || !crashed[0].is_running()));
    let partly = home.refuse(&["up", "--no-services"]);
    assert!(partly.contains("partly up") && partly.contains("local-stack down"), "{partly}");
    assert_eq!(home.run(&["status"]).status.code(), Some(1));

    crashed[1..].iter().for_each(|process| signal("-KILL", process.pid()));
    assert!(eventually(SOON, || crashed.iter().all(|process| !process.is_running())));
    home.succeed(&["up", "--no-services", "--no-sync"]);
    assert!(home.processes().iter().all(|process| process.is_running() && !crashed.contains(process)));
}

#[test]
fn a_failed_up_stops_what_it_started() {
    let home = Home::new();
    // There is nothing behind this address, so the namespace's database cannot be made.
    let output = home
        .command("up")
        .args(["--no-services", "--database-url", "postgres://postgres@127.0.0.1:9/postgres"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("psql failed"), "{message}");
    assert!(home.processes().is_empty());
    assert!(!home.files().contains(&"state.json".to_owned()));
    let redis = fs::read_to_string(home.path().join("logs/redis.log")).unwrap();
    assert!(redis.contains("Redis is now ready to exit"), "{redis}");
}

#[test]
fn up_uses_servers_that_run_already_and_down_leaves_them_alone() {
    let (owner, user) = (Home::new(), Home::new());
    owner.succeed(&["up", "--no-services", "--no-sync"]);
    let env = owner.succeed(&["env"]);
    let maintenance = variable(&env, "DATABASE_URL").replace("/local", "/postgres");
    let output = user
        .command("up")
        .args(["--no-services", "--database-url", &maintenance])
        .env("LOCAL_STACK_KAFKA_BOOTSTRAP", variable(&env, "KAFKA_BOOTSTRAP"))
        .env("LOCAL_STACK_REDIS_URL", variable(&env, "REDIS_URL"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(user.processes().is_empty(), "nothing was started");
    assert_eq!(variable(&user.succeed(&["env"]), "REDIS_URL"), variable(&env, "REDIS_URL"));
    user.succeed(&["down"]);
    owner.succeed(&["status"]);
}

#[test]
fn a_cluster_that_its_user_cannot_reach_lies_elsewhere_and_goes_all_the_same() {
    let home = Home::new();
    // As below /root: nobody but its owner may pass.
    fs::set_permissions(home.0.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut up = home.command("up");
    up.args(["--no-services", "--kafka-bootstrap", "127.0.0.1:9", "--redis-url", "redis://127.0.0.1:9"]);
    let output = up.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(sql(variable(&home.succeed(&["env"]), "DATABASE_URL"), "select 1").stdout, b"1\n");

    // Only root changes the user, so only then is there an elsewhere.
    let elsewhere = fs::read_to_string(home.path().join("data/postgres-is-at")).ok().map(PathBuf::from);
    assert!(elsewhere.as_ref().is_none_or(|folder| folder.join("cluster").is_dir()));
    home.succeed(&["down"]);
    assert!(elsewhere.is_none_or(|folder| !folder.exists()));
}

#[test]
fn up_starts_the_services_after_their_topics_and_schema_and_down_stops_them_before_the_servers() {
    let home = Home::new();
    let target = tempfile::tempdir().unwrap();
    let binaries = target.path().join("debug");
    fs::create_dir(&binaries).unwrap();
    let test = std::env::current_exe().unwrap();
    let stand_in = test.parent().unwrap().parent().unwrap().join("examples/stand_in_service");
    for name in ["api-gateway", "stock-consumer", "db-writer", "notifier"] {
        fs::copy(&stand_in, binaries.join(name)).unwrap();
    }
    let steps = target.path().join("steps");
    let script = format!(
        "#!/bin/sh\necho \"$* $PROFILE $TOPIC_PREFIX $TOPIC_PARTITIONS $KAFKA_BOOTSTRAP $DATABASE_URL\" >> {}\n",
        steps.display()
    );
    let couponctl = binaries.join("couponctl");
    fs::write(&couponctl, script).unwrap();
    fs::set_permissions(&couponctl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

    let mut up = home.command("up");
    up.args(["--no-build", "--no-sync", "--kafka-bootstrap", "127.0.0.1:9"])
        .env("CARGO_TARGET_DIR", target.path());
    let output = up.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let env = home.succeed(&["env"]);
    // As the owner of the schema, not as the administrator.
    let database_url = variable(&env, "DATABASE_URL").replace("postgres@", "firstcome_migrator@");
    let topics = format!("dev local. 3 127.0.0.1:9 {database_url}");
    assert_eq!(fs::read_to_string(steps).unwrap(), format!("migrate {topics}\ntopics apply {topics}\n"));
    for name in ["API_URL", "ADMIN_URL", "NOTIFIER_URL", "GATEWAY_OPS_URL", "STOCK_CONSUMER_OPS_URL"] {
        assert!(variable(&env, name).starts_with("http://127.0.0.1:"), "{name}");
    }
    let gateway = home.succeed(&["logs", "api-gateway"]);
    let notifier_url = variable(&env, "NOTIFIER_URL");
    assert!(gateway.contains(&format!("FIRSTCOME__CLAIMS__NOTIFIER_URL={notifier_url}")), "{gateway}");
    let same_secret = format!("FIRSTCOME__AUTH__HS256_SECRET={}", variable(&env, "JWT_SECRET"));
    assert!(gateway.contains(&same_secret) && home.succeed(&["logs", "notifier"]).contains(&same_secret));

    let status: Value = serde_json::from_slice(&home.run(&["status", "-o", "json"]).stdout).unwrap();
    let states: Vec<(&str, bool)> = status["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| (process["name"].as_str().unwrap(), process["ready"].as_bool().unwrap()))
        .collect();
    let expected = [
        ("kafka", false), // nothing behind its address
        ("postgres", true),
        ("redis", true),
        ("stock-consumer", true),
        ("db-writer", true),
        ("notifier", true),
        ("api-gateway", true),
    ];
    assert_eq!(states, expected);
    let processes = home.processes();
    assert_eq!(processes.len(), 6);
    home.succeed(&["down"]);
    assert!(processes.iter().all(|process| !process.is_running()));
}

#[test]
fn an_encrypted_stack_says_what_its_clients_need() {
    let home = Home::new();
    home.succeed(&["up", "--no-services", "--no-sync", "--tls"]);
    home.succeed(&["status"]);
    let env = home.succeed(&["env"]);
    let authority = variable(&env, "FIRSTCOME__KAFKA__SSL_CA_FILE").to_owned();
    assert!(fs::read_to_string(&authority).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(variable(&env, "FIRSTCOME__KAFKA__SECURITY_PROTOCOL"), "sasl_ssl");
    assert_eq!(variable(&env, "FIRSTCOME__POSTGRES__TLS__CA_FILE"), authority);
    assert!(variable(&env, "REDIS_URL").starts_with("rediss://"));

    // The same data again, in the open: passwords of users are data, and certificates are not.
    home.succeed(&["down", "--keep-data"]);
    home.succeed(&["up", "--no-services", "--no-sync"]);
    assert!(!home.succeed(&["env"]).contains("FIRSTCOME__"));
}
