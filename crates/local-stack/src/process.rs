//! A process by pid *and* start time, so that no signal ever reaches a stranger.
//!
//! Pids are reused. A state file may outlive its processes by days, and the number in it may then belong to an editor.
//! The kernel's start time (field 22 of `/proc/<pid>/stat`, in clock ticks since boot) tells the two apart, and a pidfd
//! that is opened before the comparison holds on to the very process that was compared.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::waiting::eventually;

/// How long the kernel may take to bury a process after SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// One particular process since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pid: i32,
    start_ticks: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self { pid, start_ticks: read_stat(pid)?.start_ticks })
    }

    /// The pid alone, for display.
    pub fn pid(self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Whether this very process still runs. A zombie (ended, not yet waited for) does not.
    pub fn is_running(self) -> bool {
        read_stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_dead())
    }

    /// Sends the signal if this very process still runs; false if it does not.
    pub(crate) fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(false);
        };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        // Compared after the pidfd was opened: the descriptor cannot move on to a later owner of the pid.
        if !self.is_running() {
            return Ok(false);
        }
        match pidfd_send_signal(&process, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Every process below this one: PostgreSQL's backends, for instance, each of which leads a session of its own.
    pub(crate) fn descendants(self) -> Vec<Self> {
        let everyone = list_processes();
        // A later owner of our pid has children too, and they are not ours.
        let is_self = |(pid, stat): &(i32, Stat)| *pid == self.pid && stat.start_ticks == self.start_ticks;
        if !everyone.iter().any(is_self) {
            return Vec::new();
        }
        let mut found = vec![self];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            next += 1;
            let children = everyone.iter().filter(|(_, stat)| stat.parent == parent.pid && !stat.is_dead());
            found.extend(children.map(|(pid, stat)| Self { pid: *pid, start_ticks: stat.start_ticks }));
        }
        found.split_off(1)
    }

    /// Asks the process to end, lets it continue if it was suspended, and kills what is left of its tree at the deadline.
    pub(crate) fn stop(self, request: Signal, deadline: Duration) -> io::Result<()> {
        let below = self.descendants();
        self.signal(request)?;
        self.signal_tree(Signal::CONT)?;
        // In time or not, what is left is killed next.
        let _ = eventually(deadline, || !self.is_running());
        self.kill_tree()?;
        kill_all(&below)
    }

    /// Sends the signal to the process first and then to everything below it.
    pub(crate) fn signal_tree(self, signal: Signal) -> io::Result<()> {
        self.signal(signal)?;
        for process in self.descendants() {
            process.signal(signal)?;
        }
        Ok(())
    }

    /// Kills the process and everything below it, and waits until all of it is gone.
    pub(crate) fn kill_tree(self) -> io::Result<()> {
        // Suspended first, so that it starts no child between the listing and the kill.
        self.signal(Signal::STOP)?;
        let mut tree = self.descendants();
        tree.push(self);
        kill_all(&tree)
    }
}

fn kill_all(processes: &[ProcessIdentity]) -> io::Result<()> {
    for process in processes {
        process.signal(Signal::KILL)?;
    }
    if eventually(KILL_DEADLINE, || !processes.iter().any(|process| process.is_running())) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::TimedOut, "a killed process is still running"))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    start_ticks: u64,
}

impl Stat {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// `pid (name) state ppid …`: the name may itself contain spaces and brackets, so what counts starts at the last one.
    fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // Fields 3 and 4 are consumed; start time is field 22.
        let start_ticks = fields.nth(17)?.parse().ok()?;
        Some(Self { state, parent, start_ticks })
    }
}

fn read_stat(pid: i32) -> Option<Stat> {
    Stat::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn list_processes() -> Vec<(i32, Stat)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, read_stat(pid)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9001 100 200 300";
        assert_eq!(Stat::parse(line), Some(Stat { state: 'S', parent: 7, start_ticks: 9001 }));
    }

    #[test]
    fn a_reused_pid_is_not_running_and_never_signalled() {
        let mut child = sleeper();
        let real = ProcessIdentity::of(child.id()).unwrap();
        let earlier_owner = ProcessIdentity { start_ticks: real.start_ticks - 1, ..real };

        let mut parent = Command::new("sh").args(["-c", "sleep 603 & wait"]).spawn().unwrap();
        let parent_now = ProcessIdentity::of(parent.id()).unwrap();
        assert!(eventually(Duration::from_secs(5), || !parent_now.descendants().is_empty()));
        let parent_before = ProcessIdentity { start_ticks: parent_now.start_ticks - 1, ..parent_now };
        assert!(parent_before.descendants().is_empty(), "nor are its children ours");
        parent_now.kill_tree().unwrap();
        parent.wait().unwrap();

        assert!(!earlier_owner.is_running());
        assert!(!earlier_owner.signal(Signal::KILL).unwrap());
        earlier_owner.stop(Signal::TERM, Duration::ZERO).unwrap();
        assert!(real.is_running(), "the pid's present owner must be left alone");

        assert!(real.signal(Signal::KILL).unwrap());
        child.wait().unwrap();
        assert!(!real.is_running());
    }

    #[test]
    fn a_process_that_ignores_the_request_is_killed_with_its_children() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; sleep 601 & sleep 602 & wait; wait"])
            .spawn()
            .unwrap();
        let process = ProcessIdentity::of(child.id()).unwrap();
        assert!(eventually(Duration::from_secs(5), || process.descendants().len() == 2));
        let below = process.descendants();

        process.stop(Signal::TERM, Duration::from_millis(200)).unwrap();
        assert!(!process.is_running());
        assert!(below.iter().all(|process| !process.is_running()));
        child.wait().unwrap();
    }

    #[test]
    fn a_suspended_process_hears_the_request_to_end() {
        let mut child = sleeper();
        let process = ProcessIdentity::of(child.id()).unwrap();
        process.signal_tree(Signal::STOP).unwrap();
        process.stop(Signal::TERM, Duration::from_secs(10)).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    }
}
