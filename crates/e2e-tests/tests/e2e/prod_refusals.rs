use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use local_stack::{BuildProfile, Role};
use serde_json::{Value, json};

/// A change of one setting; none takes it away.
type Change = (&'static str, Option<String>);

/// Something careless: who could do it, what is changed, and the key that the refusal must name.
struct Fault {
    roles: &'static [Role],
    changes: Vec<Change>,
    key: &'static str,
    says: &'static str,
}

/// A secret beside a file of keys, a file for TLS where TLS is off, two ways to be wrong of one URL.
const ALONE: [&str; 5] = [
    "auth.hs256_secret",
    "kafka.ssl_ca_file",
    "postgres.tls.ca_file",
    "redis.allow_plaintext",
    "redis.tls.ca_file",
];
const KEYED: &[Role] = &[Role::ApiGateway, Role::Notifier, Role::DbWriter];
const WITH_REDIS: &[Role] = &[Role::ApiGateway, Role::Notifier, Role::StockConsumer];
const WITH_TOKENS: &[Role] = &[Role::ApiGateway, Role::Notifier];
const GATEWAY: &[Role] = &[Role::ApiGateway];

/// In prod a complete configuration is valid, and each careless one refused with exit code 2, by its key: each alone, every limit of 0, and all
/// of them at once.
pub(crate) fn scenario() -> Result<()> {
    let files = tempfile::tempdir()?;
    for role in Role::ALL {
        let settings = complete(role, files.path())?;
        let checked = check(role, &settings)?;
        ensure!(checked.status.success(), "{}: {checked:?}", role.name());

        let faults: Vec<Fault> =
            faults(files.path())?.into_iter().filter(|fault| fault.roles.contains(&role)).collect();
        for fault in &faults {
            refused(role, &with(&settings, &fault.changes), &[(fault.key.to_owned(), fault.says)])?;
        }
        limits_of_zero(role, &settings)?;

        // Faults of one setting exclude each other: the last one stands. Some would be others beside others.
        let mut last = BTreeMap::new();
        for fault in faults.iter().filter(|fault| !ALONE.contains(&fault.key)) {
            last.insert(fault.key, fault);
        }
        let changes: Vec<Change> = last.values().flat_map(|fault| fault.changes.clone()).collect();
        let all: Vec<_> = last.values().map(|fault| (fault.key.to_owned(), fault.says)).collect();
        refused(role, &with(&settings, &changes), &all)?;
    }
    Ok(())
}

/// Every key that is a limit, as the service itself lists them.
fn limits_of_zero(role: Role, settings: &BTreeMap<String, String>) -> Result<()> {
    let printed = run(role, "--print-config", settings)?;
    ensure!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout)?;
    let keys = text.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key);
    let limits: Vec<&str> = keys.filter(|key| key.ends_with("_max")).collect();
    ensure!(limits.len() >= 5, "{} has limits: {text}", role.name());
    let mut zero = settings.clone();
    zero.extend(limits.iter().map(|key| (key.to_uppercase().replace('.', "__"), "0".to_owned())));
    let all: Vec<_> = limits.into_iter().map(|key| (key.to_owned(), "must ")).collect();
    refused(role, &zero, &all)
}

/// Exit code 2, and these keys, no others, each with what is wrong with it.
fn refused(role: Role, settings: &BTreeMap<String, String>, expected: &[(String, &str)]) -> Result<()> {
    let output = check(role, settings)?;
    let name = role.name();
    ensure!(output.status.code() == Some(2), "{name} should refuse {expected:?}: {output:?}");
    let text = String::from_utf8(output.stderr)?;
    let problems: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    for (key, says) in expected {
        let named = |problem: &&str| problem.starts_with(&format!("{key}: ")) && problem.contains(says);
        ensure!(problems.iter().any(named), "{name} should say {key}: {says}\n{text}");
    }
    ensure!(problems.len() == expected.len(), "{name} should name {expected:?} alone\n{text}");
    Ok(())
}

