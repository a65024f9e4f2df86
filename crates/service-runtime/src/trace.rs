//! Traces: contexts are handed on from request to record to event, and spans are made of them where somebody takes them.
//!
//! A build without the feature `otlp`, and one without `trace.endpoint`, only hands on what came: no span is made, and no context made up. The work
//! of a trace is done for those that are recorded alone; for all others it is a look at a header.

use std::sync::Arc;
use std::time::Duration;

use infrastructure_kafka::RecordView;
use serde::{Deserialize, Serialize};
pub use trace_context::{Carried, TraceContext};
use trace_context::{TRACEPARENT, TRACEPARENT_BYTES, TRACESTATE};

use crate::config::Problem;

#[cfg(feature = "otlp")]
mod otlp;

/// The `trace` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceSection {
    /// Where spans go: the base URL of an OTLP collector over HTTP, as in `http://collector:4318`. Unset: nowhere.
    pub endpoint: Option<String>,
    /// Prod refuses an unencrypted collector unless this says that the network is trusted.
    pub allow_plaintext: bool,
    /// Share of requests without a trace of their own that begin one. Those that come with a trace are recorded as their sender decided.
    pub sample_ratio: f64,
    /// How long an export may take, in ms.
    pub export_timeout_ms: u32,
    /// Most spans waiting for their export; beyond it they are dropped.
    pub queue_spans_max: u32,
}

impl Default for TraceSection {
    fn default() -> Self {
        Self {
            endpoint: None,
            allow_plaintext: false,
            sample_ratio: 0.01,
            export_timeout_ms: 5_000,
            queue_spans_max: 4_096,
        }
    }
}

impl TraceSection {
    /// Everything that is wrong with the values.
    #[must_use]
    pub fn problems(&self, production: bool) -> Vec<Problem> {
        let ranges = [
            ("export_timeout_ms", self.export_timeout_ms, 100, 60_000),
            ("queue_spans_max", self.queue_spans_max, 1, 1_000_000),
        ];
        let mut problems = Problem::out_of_range("trace", &ranges);
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            let found = self.sample_ratio;
            problems.push(Problem::new("trace.sample_ratio", format!("must be 0..=1, is {found}")));
        }
        let Some(endpoint) = &self.endpoint else { return problems };
        let mut wrong = |problem: &str| problems.push(Problem::new("trace.endpoint", problem));
        if !cfg!(feature = "otlp") {
            wrong("this build sends no spans: build it with `--features otlp`, or leave the key out");
        } else if !endpoint.starts_with("http://") {
            wrong(
                "must begin with http://: spans go to a collector nearby, which may send them on encrypted",
            );
        } else if production && !self.allow_plaintext {
            wrong("is not encrypted: set trace.allow_plaintext where the network is trusted");
        }
        problems
    }
}

/// What a span is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that is answered.
    Server,
    /// A record that is worked on.
    Consumer,
}

/// A span that is to begin.
#[derive(Clone, Copy, Debug)]
pub struct NewSpan<'a> {
    /// What is done; of a closed set.
    pub name: &'static str,
    /// What for.
    pub kind: SpanKind,
    /// Whose child it is; none: the first of a trace, if it is sampled at all.
    pub parent: Option<&'a Carried>,
    /// Others whose work it does along.
    pub links: &'a [TraceContext],
}

/// Takes spans.
trait Recorder: Send + Sync {
    /// Begins a span; none where it is not sampled.
    fn begin(&self, span: NewSpan<'_>) -> Option<(TraceContext, Box<dyn Recording>)>;
    /// Sends what is waiting.
    fn flush(&self, patience: Duration);
}

/// A span that is being recorded. It ends when it is dropped.
trait Recording: Send {
    fn note(&mut self, key: &'static str, value: String);
    fn failed(&mut self, why: &'static str);
}

/// Makes spans, if somebody takes them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer {
    recorder: Option<Arc<dyn Recorder>>,
}

impl Tracer {
    /// A tracer that sends spans to where the section says.
    ///
    /// # Errors
    /// The exporter cannot be made.
    pub(crate) fn new(service: &'static str, section: &TraceSection) -> Result<Self, String> {
        #[cfg(feature = "otlp")]
        if let Some(endpoint) = &section.endpoint {
            let exporter = otlp::Exporter::new(service, endpoint, section)?;
            return Ok(Self { recorder: Some(Arc::new(exporter)) });
        }
        // The section's problems have refused an endpoint in a build without the feature.
        let _ = (service, section);
        Ok(Self::default())
    }

    /// True where spans are taken: only then is it worth asking for what they would link to.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.recorder.is_some()
    }

