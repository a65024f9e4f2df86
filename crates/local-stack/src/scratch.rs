//! A temporary folder that goes with its process, and the folders of processes that were killed before they could clean up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::lock_file::LockFile;
use crate::postgres;
use crate::server::remove_folder;

const PREFIX: &str = "local-stack-run-";
/// Locked for as long as the owner lives.
const OWNER: &str = "owner.lock";

/// A temporary folder of this process.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    _owner: LockFile,
}

impl Scratch {
    /// Makes a folder, and removes those whose owners are dead.
    pub(crate) fn create() -> Result<Self, Error> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        // Others may pass through: PostgreSQL runs as another user. The secrets below are protected by themselves.
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(PermissionsExt::from_mode(0o755))
            .tempdir_in(&parent)
            .map_err(Error::io(format!("create a folder in {}", parent.display())))?
            .keep();
        let owner = folder.join(OWNER);
        match LockFile::try_acquire(&owner).map_err(Error::io(format!("lock {}", owner.display())))? {
            Some(lock) => Ok(Self { folder, _owner: lock }),
            None => Err(Error::Busy { lock: owner }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// Where a run keeps the servers' data, so that a later sweep finds the cluster.
pub(crate) fn data_folder(folder: &Path) -> PathBuf {
    folder.join("data")
}

fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let owner = entry.path().join(OWNER);
        // A folder without the file is either just being made or half removed by another sweep.
        if is_ours
            && owner.is_file()
            && let Ok(Some(_abandoned)) = LockFile::try_acquire(&owner)
        {
            remove(&entry.path());
        }
    }
}

/// Best effort, as this runs while a process ends; what stays is swept later.
fn remove(folder: &Path) {
    let _ = postgres::remove_data(&data_folder(folder));
    let _ = remove_folder(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_dead_process_is_swept_and_that_of_a_living_one_is_not() {
        let living = Scratch::create().unwrap();
        let dead = std::env::temp_dir().join(format!("{PREFIX}dead-{}", std::process::id()));
        fs::create_dir_all(dead.join("data/kafka")).unwrap();
        fs::write(dead.join(OWNER), "").unwrap();

        let other = Scratch::create().unwrap();
        assert!(!dead.exists());
        assert!(living.path().exists());
        let path = other.path().to_owned();
        drop(other);
        assert!(!path.exists());
    }
}
