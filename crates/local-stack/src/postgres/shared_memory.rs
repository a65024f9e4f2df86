//! The one thing that a killed PostgreSQL leaves in the kernel: a System V segment of 56 bytes.
//!
//! The next server on the same cluster takes it over. When the cluster is removed instead, nobody would, and the kernel has
//! room for 4096 of them; a year of interrupted tests would use that up.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::command;
use crate::waiting::poll;

/// Backends notice within milliseconds that their postmaster is dead, and let go.
const DETACH_DEADLINE: Duration = Duration::from_secs(5);

/// Removes the segment that `postmaster.pid` names, if it is still that server's, as soon as nobody is attached.
pub(super) fn release(postmaster_pid: &Path) {
    let Ok(lock) = std::fs::read_to_string(postmaster_pid) else {
        return;
    };
    let found = poll(DETACH_DEADLINE, || {
        let table = std::fs::read_to_string("/proc/sysvipc/shm").ok()?;
        match find_segment(&lock, &table) {
            Some(Segment { attached: 0, id }) => Some(Some(id)),
            Some(_) => None,
            None => Some(None),
        }
    });
    if let Some(id) = found.flatten() {
        // Best effort: a segment that stays does no harm.
        let _ = command::capture(Command::new("ipcrm").args(["-m", &id]), "ipcrm", command::SHORT);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Segment {
    id: String,
    attached: u32,
}

/// Line 1 of `postmaster.pid` is the pid (negative for the lone backend that `initdb` runs), line 7 the segment's key and id.
/// The kernel's table says who made a segment and how many are attached; after a reboot the same id may be somebody else's.
fn find_segment(postmaster_pid: &str, table: &str) -> Option<Segment> {
    let mut lines = postmaster_pid.lines();
    let pid = lines.next()?.trim().trim_start_matches('-');
    let (key, id) = lines.nth(5)?.trim().split_once(char::is_whitespace)?;
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let [its_key, its_id, _permissions, _size, creator, _last, attached, ..] = columns.as_slice() else {
            return None;
        };
        let is_ours = *its_key == key && *its_id == id.trim() && *creator == pid;
        is_ours.then_some(Segment { id: (*its_id).to_owned(), attached: attached.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTMASTER_PID: &str =
        "4711\n/data\n1795263254\n21001\n\n127.0.0.1\n  5432001    163840\nready   \n";

    fn table(creator: u32, attached: u32) -> String {
        format!(
            "       key      shmid perms                  size  cpid  lpid nattch   uid\n   \
             5432001     163840   600                    56  {creator}  4712  {attached}   101\n"
        )
    }

    #[test]
    fn only_the_servers_own_segment_is_found() {
        let found = |attached| Some(Segment { id: "163840".to_owned(), attached });
        assert_eq!(find_segment(POSTMASTER_PID, &table(4711, 0)), found(0));
        assert_eq!(find_segment(POSTMASTER_PID, &table(4711, 3)), found(3));
        assert_eq!(find_segment(&format!("-{POSTMASTER_PID}"), &table(4711, 0)), found(0));
        assert_eq!(find_segment(POSTMASTER_PID, &table(5000, 0)), None);
        assert_eq!(find_segment("4711\n/data\n", &table(4711, 0)), None);
    }
}
