use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_tests::user::event;
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use futures_util::future::try_join_all;
use local_stack::{BuildProfile, Encryption, Role, Server, Servers, ServersOptions, ServiceSpec};

const USERS: usize = 24;
const COUPONS: u32 = 10;
/// Whoever is refused says so long before.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Servers that speak TLS alone, to whoever has the password. What is wrong is told by the key that mends it, and nothing hangs.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let servers =
            Arc::new(Servers::start(ServersOptions { encrypted: true, ..ServersOptions::default() })?);
        let mut world = World::prepare_on(servers, WorldSpec::default())?;
        let files = tempfile::tempdir()?;
        start_services(&mut world, files.path())?;

        a_crowd_is_served(&world).await?;
        nothing_is_open(&world)?;
        every_mechanism_is_taken(&world)?;
        strangers_are_refused(&world, files.path())?;
        a_service_that_waits_says_why(&mut world, files.path()).await?;

        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == COUPONS, "{report}");
        Ok(())
    })
}

/// All five, with their secrets in files as prod wants them.
fn start_services(world: &mut World, files: &Path) -> Result<()> {
    let postgres = write(files, "postgres", &world.deployment.namespace.database_url)?;
    let redis = write(files, "redis", &world.deployment.redis_url)?;
    for role in [Role::StockConsumer, Role::DbWriter, Role::Notifier, Role::Reconciler, Role::ApiGateway] {
        let mut spec = ServiceSpec::new(role)
            .without("FIRSTCOME__POSTGRES__URL")
            .env("FIRSTCOME__POSTGRES__URL_FILE", &postgres);
        if role != Role::DbWriter {
            spec = spec.without("FIRSTCOME__REDIS__URL").env("FIRSTCOME__REDIS__URL_FILE", &redis);
        }
        if role == Role::StockConsumer {
            spec = spec.env("FIRSTCOME__DECIDE__REFRESH_INTERVAL_MS", "1000");
        }
        if role == Role::ApiGateway {
            let notifier = world.service(Role::Notifier.name())?.api_url();
            spec = spec.notifier_url(notifier.context("a notifier has an API")?);
        }
        world.add_spec(spec)?;
    }
    for role in Role::ALL.into_iter().chain([Role::Reconciler]) {
        world.wait_ready(role.name())?;
    }
    Ok(())
}

/// Granted, stored and pushed, as in the open.
async fn a_crowd_is_served(world: &World) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec::of(COUPONS)).await?;
    let users: Vec<_> = (0..USERS).map(|n| world.user(&format!("user-{n}"))).collect::<Result<_>>()?;
    let claims = try_join_all(users.iter().map(|user| user.claim(&coupon_id))).await?;
    let streams = users.iter().zip(&claims).map(|(user, claim_id)| user.events(claim_id, None));
    let mut granted = 0;
    for events in try_join_all(streams).await? {
        if event(&events, "decided")?["code"] == "granted" {
            granted += 1;
            ensure!(event(&events, "persisted")?["coupon_code"].is_string(), "{events:?}");
        }
    }
    ensure!(granted == COUPONS, "{granted} were told that they have one");
    ensure!(world.sql("select count(*) from issued_coupons")? == COUPONS.to_string());

    // And once more from the view, which Redis holds: the reconciler compares it with the log.
    world.wait_until_quiet().await?;
    let again = users[0].press(&coupon_id).await?;
    ensure!(again.status.as_u16() == 200 && again.body["final"] == true, "{again:?}");
    eventually("all three answer the gateway", async || {
        let up = world.metrics(Role::ApiGateway.name()).await?;
        let answers = |dependency| {
            let series =
                format!(r#"coupon_dependency_up{{dependency="{dependency}",service="api-gateway"}} 1"#);
            up.lines().any(|line| line == series)
        };
        Ok(["kafka", "postgres", "redis"].into_iter().all(answers).then_some(()))
    })
    .await
}

