//! What `status`, `env` and `up` print.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::ValueEnum;

use crate::stack::{ProcessStatus, StackStatus};

/// How `status` prints.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Prints what runs and whether it answers.
pub(super) fn status(status: &StackStatus, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, status)?;
            writeln!(out)
        }
        Output::Table => {
            if status.processes.is_empty() {
                writeln!(out, "no stack is up in {}; run `local-stack up`", status.directory)?;
            } else {
                table(&status.processes, out)?;
            }
            if status.starting {
                writeln!(out, "`local-stack up` is at work or was interrupted")?;
            }
            Ok(())
        }
    }
}

fn table(processes: &[ProcessStatus], out: &mut impl Write) -> io::Result<()> {
    let address_width = processes.iter().map(|process| process.address.len()).max().unwrap_or_default();
    let mut row = |name: &str, pid: &str, address: &str, state: &str| {
        writeln!(out, "{name:<16}{pid:<10}{address:<address_width$}  {state}")
    };
    row("NAME", "PID", "ADDRESS", "STATE")?;
    for process in processes {
        let pid = process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        row(&process.name, &pid, &process.address, &process.state)?;
    }
    Ok(())
}

/// Prints what a person opens first; nothing if no services run.
pub(super) fn addresses(environment: &BTreeMap<String, String>, out: &mut impl Write) -> io::Result<()> {
    let wanted = [("user API", "API_URL"), ("admin API", "ADMIN_URL"), ("notifier", "NOTIFIER_URL")];
    for (name, variable) in wanted {
        if let Some(url) = environment.get(variable) {
            writeln!(out, "\n{name}: {url}")?;
        }
    }
    writeln!(out, "\nAll addresses and secrets: local-stack env. To stop: local-stack down.")
}

/// Prints lines that a POSIX shell can evaluate.
pub(super) fn environment(environment: &BTreeMap<String, String>, out: &mut impl Write) -> io::Result<()> {
    for (name, value) in environment {
        writeln!(out, "{name}={}", quoted(value))?;
    }
    Ok(())
}

fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let values = ["plain", "", "two words", "it's", "a&b?c=$d", "postgres://postgres@127.0.0.1:1/local"];
        for value in values {
            let script = format!("V={}; printf %s \"$V\"", quoted(value));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }
}
