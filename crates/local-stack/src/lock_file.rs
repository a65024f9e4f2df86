//! A lock that ends with its holder, in a file that disappears when it is released.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Holds the lock until it is dropped; the kernel releases it if the process dies.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    _file: File,
}

impl LockFile {
    /// The lock, or `None` while somebody else (another thread of this process counts) holds it.
    pub(crate) fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if is_still_at(path, &file)? {
                return Ok(Some(Self { path: path.to_owned(), _file: file }));
            }
        }
    }

    /// The lock, after waiting for whoever holds it.
    pub(crate) fn acquire(path: &Path) -> io::Result<Self> {
        loop {
            let file = open(path)?;
            file.lock()?;
            if is_still_at(path, &file)? {
                return Ok(Self { path: path.to_owned(), _file: file });
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Removed while still locked: whoever opened the old file meanwhile gets the lock on it, sees that it is no
        // longer at the path, and tries again. Failing to remove it leaves an unlocked file, which is harmless.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

fn is_still_at(path: &Path, file: &File) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(present) => Ok(present.ino() == held.ino() && present.dev() == held.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_has_one_holder_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = LockFile::try_acquire(&path).unwrap();
        assert!(first.is_some());
        assert!(LockFile::try_acquire(&path).unwrap().is_none());
        drop(first);
        assert!(!path.exists());
        assert!(LockFile::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_waiter_gets_a_lock_on_the_file_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = LockFile::acquire(&path).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| LockFile::acquire(&path).unwrap());
            drop(first);
            let held = waiter.join().unwrap();
            assert!(path.exists());
            assert!(LockFile::try_acquire(&path).unwrap().is_none());
            drop(held);
        });
    }
}