/// The servers' own view: no connection without TLS, and no port on which there could be one.
fn nothing_is_open(world: &World) -> Result<()> {
    let connections = "select count(*) filter (where ssl), count(*) filter (where not ssl) \
                       from pg_stat_ssl join pg_stat_activity using (pid) where backend_type = 'client backend'";
    let counted = world.sql(connections)?;
    let (encrypted, open) = counted.split_once('|').context("two counts")?;
    ensure!(encrypted.parse::<u32>()? >= 4 && open == "0", "PostgreSQL has {counted} connections");
    ensure!(world.sql("select version from pg_stat_ssl where pid = pg_backend_pid()")?.starts_with("TLSv1."));

    let redis = world.servers().redis()?;
    ensure!(!speaks_in_the_open(redis, b"PING\r\n", b"+PONG")?, "Redis answers in the open");
    // ApiVersions, which every listener answers to everybody: correlation id 1 comes back.
    let hello = b"\0\0\0\x0a\0\x12\0\0\0\0\0\x01\xff\xff";
    ensure!(!speaks_in_the_open(world.servers().kafka()?, hello, b"\0\0\0")?, "Kafka answers in the open");
    Ok(())
}

fn speaks_in_the_open(server: &Server, question: &[u8], answer: &[u8]) -> Result<bool> {
    let mut connection = TcpStream::connect(("127.0.0.1", server.port().context("it has a port")?))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(question)?;
    let mut said = Vec::new();
    // Hanging up by a reset and saying nothing are both right.
    let _ = connection.read_to_end(&mut said);
    Ok(said.starts_with(answer))
}

/// SCRAM-SHA-512 is what the services use here.
fn every_mechanism_is_taken(world: &World) -> Result<()> {
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let checked = couponctl(
            world,
            &["topics", "check"],
            &[("FIRSTCOME__KAFKA__SASL_MECHANISM", mechanism.to_owned())],
        )?;
        ensure!(checked.status.success(), "{mechanism}: {checked:?}");
    }
    Ok(())
}

/// What is changed, and what the refusal must say. An empty value takes the variable away.
type Stranger = (&'static str, Vec<(&'static str, String)>, &'static str);

/// A wrong authority, a host that the certificate does not name, a wrong password, no TLS: for each server.
fn strangers_are_refused(world: &World, files: &Path) -> Result<()> {
    let another = files.join("another-ca.pem");
    local_stack::write_another_authority(&another)?;
    let another = another.display().to_string();
    let wrong_password = write(files, "wrong-password", "Zq4yT0vMhbd1")?;
    let database = world.deployment.namespace.database_url.clone();
    let redis = world.deployment.redis_url.clone();
    let password = world.servers().encryption().context("they are encrypted")?.password_file();
    let password = std::fs::read_to_string(password)?;
    let elsewhere = |url: &str| url.replace("127.0.0.1", "localhost");
    let forgotten = |url: &str| url.replace(&password, "Zq4yT0vMhbd1");
    let none = String::new;

    let kafka: [Stranger; 4] = [
        (
            "another authority",
            vec![("FIRSTCOME__KAFKA__SSL_CA_FILE", another.clone())],
            "kafka.ssl_ca_file must",
        ),
        (
            "another host",
            vec![("KAFKA_BOOTSTRAP", elsewhere(&world.deployment.kafka_bootstrap))],
            "kafka.bootstrap_servers",
        ),
        (
            "another password",
            vec![("FIRSTCOME__KAFKA__SASL_PASSWORD_FILE", wrong_password)],
            "kafka.sasl_password_file must",
        ),
        (
            "no TLS",
            vec![
                ("FIRSTCOME__KAFKA__SECURITY_PROTOCOL", "plaintext".to_owned()),
                ("FIRSTCOME__KAFKA__SSL_CA_FILE", none()),
                ("FIRSTCOME__KAFKA__SASL_MECHANISM", none()),
                ("FIRSTCOME__KAFKA__SASL_USERNAME", none()),
                ("FIRSTCOME__KAFKA__SASL_PASSWORD_FILE", none()),
            ],
            "kafka.security_protocol must",
        ),
    ];
    let postgres: [Stranger; 4] = [
        (
            "another authority",
            vec![("FIRSTCOME__POSTGRES__TLS__CA_FILE", another.clone())],
            "postgres.tls.ca_file must",
        ),
        ("another host", vec![("DATABASE_URL", elsewhere(&database))], "the host in postgres.url must"),
        ("another password", vec![("DATABASE_URL", forgotten(&database))], "postgres.url (or url_file) must"),
        (
            "no TLS",
            vec![
                ("FIRSTCOME__POSTGRES__TLS__ENABLED", "false".to_owned()),
                ("FIRSTCOME__POSTGRES__TLS__CA_FILE", none()),
            ],
            "set postgres.tls.enabled",
        ),
    ];
    let view: [Stranger; 4] = [
        ("another authority", vec![("FIRSTCOME__REDIS__TLS__CA_FILE", another)], "redis.tls.ca_file must"),
        ("another host", vec![("REDIS_URL", elsewhere(&redis))], "the host in redis.url must"),
        ("another password", vec![("REDIS_URL", forgotten(&redis))], "redis.url (or url_file) must"),
        (
            "no TLS",
            vec![
                ("REDIS_URL", redis.replace("rediss://", "redis://")),
                ("FIRSTCOME__REDIS__TLS__CA_FILE", none()),
            ],
            "redis.url must begin with rediss://",
        ),
    ];
    let out = files.join("dump").display().to_string();
    // The view is the first that a dump asks.
    let commands: [(&[&str], &[Stranger]); 3] =
        [(&["topics", "check"], &kafka), (&["migrate"], &postgres), (&["dump", "--out", &out], &view)];
    for (command, strangers) in commands {
        for (who, changes, says) in strangers {
            let began = Instant::now();
            let refused = couponctl(world, command, changes)?;
            let text = String::from_utf8_lossy(&refused.stderr);
            ensure!(refused.status.code() == Some(1), "{command:?} with {who}: {refused:?}");
            ensure!(text.contains(says), "{command:?} with {who} should say {says:?}: {text}");
            ensure!(!text.contains(&password), "{command:?} with {who} tells the password");
            ensure!(began.elapsed() < SILENT_MAX, "{command:?} with {who} took {:?}", began.elapsed());
        }
    }
    // A control: with nothing changed each of them does its work.
    for (command, _) in commands {
        let done = couponctl(world, command, &[])?;
        ensure!(done.status.success(), "{command:?}: {done:?}");
    }
    Ok(())
}

