//! Logs: JSON lines with fixed field names in prod, text in dev. A record is logged once, where it is handled, and never holds
//! personal data or secrets.

use std::fmt;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
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

/// Starts logging to standard error, for the whole process.
///
/// # Errors
/// The directives cannot be read, or logging was started before.
pub fn start(service: &'static str, format: LogFormat, directives: &str) -> Result<FilterHandle, String> {
    let (filter, handle) = reload::Layer::new(parse_filter(directives)?);
    let registry = tracing_subscriber::registry().with(filter);
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => registry.with(output.with_ansi(false)).try_init(),
        LogFormat::Json => {
            registry.with(output.event_format(JsonLines { service, clock: Clock::system() })).try_init()
        }
    };
    started.map_err(|error| error.to_string())?;
    Ok(FilterHandle(handle))
}

/// One JSON object per event: `ts`, `level`, `target`, `message`, `service`, `version`, and the event's own fields under the names
/// they were given (`coupon.id`, `claim.id`, `partition`, `error.message`, …).
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
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("ts".to_owned(), Value::String(rfc3339(&self.clock)));
        line.insert("level".to_owned(), Value::String(metadata.level().as_str().to_lowercase()));
        line.insert("target".to_owned(), Value::String(metadata.target().to_owned()));
        line.insert("service".to_owned(), Value::String(self.service.to_owned()));
        line.insert("version".to_owned(), Value::String(crate::RELEASE.to_owned()));
        event.record(&mut Fields(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

fn rfc3339(clock: &Clock) -> String {
    let nanoseconds = i128::from(clock.now().ms()) * 1_000_000;
    let now = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    now.format(&Rfc3339).unwrap_or_default()
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), Value::String(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
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

    #[test]
    fn a_line_is_one_json_object_with_the_documented_fields() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let format = JsonLines { service: "notifier", clock: Clock::manual(Timestamp::from_ms(0).unwrap()) };
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).event_format(format);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(coupon.id = "c1", partition = 3, "a \"quoted\"\nline");
        });
        let text = String::from_utf8(buffer.0.lock().clone()).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["ts"], "1970-01-01T00:00:00Z");
        assert_eq!(line["level"], "warn");
        assert_eq!(line["service"], "notifier");
        assert_eq!(line["coupon.id"], "c1");
        assert_eq!(line["partition"], 3);
        assert_eq!(line["message"], "a \"quoted\"\nline");
    }
}
