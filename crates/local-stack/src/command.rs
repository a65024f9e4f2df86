//! Programs that run to their end: their output is kept for the error, and none may hang.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::error::Error;
use crate::process::ProcessIdentity;
use crate::waiting::poll;

/// For programs that answer at once.
pub(crate) const SHORT: Duration = Duration::from_secs(30);
/// For downloads and installations.
pub(crate) const LONG: Duration = Duration::from_secs(20 * 60);

/// How much of a failed program's output an error shows.
const OUTPUT_LINES_MAX: usize = 40;

/// Runs the program and returns what it printed on stdout; an error shows the end of both outputs.
pub(crate) fn capture(command: &mut Command, what: &str, deadline: Duration) -> Result<String, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed =
        |status: String, output: String| Error::CommandFailed { what: what.to_owned(), status, output };
    let mut child = command.spawn().map_err(|error| failed(error.to_string(), describe(command)))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (status, stdout, stderr) = std::thread::scope(|scope| {
        let stdout = scope.spawn(|| read_all(stdout));
        let stderr = scope.spawn(|| read_all(stderr));
        let status = wait(&mut child, deadline);
        (status, stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default())
    });
    match status {
        Some(status) if status.success() => Ok(stdout),
        Some(status) => {
            Err(failed(status.to_string(), last_lines(&format!("{stdout}{stderr}"), OUTPUT_LINES_MAX)))
        }
        None => {
            let status = format!("killed after {} s", deadline.as_secs());
            Err(failed(status, last_lines(&format!("{stdout}{stderr}"), OUTPUT_LINES_MAX)))
        }
    }
}

/// The last lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

fn wait(child: &mut Child, deadline: Duration) -> Option<std::process::ExitStatus> {
    let identity = ProcessIdentity::of(child.id());
    let status = poll(deadline, || child.try_wait().ok().flatten());
    if status.is_none() {
        // With what it started: a grandchild that holds the pipes would keep the readers waiting.
        let _ = identity.map(ProcessIdentity::kill_tree);
        let _ = child.wait();
    }
    status
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before a failure is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_shows_what_the_program_said() {
        assert_eq!(capture(&mut shell("echo fine"), "sh", SHORT).unwrap(), "fine\n");
        let error = capture(&mut shell("echo out; echo why >&2; exit 3"), "the task", SHORT).unwrap_err();
        assert_eq!(error.to_string(), "the task failed (exit status: 3):\nout\nwhy");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let error = capture(&mut shell("sleep 604 & echo began; wait"), "sh", Duration::from_millis(300))
            .unwrap_err();
        assert!(error.to_string().contains("killed after 0 s"), "{error}");
        assert!(error.to_string().contains("began"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = capture(&mut Command::new("/nonexistent/tool"), "tool", SHORT).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tool"), "{error}");
    }
}
