//! `local-stack exec`: servers for the time of one command, however it ends.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation fails the test, in its helpers too"
)]

mod program;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use local_stack::{ProcessIdentity, eventually};
use program::{ADDRESSES, local_stack, signal, sql, variable};

const SOON: Duration = Duration::from_secs(60);

/// `local-stack exec -- sh -c SCRIPT`, with a folder for what the script writes.
fn exec(folder: &Path, script: &str) -> Command {
    let mut command = local_stack();
    command.args(["exec", "--", "sh", "-c", script]).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("OUT", folder).stdin(Stdio::null());
    command
}

/// The processes that were listed in `$OUT/pids` by the script below.
const LIST_SIBLINGS: &str = "ps -o pid= --ppid $PPID | tr -d ' ' > $OUT/pids.new; mv $OUT/pids.new $OUT/pids";

fn listed(folder: &Path) -> Vec<ProcessIdentity> {
    let text = fs::read_to_string(folder.join("pids")).unwrap();
    text.lines().filter_map(|line| ProcessIdentity::of(line.parse().unwrap())).collect()
}

fn wait_for_siblings(child: &mut Child, folder: &Path) -> Vec<ProcessIdentity> {
    assert!(eventually(SOON, || folder.join("pids").exists() || child.try_wait().unwrap().is_some()));
    let processes = listed(folder);
    assert_eq!(processes.len(), 4, "three servers and the command itself");
    processes
}

#[test]
fn exec_gives_servers_to_a_command_passes_its_exit_code_and_stops_them() {
    let folder = tempfile::tempdir().unwrap();
    let script = "env | grep ^LOCAL_STACK_ > $OUT/env; psql -d $LOCAL_STACK_DATABASE_URL -c 'create database mine' \
                  && exit 42";
    let output = exec(folder.path(), script).output().unwrap();
    assert_eq!(output.status.code(), Some(42), "{}", String::from_utf8_lossy(&output.stderr));
    let env = fs::read_to_string(folder.path().join("env")).unwrap();
    for name in ADDRESSES {
        variable(&env, name);
    }
    assert!(!sql(variable(&env, ADDRESSES[1]), "select 1").status.success(), "PostgreSQL must be gone");
    let redis = variable(&env, ADDRESSES[2]).strip_prefix("redis://").unwrap();
    assert!(std::net::TcpStream::connect(redis).is_err(), "Redis must be gone");
    assert!(std::net::TcpStream::connect(variable(&env, ADDRESSES[0])).is_err(), "Kafka must be gone");
}

#[test]
fn servers_and_command_die_with_an_exec_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = exec(folder.path(), &format!("{LIST_SIBLINGS}; exec sleep 600")).spawn().unwrap();
    let processes = wait_for_siblings(&mut child, folder.path());
    assert!(processes.iter().all(|process| process.is_running()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(eventually(SOON, || processes.iter().all(|process| !process.is_running())));
}

#[test]
fn exec_passes_a_signal_on_and_stops_the_servers_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("trap 'echo heard > $OUT/heard; exit 7' TERM; {LIST_SIBLINGS}; sleep 600 & wait");
    let mut child = exec(folder.path(), &script).spawn().unwrap();
    let processes = wait_for_siblings(&mut child, folder.path());
    signal("-TERM", child.id());
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(7), None));
    assert_eq!(fs::read_to_string(folder.path().join("heard")).unwrap(), "heard\n");
    assert!(processes.iter().all(|process| !process.is_running()));
}

#[test]
fn exec_starts_nothing_where_all_addresses_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let output = exec(folder.path(), "echo $LOCAL_STACK_REDIS_URL; ps -o comm= --ppid $PPID")
        .envs(ADDRESSES.map(|name| (name, "redis://elsewhere:1")))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(),
        ["redis://elsewhere:1", "sh"]
    );
}
