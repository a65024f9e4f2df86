//! Which user a server runs as. PostgreSQL refuses to run as root, so as root it runs as Debian's `postgres`.

use std::ffi::OsString;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use crate::command;
use crate::error::Error;

/// The user a process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// Whoever runs us.
    Own,
    /// The user `postgres`; only root can choose it.
    Postgres { uid: u32, gid: u32 },
}

impl Account {
    /// The account for PostgreSQL: our own, or `postgres` if we are root.
    pub(crate) fn for_postgres() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        Ok(Self::Postgres { uid: look_up("-u")?, gid: look_up("-g")? })
    }

    /// The options of `setpriv` that change to this account.
    pub(crate) fn setpriv_options(self) -> Vec<OsString> {
        match self {
            Self::Own => Vec::new(),
            Self::Postgres { uid, gid } => {
                vec![
                    format!("--reuid={uid}").into(),
                    format!("--regid={gid}").into(),
                    "--clear-groups".into(),
                ]
            }
        }
    }

    /// The beginning of a command line that changes to this account, empty if nothing changes.
    pub(crate) fn setpriv(self) -> Vec<OsString> {
        match self {
            Self::Own => Vec::new(),
            Self::Postgres { .. } => {
                std::iter::once("setpriv".into()).chain(self.setpriv_options()).collect()
            }
        }
    }

    /// A command that runs the program to its end as this account, for [`command::capture`].
    ///
    /// It is killed if we are: an `initdb` or a format that went on would write into the folder that the next `up` makes anew.
    /// (The signal comes with the end of the calling thread, and `capture` keeps that one waiting.)
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(self.setpriv_options()).arg("--").arg(program);
        if matches!(self, Self::Postgres { .. }) {
            // It may not be allowed to enter the folder that we are in.
            command.current_dir("/");
        }
        command
    }

    /// Gives the folder to this account.
    pub(crate) fn own(self, folder: &Path) -> Result<(), Error> {
        match self {
            Self::Own => Ok(()),
            Self::Postgres { uid, gid } => chown(folder, Some(uid), Some(gid))
                .map_err(Error::io(format!("give {} to the user postgres", folder.display()))),
        }
    }

    /// Whether this account can reach the folder: each folder above it must let it through, which `/root` does not.
    pub(crate) fn can_reach(self, folder: &Path) -> bool {
        let mut test = self.command(Path::new("test"));
        test.arg("-x").arg(folder);
        command::capture(&mut test, "test -x", command::SHORT).is_ok()
    }
}

fn look_up(what: &str) -> Result<u32, Error> {
    let answer =
        command::capture(Command::new("id").args([what, "postgres"]), "id postgres", command::SHORT)?;
    answer.trim().parse().map_err(|_| Error::Usage(format!("`id {what} postgres` answered {answer:?}")))
}
