//! The cluster's folder: where it lies, how it is made, and how it goes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{SUPERUSER, shared_memory};
use crate::account::Account;
use crate::command;
use crate::encryption::{Encryption, write_secret};
use crate::environment;
use crate::error::Error;
use crate::process::ProcessIdentity;
use crate::server::{Hosting, create_folder, remove_folder, write_file};

/// Where the cluster goes if its user cannot reach the data folder.
const ELSEWHERE: &str = "/var/tmp";
/// In the data folder, the path of a cluster that lies elsewhere.
const POINTER: &str = "postgres-is-at";
const CLUSTER: &str = "cluster";
/// A copy of the cluster, for a server that follows the one on it.
const STANDBY: &str = "standby";
/// What becomes the cluster when `initdb` is done.
const NEW_CLUSTER: &str = "cluster.new";

/// Returns the folder of a cluster that is ready to be started; makes it if there is none.
pub(super) fn prepare(hosting: &Hosting, programs: &Path, account: Account) -> Result<PathBuf, Error> {
    let home = home(&hosting.data, account)?;
    let cluster = home.join(CLUSTER);
    if !cluster.exists() {
        initialise(&home, &cluster, programs, account, &hosting.password)?;
    }
    forget_dead_postmaster(&cluster.join("postmaster.pid"))?;
    write_access(hosting, &cluster, account)?;
    Ok(cluster)
}

/// Copies the cluster of a running server, and returns the folder of the copy: a server that is started there follows that one.
pub(super) fn copy(
    hosting: &Hosting,
    programs: &Path,
    account: Account,
    primary: &str,
) -> Result<PathBuf, Error> {
    let standby = home(&hosting.data, account)?.join(STANDBY);
    discard(&standby)?;
    let mut basebackup = account.command(&programs.join("pg_basebackup"));
    environment::remove_prefixed(&mut basebackup, &["PG"]);
    basebackup.args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync"]);
    basebackup.arg(format!("--dbname={primary}")).arg("-D").arg(&standby);
    command::capture(&mut basebackup, "pg_basebackup", command::SHORT * 2)?;
    write_access(hosting, &standby, account)?;
    Ok(standby)
}

/// Who may come in, and by which certificate the server is known.
fn write_access(hosting: &Hosting, cluster: &Path, account: Account) -> Result<(), Error> {
    // Written anew each time: the address may have changed since.
    let access = if hosting.encryption.is_some() { ENCRYPTED_ACCESS } else { ACCESS };
    write_file(&cluster.join("pg_hba.conf"), access)?;
    if let Some(encryption) = &hosting.encryption {
        give_certificate(encryption, cluster, account)?;
    }
    Ok(())
}

/// Removes the lock of a postmaster that is dead. PostgreSQL would do so itself, but where init does not bury its orphans (in
/// many a container) it takes the zombie for a running server. That no backend lives on is for PostgreSQL to check, by the
/// shared memory.
fn forget_dead_postmaster(lock: &Path) -> Result<(), Error> {
    let Ok(text) = fs::read_to_string(lock) else {
        return Ok(());
    };
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
    if pid.and_then(ProcessIdentity::of).is_some_and(ProcessIdentity::is_running) {
        return Ok(());
    }
    fs::remove_file(lock).map_err(Error::io(format!("remove {}", lock.display())))
}

/// Loopback is trusted (this is a developer's machine); every other way in needs the password.
const ACCESS: &str = "\
host all all 127.0.0.1/32 trust
host all all ::1/128 trust
host replication all 127.0.0.1/32 trust
host replication all ::1/128 trust
host all all all scram-sha-256
";

/// Through TLS and with the password, or not at all.
const ENCRYPTED_ACCESS: &str = "hostssl all all all scram-sha-256\n";

/// PostgreSQL refuses a key that others may read, and reads as its own user.
fn give_certificate(encryption: &Encryption, cluster: &Path, account: Account) -> Result<(), Error> {
    for (from, name) in [(encryption.certificate_file(), "server.crt"), (encryption.key_file(), "server.key")]
    {
        let to = cluster.join(name);
        let text = fs::read_to_string(&from).map_err(Error::io(format!("read {}", from.display())))?;
        write_secret(&to, &text)?;
        account.own(&to)?;
    }
    Ok(())
}

/// The folder that holds the cluster. Below `/root`, for instance, the user `postgres` reaches nothing: then it lies under
/// `/var/tmp`, and a file in the data folder says where.
fn home(data: &Path, account: Account) -> Result<PathBuf, Error> {
    if let Some(elsewhere) = elsewhere(data)? {
        return Ok(elsewhere);
    }
    let wanted = data.join("postgres");
    create_folder(&wanted)?;
    account.own(&wanted)?;
    restrict(&wanted)?;
    if account.can_reach(&wanted) {
        return Ok(wanted);
    }
    fs::remove_dir(&wanted).map_err(Error::io(format!("remove {}", wanted.display())))?;
    let home = tempfile::Builder::new().prefix("local-stack-postgres-").tempdir_in(ELSEWHERE);
    let home = home.map_err(Error::io(format!("create a folder in {ELSEWHERE}")))?.keep();
    write_file(&data.join(POINTER), &home.display().to_string())?;
    account.own(&home)?;
    Ok(home)
}

fn elsewhere(data: &Path) -> Result<Option<PathBuf>, Error> {
    let pointer = data.join(POINTER);
    match fs::read_to_string(&pointer) {
        Ok(path) => Ok(Some(PathBuf::from(path)).filter(|path| path.is_dir())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", pointer.display()))(error)),
    }
}

/// `initdb` into a folder beside the final one, which appears in one step: an interrupted one starts over.
fn initialise(
    home: &Path,
    cluster: &Path,
    programs: &Path,
    account: Account,
    password: &str,
) -> Result<(), Error> {
    let new = home.join(NEW_CLUSTER);
    discard(&new)?;
    let password_file = home.join("password");
    write_file(&password_file, password)?;
    account.own(&password_file)?;
    let mut initdb = account.command(&programs.join("initdb"));
    initdb
        .args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"])
        .arg(format!("--username={SUPERUSER}"))
        .arg(format!("--pwfile={}", password_file.display()))
        .arg("-D")
        .arg(&new);
    let made = command::capture(&mut initdb, "initdb", command::SHORT * 2);
    fs::remove_file(&password_file).map_err(Error::io(format!("remove {}", password_file.display())))?;
    made?;
    fs::rename(&new, cluster).map_err(Error::io(format!("create {}", cluster.display())))
}

/// Removes the cluster of this data folder, wherever it lies, and what its server may have left in the kernel.
pub(crate) fn remove(data: &Path) -> Result<(), Error> {
    for home in elsewhere(data)?.into_iter().chain([data.join("postgres")]) {
        discard(&home.join(NEW_CLUSTER))?;
        discard(&home.join(CLUSTER))?;
        discard(&home.join(STANDBY))?;
        remove_folder(&home)?;
    }
    Ok(())
}

/// Removes a cluster, finished or not, once nobody works in it: the backend of an `initdb` that was killed, or those of a killed
/// server, take a moment to notice.
fn discard(cluster: &Path) -> Result<(), Error> {
    shared_memory::release(&cluster.join("postmaster.pid"));
    remove_folder(cluster)
}

fn restrict(folder: &Path) -> Result<(), Error> {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o700))
        .map_err(Error::io(format!("restrict {}", folder.display())))
}
