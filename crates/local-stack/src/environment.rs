//! The only place of this crate that reads the environment.
//!
//! The services read their environment through service-runtime. This crate is a tool beside them: it takes the addresses
//! of servers that somebody else runs, and what cargo tells its children.
#![expect(
    clippy::disallowed_methods,
    reason = "the one module that reads the environment; everything else takes values"
)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Address of a Kafka that is used as it is.
pub(crate) const KAFKA_BOOTSTRAP: &str = "LOCAL_STACK_KAFKA_BOOTSTRAP";
/// Address of a PostgreSQL that is used as it is: superuser, maintenance database.
pub(crate) const DATABASE_URL: &str = "LOCAL_STACK_DATABASE_URL";
/// Address of a Redis that is used as it is.
pub(crate) const REDIS_URL: &str = "LOCAL_STACK_REDIS_URL";
/// Folder for what is downloaded once, instead of `.cache` in the workspace.
pub(crate) const CACHE: &str = "LOCAL_STACK_CACHE";
/// An installed Kafka distribution.
pub(crate) const KAFKA_HOME: &str = "KAFKA_HOME";

/// The variable's value; an empty one counts as unset.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable's value as a path; an empty one counts as unset.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Keeps variables with one of these prefixes away from a child: what configures a server or service is what we pass.
pub(crate) fn remove_prefixed(command: &mut Command, prefixes: &[&str]) {
    for name in names_with_prefix(prefixes) {
        command.env_remove(name);
    }
}

/// The full path of a program on `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn names_with_prefix(prefixes: &[&str]) -> Vec<OsString> {
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| {
            let name = name.to_string_lossy();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        })
        .collect()
}
