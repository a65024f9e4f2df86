//! Each connection, topic partition and stream is an open file; a distribution's default of 1024 ends a stampede early.

use crate::error::Error;

/// Enough for tens of thousands of open streams beside the servers' own files.
const WANTED: u64 = 65_536;

/// How many files each process of the stack may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit that is in force now.
    pub limit: u64,
    /// The limit that we wanted.
    pub wanted: u64,
}

impl OpenFiles {
    /// A sentence that names what is missing and how to get it; `None` if nothing is.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        let Self { limit, wanted } = *self;
        (limit < wanted).then(|| {
            format!(
                "only {limit} open files per process, {} fewer than wanted: larger crowds are refused. \
                 Remedy: as root, `ulimit -Hn {wanted}` before starting (in a container: its nofile limit)",
                wanted - limit
            )
        })
    }
}

/// Raises this process's limit of open files, which its children inherit, as far as it may.
pub fn raise_open_files() -> Result<OpenFiles, Error> {
    let failed = || Error::io("raise the limit of open files");
    let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).map_err(failed())?;
    if hard < WANTED {
        // Only root may raise the hard limit. Others keep what they have, and are told.
        let _ = rlimit::setrlimit(rlimit::Resource::NOFILE, soft, WANTED);
    }
    let limit = rlimit::increase_nofile_limit(WANTED.max(soft)).map_err(failed())?;
    Ok(OpenFiles { limit, wanted: WANTED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortfall_names_the_numbers_and_the_remedy() {
        assert_eq!(OpenFiles { limit: 70_000, wanted: 65_536 }.shortfall(), None);
        let shortfall = OpenFiles { limit: 1024, wanted: 65_536 }.shortfall().unwrap();
        assert!(shortfall.contains("only 1024") && shortfall.contains("ulimit -Hn 65536"), "{shortfall}");
    }

    #[test]
    fn the_limit_is_raised_and_never_lowered() {
        let (before, _) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
        let raised = raise_open_files().unwrap();
        let (after, _) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
        assert_eq!(raised.limit, after);
        assert!(after >= before);
    }
}
