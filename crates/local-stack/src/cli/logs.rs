//! `local-stack logs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::log_file::tail;
use crate::waiting::poll;

/// Shows the last lines of one log or of all, and with `follow` goes on until interrupted.
pub(super) fn show(
    folder: &Path,
    service: Option<&str>,
    lines: usize,
    follow: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let logs = select(folder, service)?;
    let with_names = logs.len() > 1;
    let mut positions = BTreeMap::new();
    for (name, path) in &logs {
        // Noted first: lines written meanwhile are then shown twice rather than never.
        positions.insert(name.clone(), length(path));
        print(name, &tail(path, lines), with_names, out)?;
    }
    out.flush()?;
    if !follow {
        return Ok(());
    }
    let failure = poll(Duration::MAX, || {
        let printed = logs.iter().try_for_each(|(name, path)| {
            let position = positions.entry(name.clone()).or_default();
            print(name, &news(path, position)?, with_names, out)
        });
        printed.and_then(|()| Ok(out.flush()?)).err()
    });
    failure.map_or(Ok(()), Err)
}

/// Names and files of the logs that are meant.
fn select(folder: &Path, service: Option<&str>) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut logs: Vec<(String, PathBuf)> = fs::read_dir(folder)
        .with_context(|| format!("no logs in {}; run `local-stack up`", folder.display()))?
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == "log").then_some((name, path))
        })
        .collect();
    logs.sort();
    if let Some(service) = service {
        let names: Vec<&str> = logs.iter().map(|(name, _)| name.as_str()).collect();
        let known = names.join(", ");
        logs.retain(|(name, _)| name == service);
        anyhow::ensure!(!logs.is_empty(), "no log of {service:?}; there are: {known}");
    }
    Ok(logs)
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Whole lines that were added since the position.
fn news(path: &Path, position: &mut u64) -> anyhow::Result<String> {
    if length(path) == *position {
        return Ok(String::new());
    }
    let mut file = File::open(path)?;
    // Shorter than before: another `up` began it anew.
    if file.metadata()?.len() < *position {
        *position = 0;
    }
    file.seek(SeekFrom::Start(*position))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    bytes.truncate(end);
    *position += u64::try_from(end)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn print(name: &str, text: &str, with_names: bool, out: &mut impl Write) -> anyhow::Result<()> {
    for line in text.lines() {
        if with_names {
            writeln!(out, "{name:<14} | {line}")?;
        } else {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_whole_lines_and_nothing_is_shown_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut position = 0;
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(news(&path, &mut position).unwrap(), "one\n");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(news(&path, &mut position).unwrap(), "two\n");
        assert_eq!(news(&path, &mut position).unwrap(), "");
        fs::write(&path, "new\n").unwrap();
        assert_eq!(news(&path, &mut position).unwrap(), "new\n");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kafka.log"), "k\n").unwrap();
        fs::write(folder.path().join("redis.log"), "r\n").unwrap();
        let mut out = Vec::new();
        let error = show(folder.path(), Some("kafak"), 5, false, &mut out).unwrap_err();
        assert_eq!(error.to_string(), "no log of \"kafak\"; there are: kafka, redis");
        show(folder.path(), Some("redis"), 5, false, &mut out).unwrap();
        assert_eq!(out, b"r\n");
    }
}
