//! What every program here does with what it measured: write it down, show it, and end as it deserves.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::report::Report;
use crate::screen;

/// The exit code: measured, a ratio below the wanted one, or not measured.
pub(crate) fn exit(program: &str, ended: Result<bool>) -> ExitCode {
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(5),
        Err(error) => {
            screen::tell(&format!("{program}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures, writes the report to `out` (else under `file_name` into the target folder) and shows it. False where a ratio is below the wanted one and that
/// is held against it.
pub(crate) fn show(
    measuring: impl Future<Output = Result<Report>>,
    out: Option<&Path>,
    file_name: &str,
    strict: bool,
) -> Result<bool> {
    let out = match out {
        Some(file) => file.to_owned(),
        None => target_folder()?.join(file_name),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(measuring)?;
    write(&report, &out)?;
    screen::say(&format!("{report}\nwritten to {}", out.display()));
    Ok(report.is_met() || !strict)
}

fn write(report: &Report, out: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(out, text).with_context(|| out.display().to_string())
}

/// Cargo's target folder: this program lies in a folder of it.
fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program
        .ancestors()
        .nth(2)
        .context("this program lies in no target folder; name the file by --out")?;
    Ok(folder.to_owned())
}