    /// Begins a span. Where none is taken, what came is handed on as it is.
    #[must_use]
    pub fn begin(&self, span: NewSpan<'_>) -> Span {
        let begun = self.recorder.as_ref().and_then(|recorder| recorder.begin(span));
        match begun {
            Some((context, recording)) => {
                let state = span.parent.and_then(|parent| parent.state.clone());
                Span { carried: Some(Box::new(Carried { context, state })), recording: Some(recording) }
            }
            None => Span { carried: span.parent.cloned().map(Box::new), recording: None },
        }
    }

    /// Sends the spans that wait, for so long at most.
    pub(crate) fn flush(&self, patience: Duration) {
        if let Some(recorder) = &self.recorder {
            recorder.flush(patience);
        }
    }
}

/// A piece of work and what it hands on. The span of it ends when this is dropped.
#[derive(Default)]
pub struct Span {
    carried: Option<Box<Carried>>,
    recording: Option<Box<dyn Recording>>,
}

impl Span {
    /// Work that belongs to no recorded trace.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// What is to be handed on.
    #[must_use]
    pub fn carried(&self) -> Option<&Carried> {
        self.carried.as_deref()
    }

    /// Notes something about the work; nothing that names a user.
    pub fn note(&mut self, key: &'static str, value: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.recording {
            recording.note(key, value());
        }
    }

    /// The work has failed for this reason, one of a closed set.
    pub fn failed(&mut self, why: &'static str) {
        if let Some(recording) = &mut self.recording {
            recording.failed(why);
        }
    }

    /// The same for log lines: within it they bear the ids of trace and span.
    #[must_use]
    pub fn for_logs(&self) -> tracing::Span {
        match &self.carried {
            Some(carried) => tracing::error_span!(
                "traced",
                trace_id = %carried.context.trace_id_hex(),
                span_id = %carried.context.span_id_hex(),
            ),
            None => tracing::Span::none(),
        }
    }
}

/// What a record carries, if somebody records it.
#[must_use]
pub fn of_record(record: &RecordView<'_>) -> Option<Box<Carried>> {
    let text = |value: &[u8]| std::str::from_utf8(value).ok().map(Box::from);
    Carried::sampled(record.header(TRACEPARENT)?, || record.header(TRACESTATE).and_then(text))
}

/// The headers of a record that carries a context.
pub struct TraceHeaders<'a> {
    traceparent: [u8; TRACEPARENT_BYTES],
    tracestate: Option<&'a [u8]>,
}

impl<'a> TraceHeaders<'a> {
    /// The headers for this context.
    #[must_use]
    pub fn new(carried: &'a Carried) -> Self {
        let tracestate = carried.state.as_deref().map(str::as_bytes);
        Self { traceparent: carried.context.to_header(), tracestate }
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let state = self.tracestate.map(|state| (TRACESTATE, state));
        [(TRACEPARENT, self.traceparent.as_slice())].into_iter().chain(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn without_an_exporter_what_came_is_handed_on_and_nothing_is_made_up() {
        let tracer = Tracer::new("test", &TraceSection::default()).unwrap();
        let new = NewSpan { name: "work", kind: SpanKind::Server, parent: None, links: &[] };
        assert!(tracer.begin(new).carried().is_none());
        let came = Carried::sampled(GOOD.as_bytes(), || Some("vendor=a".into())).unwrap();
        let span = tracer.begin(NewSpan { parent: Some(&came), ..new });
        assert_eq!(span.carried(), Some(&*came));
        let headers = TraceHeaders::new(&came);
        let expected: [(&str, &[u8]); 2] = [("traceparent", GOOD.as_bytes()), ("tracestate", b"vendor=a")];
        assert_eq!(headers.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn careless_values_are_refused_by_name() {
        let paths = |section: &TraceSection, production| -> Vec<String> {
            section.problems(production).into_iter().map(|problem| problem.path).collect()
        };
        assert!(paths(&TraceSection::default(), true).is_empty());
        let wrong = TraceSection { sample_ratio: 1.5, queue_spans_max: 0, ..TraceSection::default() };
        assert_eq!(paths(&wrong, false), ["trace.queue_spans_max", "trace.sample_ratio"]);
        let plain =
            TraceSection { endpoint: Some("http://collector:4318".to_owned()), ..TraceSection::default() };
        assert_eq!(paths(&plain, true), ["trace.endpoint"]);
        assert_eq!(paths(&plain, false).is_empty(), cfg!(feature = "otlp"));
        let trusted = TraceSection { allow_plaintext: true, ..plain };
        assert_eq!(paths(&trusted, true).is_empty(), cfg!(feature = "otlp"));
    }
}
