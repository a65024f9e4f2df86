//! The end of a log file, for errors and for `local-stack logs`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::command::last_lines;

/// How much of a log an error shows.
pub(crate) const TAIL_LINES: usize = 40;

/// The part of a file that is read to find its last lines.
const TAIL_BYTES_MAX: u64 = 256 * 1024;

/// The last lines of the file, as far as they lie in its last 256 KiB; empty if there is no such file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let Ok(mut file) = File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    let start = SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX));
    // A log that cannot be read has no tail to show; the error that wanted it is reported all the same.
    let _ = file.seek(start).and_then(|_| file.read_to_end(&mut bytes));
    last_lines(&String::from_utf8_lossy(&bytes), lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 2), "two\nthree");
        assert_eq!(tail(&path, 9), "one\ntwo\nthree");
        assert_eq!(tail(&folder.path().join("missing.log"), 9), "");
    }
}