fn faults(files: &Path) -> Result<Vec<Fault>> {
    let file = |name: &str, content: &str| write(files, name, content).map(Some);
    let set = |key, value: &str| (key, Some(value.to_owned()));
    let inline = "must come from a file in prod";
    let default = "looks like a default or an example in prod";
    let random = "h8Xk2Qz9Lw4Rt7Yv1Nb6Mc3Pd5Sf0Gj8";
    let jwks_of_secret = json!({"keys": [{"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}]}).to_string();
    let fault = |roles, changes, key, says| Fault { roles, changes, key, says };
    let all = &Role::ALL;
    Ok(vec![
        fault(
            all,
            vec![set("KAFKA__REPLICATION_FACTOR", "2")],
            "kafka.replication_factor",
            "at least 3 in prod",
        ),
        fault(
            all,
            vec![set("KAFKA__MIN_INSYNC_REPLICAS", "1")],
            "kafka.min_insync_replicas",
            "at least 2 in prod",
        ),
        fault(
            all,
            vec![set("KAFKA__SECURITY_PROTOCOL", "sasl_plaintext"), ("KAFKA__SSL_CA_FILE", None)],
            "kafka.security_protocol",
            "kafka.allow_plaintext",
        ),
        fault(all, vec![set("KAFKA__SSL_CA_FILE", "/nowhere/ca.pem")], "kafka.ssl_ca_file", "cannot be read"),
        fault(
            all,
            vec![("KAFKA__SASL_PASSWORD_FILE", file("kafka", "kafka-password")?)],
            "kafka.sasl_password",
            default,
        ),
        fault(
            all,
            vec![("KAFKA__SASL_PASSWORD_FILE", None), set("KAFKA__SASL_PASSWORD", random)],
            "kafka.sasl_password",
            inline,
        ),
        fault(
            all,
            vec![("POSTGRES__TLS__ENABLED", None), ("POSTGRES__TLS__CA_FILE", None)],
            "postgres.tls.enabled",
            "set postgres.allow_plaintext",
        ),
        fault(
            all,
            vec![("POSTGRES__TLS__CA_FILE", file("no-ca", "no certificate")?)],
            "postgres.tls.ca_file",
            "holds no certificate",
        ),
        fault(
            all,
            vec![("POSTGRES__URL_FILE", file("pg", "postgres://postgres:postgres@db/firstcome")?)],
            "postgres.url",
            default,
        ),
        fault(
            all,
            vec![("POSTGRES__URL_FILE", None), set("POSTGRES__URL", "postgres://writer@db/firstcome")],
            "postgres.url",
            inline,
        ),
        fault(
            WITH_REDIS,
            vec![
                ("REDIS__URL_FILE", file("open", "redis://view:Gf4Ds7Az0Xc3@cache:6379/0")?),
                ("REDIS__TLS__CA_FILE", None),
            ],
            "redis.allow_plaintext",
            "redis.url must begin with rediss://",
        ),
        fault(
            WITH_REDIS,
            vec![set("REDIS__TLS__CA_FILE", "/nowhere/ca.pem")],
            "redis.tls.ca_file",
            "cannot be read",
        ),
        fault(
            WITH_REDIS,
            vec![("REDIS__URL_FILE", None), set("REDIS__URL", "rediss://cache")],
            "redis.url",
            inline,
        ),
        fault(WITH_TOKENS, vec![("AUTH__JWKS_FILE", None)], "auth.jwks_file", "must be set"),
        fault(
            WITH_TOKENS,
            vec![("AUTH__JWKS_FILE", file("secret.jwks", &jwks_of_secret)?)],
            "auth.jwks_file",
            "is a symmetric key",
        ),
        fault(
            WITH_TOKENS,
            vec![("AUTH__JWKS_FILE", None), ("AUTH__HS256_SECRET_FILE", file("hs256", random)?)],
            "auth.hs256_secret",
            "is for dev",
        ),
        fault(
            GATEWAY,
            vec![set("AUTH__ADMIN__AUDIENCE", "firstcome")],
            "auth.admin.audience",
            "users' tokens open the admin API",
        ),
        fault(
            KEYED,
            vec![("KEYS__SECRET_FILES__K1", file("short", "8Zq4yT0vMhbd1sXo")?)],
            "keys.secrets.k1",
            "needs at least 32",
        ),
        fault(
            KEYED,
            vec![("KEYS__SECRET_FILES__K1", file("default", "change-me-0123456789-abcdefghijklmnop")?)],
            "keys.secrets.k1",
            default,
        ),
        fault(
            KEYED,
            vec![("KEYS__SECRET_FILES__K1", None), set("KEYS__SECRETS__K1", random)],
            "keys.secrets.k1",
            inline,
        ),
        fault(GATEWAY, vec![set("KEYS__ACTIVE_ID", "k2")], "keys.active_id", "must name one of the keys"),
    ])
}

/// Everything that a service needs in prod. There is no `profile`: prod is the default.
fn complete(role: Role, files: &Path) -> Result<BTreeMap<String, String>> {
    let keys = json!({"keys": [public_key()]}).to_string();
    let authority = write(files, "ca.pem", "")?;
    local_stack::write_another_authority(Path::new(&authority))?;
    let settings = [
        (&Role::ALL[..], "KAFKA__BOOTSTRAP_SERVERS", "kafka-0:9093,kafka-1:9093".to_owned()),
        (&Role::ALL, "KAFKA__SECURITY_PROTOCOL", "sasl_ssl".to_owned()),
        (&Role::ALL, "KAFKA__SASL_MECHANISM", "SCRAM-SHA-512".to_owned()),
        (&Role::ALL, "KAFKA__SASL_USERNAME", "firstcome".to_owned()),
        (&Role::ALL, "KAFKA__SSL_CA_FILE", authority.clone()),
        (&Role::ALL, "KAFKA__SASL_PASSWORD_FILE", write(files, "sasl", "Jd7Kf0Qw3Er6Ty9U")?),
        (
            &Role::ALL,
            "POSTGRES__URL_FILE",
            write(files, "url", "postgres://writer:Vb2Nm5Lk8Jh1@db/firstcome")?,
        ),
        (&Role::ALL, "POSTGRES__TLS__ENABLED", "true".to_owned()),
        (&Role::ALL, "POSTGRES__TLS__CA_FILE", authority.clone()),
        (WITH_REDIS, "REDIS__URL_FILE", write(files, "redis", "rediss://view:Gf4Ds7Az0Xc3@cache:6379/0")?),
        (WITH_REDIS, "REDIS__TLS__CA_FILE", authority),
        (WITH_TOKENS, "AUTH__JWKS_FILE", write(files, "jwks", &keys)?),
        (KEYED, "KEYS__SECRET_FILES__K1", write(files, "k1", "8Zq4yT0vMhbd1sXo9pKw2LrUeC7nGfJt\n")?),
        (GATEWAY, "KEYS__ACTIVE_ID", "k1".to_owned()),
    ];
    let own = settings.into_iter().filter(|(roles, ..)| roles.contains(&role));
    Ok(own.map(|(_, key, value)| (key.to_owned(), value)).collect())
}

/// The public half of a key whose private half nobody has kept (RFC 8037, appendix A.2).
fn public_key() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "use": "sig", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
}

fn with(settings: &BTreeMap<String, String>, changes: &[Change]) -> BTreeMap<String, String> {
    let mut changed = settings.clone();
    for (key, value) in changes {
        match value {
            Some(value) => changed.insert((*key).to_owned(), value.clone()),
            None => changed.remove(*key),
        };
    }
    changed
}

fn write(folder: &Path, name: &str, content: &str) -> Result<String> {
    let file = folder.join(name);
    std::fs::write(&file, content)?;
    Ok(file.to_str().context("a temporary file has a plain name")?.to_owned())
}

fn check(role: Role, settings: &BTreeMap<String, String>) -> Result<Output> {
    run(role, "--check-config", settings)
}

fn run(role: Role, argument: &str, settings: &BTreeMap<String, String>) -> Result<Output> {
    let binary = local_stack::binary(BuildProfile::of_caller(), role.name())?;
    let settings = settings.iter().map(|(key, value)| (format!("FIRSTCOME__{key}"), value));
    Ok(Command::new(binary).arg(argument).env_clear().envs(settings).output()?)
}
