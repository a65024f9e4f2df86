//! Logs: JSON lines with fixed field names in prod, text in dev. A record is logged once, where it is handled, and never holds
//! personal data or secrets.

use std::fmt;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::Clock;
use crate::sections::LogFormat;

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct FilterHandle(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl FilterHandle {
    /// Takes new directives.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        let filter = parse_filter(directives)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Reads directives like `info,notifier=debug`.
///
/// # Errors
/// What is wrong with them.
pub fn parse_filter(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(directives).map_err(|error| error.to_string())
}

/// The keys of a line, and what they hold. A line has no others: what else an event says is put behind its message.
pub const KEYS: [(&str, &str); 19] = [
    ("ts", "when, RFC 3339, UTC"),
    (
        "level",
        "error: a person must act · warn: heals by itself · info: boot, assignment, halts, draining, access · debug: batches · trace: records",
    ),
    ("target", "the module that speaks; `access` for requests, `librdkafka` for the client's own lines"),
    ("message", "reads alone"),
    ("service", "the process's name"),
    ("version", "its release"),
    ("trace_id", "the W3C trace that the work belongs to, where it came with one or began one"),
    ("span_id", "the span in it: ours where spans are sent, else the caller's"),
    ("coupon.id", "the coupon"),
    ("claim.id", "the claim"),
    ("user.hash", "stands for the user: a keyed hash, the same in every service that holds the same keys"),
    ("topic", "of Kafka"),
    ("partition", "of Kafka"),
    ("offset", "of Kafka"),
    ("code", "the outcome's or the problem's code; the exit code where a process ends"),
    ("error.kind", "what kind of error, of a closed set"),
    ("error.message", "the error's own words"),
    ("duration_ms", "how long it took"),
    ("runbook", "with every error: the page in docs/runbooks that says what to do"),
];

/// Modules of ours. Others may quote what users sent, or the secrets that they were given, in their lines below info: these are never written.
const OURS: [&str; 13] = [
    "access",
    "api_gateway",
    "coupon_domain",
    "couponctl",
    "db_writer",
    "infrastructure_http",
    "infrastructure_kafka",
    "infrastructure_postgres",
    "infrastructure_redis",
    "librdkafka",
    "notifier",
    "service_runtime",
    "stock_consumer",
];

/// The keys as docs/logs.md has them.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| key | holds |\n|---|---|\n");
    for (key, holds) in KEYS {
        text.push_str(&format!("| `{key}` | {holds} |\n"));
    }
    text
}

/// True for what may be written whatever the filter says.
fn may_be_written(metadata: &Metadata<'_>) -> bool {
    let module = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::INFO || OURS.contains(&module)
}

/// Starts logging to standard error, for the whole process.
///
/// # Errors
/// The directives cannot be read, or logging was started before.
pub fn start(service: &'static str, format: LogFormat, directives: &str) -> Result<FilterHandle, String> {
    let (filter, handle) = reload::Layer::new(parse_filter(directives)?);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_written));
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => registry.with(output.with_ansi(false)).try_init(),
        LogFormat::Json => {
            let lines = JsonLines { service, clock: Clock::system() };
            registry.with(output.fmt_fields(JsonFields::new()).event_format(lines)).try_init()
        }
    };
    started.map_err(|error| error.to_string())?;
    Ok(FilterHandle(handle))
}

/// One JSON object per event, with [`KEYS`].
struct JsonLines {
    service: &'static str,
    clock: Clock,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Line::default();
        line.put("ts", Value::String(rfc3339(&self.clock)));
        line.put("level", Value::String(metadata.level().as_str().to_lowercase()));
        line.put("target", Value::String(metadata.target().to_owned()));
        line.put("service", Value::String(self.service.to_owned()));
        line.put("version", Value::String(crate::RELEASE.to_owned()));
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map(|fields| fields.fields.as_str());
            let fields: Option<Map<String, Value>> =
                fields.and_then(|fields| serde_json::from_str(fields).ok());
            fields.into_iter().flatten().for_each(|(key, value)| line.put(&key, value));
        }
        event.record(&mut line);
        writeln!(writer, "{}", Value::Object(line.finish()))
    }
}

