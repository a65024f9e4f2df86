//! Free ports that nobody else will take before the server binds them.
//!
//! The range lies below the kernel's ephemeral ports, so that no outgoing connection lands on one between our test and the
//! server's bind, or while a server is down for a restart. Between stacks a lock file per port decides: it is held for as long
//! as the lease lives, also while the server behind it is killed and started again.

use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use rand::RngExt;

use crate::error::Error;
use crate::lock_file::LockFile;

const FIRST_PORT: u16 = 21_000;
const PORT_COUNT: u16 = 9_000;

/// The port that a server or a listener of a service shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortWish {
    /// Any free one.
    #[default]
    Any,
    /// This one if it is free, else any.
    Prefer(u16),
    /// This one or an error.
    Exactly(u16),
}

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _lock: LockFile,
}

impl PortLease {
    /// Leases a port on which `bind` can listen.
    pub fn take(bind: IpAddr, wish: PortWish) -> Result<Self, Error> {
        match wish {
            PortWish::Any => Self::take_any(bind),
            PortWish::Prefer(port) => match Self::try_take(bind, port)? {
                Some(lease) => Ok(lease),
                None => Self::take_any(bind),
            },
            PortWish::Exactly(port) => {
                Self::try_take(bind, port)?.ok_or_else(|| Error::NoFreePort { range: port.to_string(), bind })
            }
        }
    }

    /// The port number.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn take_any(bind: IpAddr) -> Result<Self, Error> {
        for _ in 0..PORT_COUNT {
            if let Some(lease) = Self::try_take(bind, next_port())? {
                return Ok(lease);
            }
        }
        let range = format!("from {FIRST_PORT} to {}", FIRST_PORT + (PORT_COUNT - 1));
        Err(Error::NoFreePort { range, bind })
    }

    fn try_take(bind: IpAddr, port: u16) -> Result<Option<Self>, Error> {
        let path = lock_folder()?.join(format!("{port}.lock"));
        let lock = LockFile::try_acquire(&path).map_err(Error::io(format!("lock {}", path.display())))?;
        let Some(lock) = lock else { return Ok(None) };
        match TcpListener::bind((bind, port)) {
            Ok(_) => Ok(Some(Self { port, _lock: lock })),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(Error::io(format!("listen on {bind}"))(error)),
        }
    }
}

/// Each process walks the range once from a random start, so that it hands out no port twice before it has used them all.
fn next_port() -> u16 {
    static CURSOR: OnceLock<AtomicU16> = OnceLock::new();
    let cursor = CURSOR.get_or_init(|| AtomicU16::new(rand::rng().random_range(0..PORT_COUNT)));
    // The closure always answers, so both arms carry the value before the step.
    let (Ok(step) | Err(step)) =
        cursor.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |step| Some((step + 1) % PORT_COUNT));
    FIRST_PORT + step
}

/// One folder per user: a file of another user could be neither locked nor removed.
fn lock_folder() -> Result<PathBuf, Error> {
    let user = rustix::process::getuid().as_raw();
    let folder = std::env::temp_dir().join(format!("local-stack-ports-{user}"));
    if !folder.is_dir() {
        let action = format!("create {}", folder.display());
        std::fs::create_dir_all(&folder).map_err(Error::io(action.clone()))?;
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).map_err(Error::io(action))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn ports_are_distinct_even_after_they_were_given_back() {
        let ports: HashSet<u16> =
            (0..200).map(|_| PortLease::take(LOOPBACK, PortWish::Any).unwrap().port()).collect();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn a_leased_port_is_refused_although_nobody_listens_on_it() {
        let lease = PortLease::take(LOOPBACK, PortWish::Any).unwrap();
        let exactly = PortLease::take(LOOPBACK, PortWish::Exactly(lease.port()));
        assert!(matches!(exactly, Err(Error::NoFreePort { .. })), "{exactly:?}");
        let other = PortLease::take(LOOPBACK, PortWish::Prefer(lease.port())).unwrap();
        assert_ne!(other.port(), lease.port());
    }

    #[test]
    fn a_port_that_a_stranger_listens_on_is_refused() {
        let stranger = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let port = stranger.local_addr().unwrap().port();
        assert!(PortLease::take(LOOPBACK, PortWish::Exactly(port)).is_err());
    }
}
