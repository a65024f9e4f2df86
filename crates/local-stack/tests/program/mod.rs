//! Running the `local-stack` program, and reading what it says.

use std::process::{Command, Output};

pub(crate) const ADDRESSES: [&str; 3] =
    ["LOCAL_STACK_KAFKA_BOOTSTRAP", "LOCAL_STACK_DATABASE_URL", "LOCAL_STACK_REDIS_URL"];

pub(crate) fn local_stack() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local-stack"));
    // These tests are about stacks of their own, also when the whole run has a shared one.
    for name in ADDRESSES {
        command.env_remove(name);
    }
    command
}

pub(crate) fn variable<'a>(env: &'a str, name: &str) -> &'a str {
    let prefix = format!("{name}=");
    env.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {name} in {env}"))
}

pub(crate) fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

pub(crate) fn sql(url: &str, statement: &str) -> Output {
    Command::new("psql").args(["-X", "-q", "-A", "-t", "-d", url, "-c", statement]).output().unwrap()
}
