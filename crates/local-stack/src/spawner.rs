//! The thread that starts children which must not outlive this process.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked the child ends, not the process. Test harnesses run each test on
//! a thread of its own, so a server started there would be killed at the end of the first test that needed it. Therefore
//! one thread forks them all and lives until the process ends.
//!
//! What this cannot catch: a process that is killed in the millisecond between the fork and `setpriv`'s request leaves that one
//! child behind.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

struct Job {
    command: Command,
    reply: SyncSender<io::Result<Child>>,
}

/// Starts the command as a child of the long-lived thread.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<SyncSender<Job>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (reply, answer) = sync_channel(1);
    SPAWNER.get_or_init(start_thread).send(Job { command, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn start_thread() -> SyncSender<Job> {
    let (sender, jobs) = sync_channel::<Job>(0);
    // A failure to start the thread drops `jobs`; every later `send` then reports it.
    let _ = std::thread::Builder::new().name("local-stack-spawner".to_owned()).spawn(move || {
        for mut job in jobs {
            // A caller that stopped waiting has no use for the child; it is the last thing it did.
            let _ = job.reply.send(job.command.spawn());
        }
    });
    sender
}
