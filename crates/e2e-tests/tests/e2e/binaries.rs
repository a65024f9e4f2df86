use std::process::{Command, Output, Stdio};

use anyhow::{Result, ensure};
use local_stack::{BuildProfile, Role};

/// `--version`, `--print-config`, `--check-config` and `healthcheck` of every binary, and exit code 2 with everything that is wrong.
pub(crate) fn scenario() -> Result<()> {
    for role in Role::ALL.into_iter().chain([Role::Reconciler]) {
        let name = role.name();
        let version = run(role, &["--version"], &[])?;
        ensure!(version.status.success(), "{version:?}");
        let text = String::from_utf8(version.stdout)?;
        ensure!(
            text.starts_with(name) && text.contains("librdkafka 2.") && text.contains("schema 1"),
            "{text}"
        );

        let secret = "s".repeat(40);
        let good = [
            ("PROFILE", "dev"),
            ("POSTGRES__URL", "postgres://writer:hush@localhost/x"),
            ("REDIS__URL", "redis://localhost"),
            ("AUTH__HS256_SECRET", secret.as_str()),
            ("KEYS__SECRETS__K1", secret.as_str()),
            ("KEYS__ACTIVE_ID", "k1"),
        ];
        let known = |key: &str| match role {
            Role::ApiGateway => true,
            Role::StockConsumer | Role::Reconciler => !key.starts_with("AUTH") && !key.starts_with("KEYS"),
            Role::DbWriter => {
                !key.starts_with("AUTH") && !key.starts_with("REDIS") && key != "KEYS__ACTIVE_ID"
            }
            Role::Notifier => key != "KEYS__ACTIVE_ID",
        };
        let good: Vec<_> = good.into_iter().filter(|(key, _)| known(key)).collect();
        let checked = run(role, &["--check-config"], &good)?;
        ensure!(checked.status.success(), "{checked:?}");
        let printed = run(role, &["--print-config"], &good)?;
        let text = String::from_utf8(printed.stdout)?;
        ensure!(text.contains("kafka.linger_ms = 5 # default"), "{text}");
        ensure!(text.contains(r#"profile = "dev" # $FIRSTCOME__PROFILE"#), "{text}");
        ensure!(!text.contains("hush") && !text.contains(&secret), "a secret is printed: {text}");

        let mut wrong = good.clone();
        wrong.extend([("KAFKA__LINGER", "1"), ("KAFKA__PARTITIONS", "many"), ("OPS__DRAIN_MS_MAX", "5")]);
        let refused = run(role, &["--check-config"], &wrong)?;
        ensure!(refused.status.code() == Some(2), "{refused:?}");
        let text = String::from_utf8(refused.stderr)?;
        ensure!(
            text.contains("kafka.linger: is no key of this service; did you mean kafka.linger_ms?"),
            "{text}"
        );
        ensure!(
            text.contains("kafka.partitions: cannot be read")
                && text.contains("ops.drain_ms_max: must be 1000..=600000"),
            "{text}"
        );

        // What prod refuses: secrets in the open, plaintext.
        let prod: Vec<_> = good.iter().copied().filter(|(key, _)| *key != "PROFILE").collect();
        let refused = run(role, &["--check-config"], &prod)?;
        ensure!(refused.status.code() == Some(2), "{refused:?}");
        let text = String::from_utf8(refused.stderr)?;
        ensure!(text.contains("postgres.url: must come from a file in prod"), "{text}");
        ensure!(text.contains("kafka.security_protocol: must be ssl or sasl_ssl in prod"), "{text}");

        let mut nobody = good.clone();
        nobody.push(("OPS__LISTEN", "127.0.0.1:1"));
        let health = run(role, &["healthcheck"], &nobody)?;
        ensure!(health.status.code() == Some(1), "{health:?}");
        ensure!(String::from_utf8(health.stderr)?.contains("no answer from 127.0.0.1:1"));
    }
    nobody_reads()
}

/// What the command line did is done, whether anybody reads of it or not: no panic, and where standard output is full standard error tells.
fn nobody_reads() -> Result<()> {
    let binary = local_stack::binary(BuildProfile::of_caller(), "couponctl")?;
    let token = || {
        let mut command = Command::new(&binary);
        command.args(["token", "ann"]).env("JWT_SECRET", "s".repeat(40)).stderr(Stdio::piped());
        command
    };
    let full = token().stdout(std::fs::File::options().write(true).open("/dev/full")?).output()?;
    let text = String::from_utf8(full.stderr)?;
    ensure!(full.status.success() && text.starts_with("eyJ"), "{text}");
    ensure!(text.contains("standard output cannot be written"), "{text}");

    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let unread = token().stdout(writer).output()?;
    ensure!(unread.status.success() && unread.stderr.is_empty(), "{unread:?}");
    Ok(())
}

fn run(role: Role, arguments: &[&str], settings: &[(&str, &str)]) -> Result<Output> {
    let binary = local_stack::binary(BuildProfile::of_caller(), role.name())?;
    let settings = settings.iter().map(|(key, value)| (format!("FIRSTCOME__{key}"), (*value).to_owned()));
    Ok(Command::new(binary).args(arguments).env_clear().envs(settings).output()?)
}