/// `/startupz` tells it, too: whoever looks at a pod that does not start reads the key there.
async fn a_service_that_waits_says_why(world: &mut World, files: &Path) -> Result<()> {
    let another = files.join("another-ca.pem").display().to_string();
    let troubles = [
        ("no-kafka", "FIRSTCOME__KAFKA__SSL_CA_FILE", "kafka.ssl_ca_file must"),
        ("no-postgres", "FIRSTCOME__POSTGRES__TLS__CA_FILE", "postgres.tls.ca_file must"),
    ];
    for (name, key, says) in troubles {
        world.add_spec(ServiceSpec::new(Role::DbWriter).instance(name).env(key, &another))?;
        let url = format!("{}/startupz", world.service(name)?.ops_url());
        eventually(says, async || {
            // It may not listen yet.
            let Ok(response) = reqwest::get(&url).await else { return Ok(None) };
            let waits = response.status().as_u16() == 503;
            Ok((waits && response.text().await?.contains(says)).then_some(()))
        })
        .await?;
        world.stop(name)?;
    }
    Ok(())
}

/// `couponctl` as an operator would call it, with some variables changed.
fn couponctl(world: &World, arguments: &[&str], changes: &[(&'static str, String)]) -> Result<Output> {
    let deployment = &world.deployment;
    let namespace = &deployment.namespace;
    let mut variables: BTreeMap<String, String> = [
        ("PROFILE", "dev".to_owned()),
        ("KAFKA_BOOTSTRAP", deployment.kafka_bootstrap.clone()),
        ("TOPIC_PREFIX", namespace.topic_prefix.clone()),
        ("TOPIC_PARTITIONS", namespace.partitions.to_string()),
        ("DATABASE_URL", namespace.database_url.clone()),
        ("REDIS_URL", deployment.redis_url.clone()),
        ("REDIS_PREFIX", namespace.redis_key_prefix.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let encryption = deployment.encryption.iter().flat_map(Encryption::settings);
    variables.extend(encryption.map(|(name, value)| (format!("FIRSTCOME__{name}"), value)));
    for (name, value) in changes {
        match value.is_empty() {
            true => variables.remove(*name),
            false => variables.insert((*name).to_owned(), value.clone()),
        };
    }
    let binary = local_stack::binary(BuildProfile::of_caller(), "couponctl")?;
    Ok(Command::new(binary).args(arguments).env_clear().envs(variables).output()?)
}

fn write(folder: &Path, name: &str, content: &str) -> Result<String> {
    let file = folder.join(name);
    std::fs::write(&file, content)?;
    Ok(file.to_str().context("a temporary file has a plain name")?.to_owned())
}
