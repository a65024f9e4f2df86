//! Sending spans to an OpenTelemetry collector: OTLP over HTTP, protobuf, in batches from a thread of their own.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult, SdkTracer,
    SdkTracerProvider, ShouldSample,
};
use trace_context::{Carried, TraceContext};

use super::{NewSpan, Recorder, Recording, SpanKind, TraceSection};

/// Spans wait so long for company.
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Most spans in a request to the collector.
const EXPORT_SPANS_MAX: usize = 512;
/// Largest answer of a collector that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Makes spans and sends them.
pub(super) struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Exporter {
    pub(super) fn new(service: &'static str, endpoint: &str, section: &TraceSection) -> Result<Self, String> {
        let timeout = Duration::from_millis(section.export_timeout_ms.into());
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector(agent))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(timeout)
            .build()
            .map_err(|error| format!("trace.endpoint: {error}"))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(usize::try_from(section.queue_spans_max).unwrap_or(1))
            .with_max_export_batch_size(EXPORT_SPANS_MAX)
            .with_scheduled_delay(EXPORT_INTERVAL)
            .build();
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", crate::RELEASE))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(AsTheParent(Sampler::TraceIdRatioBased(section.sample_ratio)))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("firstcome");
        Ok(Self { provider, tracer })
    }
}

impl Recorder for Exporter {
    fn begin(&self, span: NewSpan<'_>) -> Option<(TraceContext, Box<dyn Recording>)> {
        let parent = span.parent.map_or_else(Context::new, remote);
        let links = span.links.iter().map(|link| Link::with_context(span_context(link, TraceState::NONE)));
        let builder = SpanBuilder::from_name(span.name)
            .with_kind(match span.kind {
                SpanKind::Server => opentelemetry::trace::SpanKind::Server,
                SpanKind::Consumer => opentelemetry::trace::SpanKind::Consumer,
            })
            .with_links(links.collect());
        let begun = self.tracer.build_with_context(builder, &parent);
        let made = begun.span_context();
        if !made.is_sampled() {
            return None;
        }
        let context = TraceContext::new(made.trace_id().to_bytes(), made.span_id().to_bytes(), true)?;
        Some((context, Box::new(Begun(begun))))
    }

    fn flush(&self, patience: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(patience) {
            tracing::warn!("spans are left behind: {error}");
        }
    }
}

fn span_context(context: &TraceContext, state: TraceState) -> SpanContext {
    let flags = if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace_id, span_id) = (context.trace_id(), context.span_id());
    SpanContext::new(TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id), flags, true, state)
}

fn remote(carried: &Carried) -> Context {
    let state = carried.state.as_deref().and_then(|state| state.parse().ok()).unwrap_or(TraceState::NONE);
    Context::new().with_remote_span_context(span_context(&carried.context, state))
}

/// A span. It ends when it is dropped.
struct Begun(opentelemetry_sdk::trace::Span);

impl Recording for Begun {
    fn note(&mut self, key: &'static str, value: String) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    fn failed(&mut self, why: &'static str) {
        self.0.set_status(Status::error(why));
    }
}

/// Records what its sender records, and what is linked to such; of the rest a share.
#[derive(Clone, Debug)]
struct AsTheParent(Sampler);

impl ShouldSample for AsTheParent {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &opentelemetry::trace::SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent = parent_context.filter(|context| context.has_active_span());
        if parent.is_none() && links.is_empty() {
            return self.0.should_sample(None, trace_id, name, span_kind, attributes, links);
        }
        let is_recorded = parent.is_none_or(|context| context.span().span_context().is_sampled());
        SamplingResult {
            decision: if is_recorded { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop },
            attributes: Vec::new(),
            trace_state: parent
                .map_or(TraceState::NONE, |context| context.span().span_context().trace_state().clone()),
        }
    }
}

/// Speaks to the collector, on the exporting thread.
#[derive(Debug)]
struct Collector(ureq::Agent);

impl Collector {
    fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.run(request.map(|body| body.to_vec()))?;
        let (parts, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(body)))
    }
}

impl HttpClient for Collector {
    fn send_bytes<'client, 'answer>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'answer>>
    where
        'client: 'answer,
        Self: 'answer,
    {
        let answer = self.post(request);
        match &answer {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => tracing::warn!("the collector took no spans: {}", answer.status()),
            Err(error) => tracing::warn!("the collector could not be reached: {error}"),
        }
        Box::pin(std::future::ready(answer))
    }
}