fn rfc3339(clock: &Clock) -> String {
    let nanoseconds = i128::from(clock.now().ms()) * 1_000_000;
    let now = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    now.format(&Rfc3339).unwrap_or_default()
}

/// A line that is being put together.
#[derive(Default)]
struct Line {
    keys: Map<String, Value>,
    /// What goes behind the message.
    rest: String,
}

impl Line {
    fn put(&mut self, key: &str, value: Value) {
        // Lines of libraries that log in another way arrive with their origin in fields.
        if key == "log.target" {
            self.keys.insert("target".to_owned(), value);
        } else if KEYS.iter().any(|(known, _)| *known == key) {
            self.keys.insert(key.to_owned(), value);
        } else if !key.starts_with("log.") {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            self.rest.push_str(&format!(" {key}={text}"));
        }
    }

    fn finish(mut self) -> Map<String, Value> {
        if !self.rest.is_empty() {
            let message = self.keys.get("message").and_then(Value::as_str).unwrap_or_default();
            let message = format!("{message}{}", self.rest);
            self.keys.insert("message".to_owned(), Value::String(message));
        }
        self.keys
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), Value::String(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use coupon_domain::Timestamp;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(work: impl FnOnce()) -> Vec<Value> {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let format = JsonLines { service: "notifier", clock: Clock::manual(Timestamp::from_ms(0).unwrap()) };
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(format);
        let registry = tracing_subscriber::registry().with(filter_fn(may_be_written)).with(layer);
        tracing::subscriber::with_default(registry, work);
        let text = String::from_utf8(buffer.0.lock().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_is_one_json_object_with_the_documented_keys() {
        let lines = lines_of(|| {
            let span = tracing::error_span!("traced", trace_id = %"abc", span_id = %"def");
            let _entered = span.enter();
            tracing::warn!(coupon.id = "c1", partition = 3, lost = true, "a \"quoted\"\nline");
        });
        let [line] = lines.as_slice() else { panic!("one line: {lines:?}") };
        assert_eq!(line["ts"], "1970-01-01T00:00:00Z");
        assert_eq!(line["level"], "warn");
        assert_eq!(line["service"], "notifier");
        assert_eq!(line["coupon.id"], "c1");
        assert_eq!(line["partition"], 3);
        assert_eq!(line["trace_id"], "abc");
        assert_eq!(line["span_id"], "def");
        assert_eq!(line["message"], "a \"quoted\"\nline lost=true");
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert!(keys.iter().all(|key| KEYS.iter().any(|(known, _)| known == key)), "{keys:?}");
    }

    #[test]
    fn what_libraries_say_below_info_is_never_written() {
        let lines = lines_of(|| {
            tracing::debug!(target: "tokio_postgres::query", "executing with parameters: [\"ann\"]");
            tracing::info!(target: "tokio_postgres::query", "a notice");
            tracing::trace!(target: "stock_consumer::decide", "decided");
        });
        let messages: Vec<&Value> = lines.iter().map(|line| &line["message"]).collect();
        assert_eq!(messages, ["a notice", "decided"]);
    }

    #[test]
    fn the_table_in_docs_is_these_keys() {
        let page = include_str!("../../../docs/logs.md");
        assert!(page.contains(&markdown()), "docs/logs.md lacks this table:\n{}", markdown());
    }

    /// Each error names a page that says what to do, and the page is there.
    #[test]
    fn every_error_names_its_runbook() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let services = [
            "api-gateway",
            "couponctl",
            "db-writer",
            "infrastructure-http",
            "infrastructure-kafka",
            "infrastructure-postgres",
            "infrastructure-redis",
            "notifier",
            "service-runtime",
            "stock-consumer",
        ];
        let mut folders: Vec<_> = services.map(|name| root.join("crates").join(name).join("src")).into();
        let mut errors = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                for call in text.split(concat!("tracing::", "error!(")).skip(1) {
                    errors += 1;
                    let named = call.split(';').next().unwrap().split("runbook = \"").nth(1);
                    let page = named.and_then(|rest| rest.split('"').next());
                    let page = page.unwrap_or_else(|| panic!("{}: an error without runbook", path.display()));
                    assert!(root.join(format!("docs/runbooks/{page}.md")).is_file(), "there is no {page}");
                }
            }
        }
        assert!(errors > 10, "{errors}");
    }
}
