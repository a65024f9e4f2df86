//! `couponctl dump`: topics, tables and the view, written down byte for byte for programs that share no code with us.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use data_encoding::{BASE64, HEXLOWER};
use infrastructure_kafka::{Connection, LogBounds, Reader, Topic, TopicLayout};
use infrastructure_postgres::dump::{Dump as Tables, TABLES};
use infrastructure_redis::ViewMaintenance;
use infrastructure_redis::maintenance::DumpedValue;
use serde_json::{Value, json};

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

const RECORDS_PER_TURN: usize = 10_000;
const READ_WAIT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Dump {
    /// The directory to write to; made if it is not there. `-`: a tar archive on standard output, from where nothing can be copied.
    #[arg(long)]
    out: PathBuf,
    /// Leave Redis out.
    #[arg(long)]
    without_redis: bool,
}

pub(crate) async fn run(dump: &Dump, settings: &Settings, output: Output) -> Result<(), Failure> {
    if dump.out.as_os_str() == "-" {
        let held = tempfile::tempdir().map_err(failed("making a directory"))?;
        write_down(dump, held.path(), settings).await?;
        return tokio::task::block_in_place(|| archive(held.path(), std::io::stdout().lock()))
            .map_err(failed("writing the archive"));
    }
    std::fs::create_dir_all(&dump.out).map_err(failed("making the directory"))?;
    let records = write_down(dump, &dump.out, settings).await?;
    output.one(&json!({ "directory": dump.out.display().to_string(), "records": records }));
    Ok(())
}

/// The files of a directory, in a folder "dump".
fn archive(directory: &Path, to: impl Write) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(BufWriter::new(to));
    archive.append_dir_all("dump", directory)?;
    archive.into_inner()?.flush()
}

/// Writes everything down; gives the number of records.
async fn write_down(dump: &Dump, out: &Path, settings: &Settings) -> Result<u64, Failure> {
    let (connection, layout) = settings.kafka()?;
    let postgres = settings.postgres()?;
    // The view first, then PostgreSQL, then the outcomes, the claims last: each may only be ahead of what was written down before it.
    if !dump.without_redis {
        let view = ViewMaintenance::new(&settings.redis()?).map_err(failed("connecting to Redis"))?;
        dump_view(&view, out).await?;
    }
    dump_tables(&postgres, out).await?;
    let records = tokio::task::block_in_place(|| dump_topics(&connection, &layout, out))?;
    let now = infrastructure_http::time::to_rfc3339(service_runtime::Clock::system().now());
    let meta = json!({ "partitions": layout.partitions, "topic_prefix": layout.prefix, "taken_at": now });
    write_json(&out.join("meta.json"), &meta)?;
    Ok(records)
}

async fn dump_view(view: &ViewMaintenance, out: &Path) -> Result<(), Failure> {
    let mut file = create(&out.join("redis.jsonl"))?;
    let mut written = Ok(());
    view.dump(|key, value| {
        let line = match value {
            DumpedValue::Text(text) => json!({ "key": key, "type": "string", "value": text }),
            DumpedValue::Bucket(held) => {
                let held: serde_json::Map<String, Value> = held
                    .iter()
                    .map(|(field, value)| (HEXLOWER.encode(field), json!(HEXLOWER.encode(value))))
                    .collect();
                json!({ "key": key, "type": "bucket", "value": held })
            }
            DumpedValue::Fields(fields) => json!({ "key": key, "type": "hash", "value": fields }),
        };
        if written.is_ok() {
            written = writeln!(file, "{line}");
        }
    })
    .await
    .map_err(failed("reading Redis"))?;
    written.and_then(|()| file.flush()).map_err(failed("writing redis.jsonl"))
}

async fn dump_tables(section: &infrastructure_postgres::PostgresSection, out: &Path) -> Result<(), Failure> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the connection's own task; its end is the end of the dump"
    )]
    let drive = |connection| drop(tokio::spawn(connection));
    let tables = Tables::open(section, drive).await.map_err(failed("connecting to PostgreSQL"))?;
    for table in &TABLES {
        let path = out.join(format!("{}.csv", table.name));
        let mut file = tokio::fs::File::create(&path).await.map_err(failed("writing a table"))?;
        tables.copy(table, &mut file).await.map_err(failed(table.name))?;
    }
    Ok(())
}

fn dump_topics(connection: &Connection, layout: &TopicLayout, out: &Path) -> Result<u64, Failure> {
    let (mut bounds, mut records) = (serde_json::Map::new(), 0);
    let topics = [
        (Topic::Persisted, "persisted"),
        (Topic::State, "state"),
        (Topic::Outcomes, "outcomes"),
        (Topic::DeadLetters, "dlq"),
        (Topic::Claims, "claims"),
    ];
    for (topic, name) in topics {
        let reader = Reader::new(connection, &layout.name(topic), "dump").map_err(failed(name))?;
        let mut file = create(&out.join(format!("{name}.jsonl")))?;
        let mut found = Vec::new();
        for partition in 0..reader.partition_count().map_err(failed(name))? {
            let log = reader.bounds(partition).map_err(failed(name))?;
            records += dump_partition(&reader, partition, log, &mut file)?;
            found.push(json!({ "partition": partition, "start": log.start, "end": log.end }));
        }
        file.flush().map_err(failed("writing a topic"))?;
        bounds.insert(name.to_owned(), Value::Array(found));
    }
    write_json(&out.join("bounds.json"), &Value::Object(bounds))?;
    Ok(records)
}

fn dump_partition(
    reader: &Reader,
    partition: i32,
    log: LogBounds,
    file: &mut impl Write,
) -> Result<u64, Failure> {
    let mut records = 0;
    reader.assign_within(&[(partition, log)]).map_err(failed("reading a topic"))?;
    while !reader.is_at_end() {
        let mut result = Ok(());
        reader
            .drain(RECORDS_PER_TURN, READ_WAIT, |record| {
                if record.offset() >= log.end {
                    return ControlFlow::Break(());
                }
                let base64 = |bytes: Option<&[u8]>| bytes.map(|bytes| BASE64.encode(bytes));
                let headers: serde_json::Map<String, Value> = record
                    .headers()
                    .map(|(name, value)| (name.to_owned(), json!(BASE64.encode(value.unwrap_or_default()))))
                    .collect();
                let line = json!({
                    "partition": partition,
                    "offset": record.offset(),
                    "timestamp_ms": record.append_time_ms(),
                    "key": base64(record.key()),
                    "value": base64(record.payload()),
                    "headers": headers,
                });
                records += 1;
                result = writeln!(file, "{line}");
                if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .map_err(failed("reading a topic"))?;
        result.map_err(failed("writing a topic"))?;
    }
    Ok(records)
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let file = File::create(path).map_err(failed(&format!("making {}", path.display())))?;
    Ok(BufWriter::new(file))
}

fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    std::fs::write(path, format!("{value}\n")).map_err(failed(&format!("writing {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_what_the_directory_does() {
        let held = tempfile::tempdir().unwrap();
        std::fs::write(held.path().join("meta.json"), "{}").unwrap();
        let mut bytes = Vec::new();
        archive(held.path(), &mut bytes).unwrap();
        let taken_out = tempfile::tempdir().unwrap();
        tar::Archive::new(bytes.as_slice()).unpack(taken_out.path()).unwrap();
        assert_eq!(std::fs::read_to_string(taken_out.path().join("dump/meta.json")).unwrap(), "{}");
    }
}
