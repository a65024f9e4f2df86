//! Our own binaries: building them and finding them.

use std::path::PathBuf;
use std::process::Command;

use crate::environment;
use crate::error::Error;
use crate::workspace::Workspace;

/// Cargo's build profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildProfile {
    /// `cargo build`.
    Debug,
    /// `cargo build --release`.
    Release,
}

impl BuildProfile {
    /// The profile that this very code was built with: tests want services of their own kind.
    #[must_use]
    pub fn of_caller() -> Self {
        if cfg!(debug_assertions) { Self::Debug } else { Self::Release }
    }

    /// The folder below cargo's target folder.
    fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds every binary of the workspace; cargo's own messages go to our stderr. All of them and not only those that are needed: cargo
/// chooses the features of dependencies by what is built together, and would compile many a second time.
pub fn build_services(profile: BuildProfile) -> Result<(), Error> {
    build_services_with(profile, &[])
}

/// The same with these features, as in `notifier/otlp`.
pub fn build_services_with(profile: BuildProfile, features: &[&str]) -> Result<(), Error> {
    let workspace = Workspace::find()?;
    let mut cargo = Command::new(environment::path("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace.root()).args(["build", "--workspace", "--bins"]);
    if profile == BuildProfile::Release {
        cargo.arg("--release");
    }
    if !features.is_empty() {
        cargo.args(["--features", &features.join(",")]);
    }
    let status = cargo.status().map_err(Error::io("run cargo"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::CommandFailed {
        what: "cargo build".to_owned(),
        status: status.to_string(),
        output: "(cargo's messages are above)".to_owned(),
    })
}

/// Where cargo puts the binary.
///
/// # Errors
/// If it is not there, names the command that builds it.
pub fn binary(profile: BuildProfile, name: &str) -> Result<PathBuf, Error> {
    let path = Workspace::find()?.target_directory().join(profile.folder()).join(name);
    if path.is_file() {
        return Ok(path);
    }
    let flag = if profile == BuildProfile::Release { " --release" } else { "" };
    Err(Error::Missing {
        what: path.display().to_string(),
        remedy: format!("cargo build{flag} --workspace --bins"),
    })
}
