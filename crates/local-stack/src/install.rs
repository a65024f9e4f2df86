//! Installing what is missing: PostgreSQL, Redis, Java and Maven from the distribution's packages.
//!
//! Debian's packages start their services right away. We want programs, not services, so for the time of the installation
//! services are forbidden to start and PostgreSQL to make a cluster, unless the machine already has a rule about that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::environment;
use crate::error::Error;
use crate::kafka::{self, KafkaSource};
use crate::postgres;
use crate::server::{create_folder, write_file};

/// What a stack needs from this machine.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    pub(crate) postgres: bool,
    pub(crate) redis: bool,
    /// `None` if Kafka runs elsewhere.
    pub(crate) kafka: Option<KafkaSource>,
}

/// Installs what is missing and fetches Kafka; says what it does through `say`. Quick if there is nothing to do.
///
/// # Errors
/// Without root, names the one command that root has to run.
pub(crate) fn ensure(needs: &Needs, say: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let packages = missing_packages(needs);
    if !packages.is_empty() {
        if !rustix::process::geteuid().is_root() || environment::find_program("apt-get").is_none() {
            return Err(Error::Missing { what: packages.join(", "), remedy: by_hand(&packages) });
        }
        say(&format!("installing {}", packages.join(", ")));
        install(&packages)?;
    }
    if let Some(kafka) = &needs.kafka {
        if !kafka.is_present() {
            say(&format!("fetching Kafka {} with Maven", kafka::KAFKA_VERSION));
        }
        kafka.libraries()?;
    }
    Ok(())
}

/// The error for a program that turned out to be missing when it was needed.
pub(crate) fn missing(program: &str) -> Error {
    let remedy = "run `cargo run -p local-stack -- install` (as root, or it tells you what root has to run)";
    Error::Missing { what: program.to_owned(), remedy: remedy.to_owned() }
}

fn missing_packages(needs: &Needs) -> Vec<&'static str> {
    let has = |program| environment::find_program(program).is_some();
    let must_fetch = matches!(&needs.kafka, Some(source @ KafkaSource::Cache(_)) if !source.is_present());
    let wanted = [
        ("postgresql", needs.postgres && postgres::program_folder().is_err()),
        ("redis-server", needs.redis && !has("redis-server")),
        ("openjdk-17-jre-headless", needs.kafka.is_some() && !kafka::java_is_installed()),
        ("maven", must_fetch && !has("mvn")),
    ];
    wanted.into_iter().filter(|(_, is_missing)| *is_missing).map(|(package, _)| package).collect()
}

fn by_hand(packages: &[&str]) -> String {
    format!("sudo apt-get install -y --no-install-recommends {}", packages.join(" "))
}

fn install(packages: &[&str]) -> Result<(), Error> {
    let _no_services = TemporaryFile::unless_present(
        Path::new("/usr/sbin/policy-rc.d"),
        "#!/bin/sh\n# local-stack: packages install programs, they start no services\nexit 101\n",
        0o755,
    )?;
    let _no_cluster = if packages.contains(&"postgresql") {
        TemporaryFile::unless_present(
            Path::new("/etc/postgresql-common/createcluster.d/local-stack.conf"),
            "create_main_cluster = false\n",
            0o644,
        )?
    } else {
        TemporaryFile(None)
    };
    apt_get(&["update"])?;
    apt_get(&[&["install", "-y", "--no-install-recommends"], packages].concat())?;
    if packages.contains(&"redis-server") && Path::new("/run/systemd/system").is_dir() {
        // Its package enables it for the next boot, too.
        let mut disable = Command::new("systemctl");
        disable.args(["disable", "--now", "redis-server"]);
        command::capture(&mut disable, "systemctl disable redis-server", command::SHORT)?;
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<(), Error> {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments);
    command::capture(&mut apt, &format!("apt-get {}", arguments.join(" ")), command::LONG).map(|_| ())
}

/// A file that exists for the time of an installation.
struct TemporaryFile(Option<PathBuf>);

impl TemporaryFile {
    fn unless_present(path: &Path, content: &str, mode: u32) -> Result<Self, Error> {
        if path.exists() {
            return Ok(Self(None));
        }
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        write_file(path, content)?;
        let file = Self(Some(path.to_owned()));
        fs::set_permissions(path, PermissionsExt::from_mode(mode))
            .map_err(Error::io(format!("set the mode of {}", path.display())))?;
        Ok(file)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // A file that stays is a rule against starting services, which the machine's owner can remove.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_rule_is_neither_replaced_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let present = folder.path().join("policy-rc.d");
        fs::write(&present, "mine").unwrap();
        drop(TemporaryFile::unless_present(&present, "ours", 0o755).unwrap());
        assert_eq!(fs::read_to_string(&present).unwrap(), "mine");

        let absent = folder.path().join("a/b.conf");
        let file = TemporaryFile::unless_present(&absent, "ours", 0o755).unwrap();
        assert_eq!(fs::metadata(&absent).unwrap().permissions().mode() & 0o777, 0o755);
        drop(file);
        assert!(!absent.exists());
    }
}
