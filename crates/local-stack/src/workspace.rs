//! Finding the project and its folders.

use std::path::{Path, PathBuf};

use crate::environment;
use crate::error::Error;

/// The project's root folder.
#[derive(Debug, Clone)]
pub(crate) struct Workspace(PathBuf);

impl Workspace {
    /// The nearest folder at or above the current one that is this project.
    pub(crate) fn find() -> Result<Self, Error> {
        let start = std::env::current_dir().map_err(Error::io("tell the current folder"))?;
        Self::above(&start).ok_or(Error::WorkspaceNotFound { start })
    }

    fn above(start: &Path) -> Option<Self> {
        start
            .ancestors()
            .find(|folder| folder.join("Cargo.toml").is_file() && folder.join("crates/local-stack").is_dir())
            .map(|folder| Self(folder.to_owned()))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    /// What is fetched once.
    pub(crate) fn cache(&self) -> PathBuf {
        self.0.join(".cache")
    }

    /// The state of the stack that `up` starts.
    pub(crate) fn state_directory(&self) -> PathBuf {
        self.0.join(".local-stack")
    }

    /// Cargo's output folder. A relative `CARGO_TARGET_DIR` is relative to where cargo runs, which is our root.
    pub(crate) fn target_directory(&self) -> PathBuf {
        self.0.join(environment::path("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_found_from_a_crates_folder_and_not_from_elsewhere() {
        let workspace = Workspace::find().unwrap();
        assert!(workspace.root().join("crates/local-stack/Cargo.toml").is_file());
        assert!(Workspace::above(Path::new("/proc/self")).is_none());
    }
}
