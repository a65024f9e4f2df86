//! The trace that a request belongs to.

use actix_web::http::header::HeaderMap;
use actix_web::{HttpMessage as _, HttpRequest};
use trace_context::{Carried, TRACEPARENT, TRACESTATE, TraceContext};

/// What a request says of its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Nothing, or nothing that can be read.
    Nothing,
    /// A trace that nobody records: none of it goes further.
    Unrecorded(TraceContext),
    /// A trace that somebody records.
    Recorded(Box<Carried>),
}

impl Arrived {
    /// Reads a request's headers. Two of `traceparent` say nothing; several of `tracestate` are one.
    #[must_use]
    pub fn with(headers: &HeaderMap) -> Self {
        let mut parents = headers.get_all(TRACEPARENT);
        let (Some(parent), None) = (parents.next(), parents.next()) else { return Self::Nothing };
        match TraceContext::parse(parent.as_bytes()) {
            None => Self::Nothing,
            Some(context) if !context.is_sampled() => Self::Unrecorded(context),
            Some(context) => Self::Recorded(Box::new(Carried { context, state: state(headers) })),
        }
    }

    /// The trace, whether somebody records it or not.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        match self {
            Self::Nothing => None,
            Self::Unrecorded(context) => Some(*context),
            Self::Recorded(carried) => Some(carried.context),
        }
    }
}

fn state(headers: &HeaderMap) -> Option<Box<str>> {
    let parts: Option<Vec<&str>> = headers.get_all(TRACESTATE).map(|part| part.to_str().ok()).collect();
    let joined = parts.filter(|parts| !parts.is_empty())?.join(",");
    trace_context::is_tracestate(&joined).then(|| joined.into_boxed_str())
}

/// The span that was made for a request, in its extensions.
struct Made(TraceContext);

/// Notes the span that was made for a request, for the access log.
pub fn note(request: &HttpRequest, context: TraceContext) {
    request.extensions_mut().insert(Made(context));
}

/// The span that was made for a request, else the trace that it came with.
pub(crate) fn of(request: &HttpRequest) -> Option<TraceContext> {
    let made = request.extensions().get::<Made>().map(|Made(context)| *context);
    made.or_else(|| Arrived::with(request.headers()).context())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn arrived(headers: &[(&'static str, &str)]) -> Arrived {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        Arrived::with(&map)
    }

    #[test]
    fn one_good_traceparent_is_read_with_all_of_tracestate() {
        let Arrived::Recorded(carried) =
            arrived(&[("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2")])
        else {
            panic!("it is recorded")
        };
        assert_eq!(carried.context.to_string(), GOOD);
        assert_eq!(carried.state.as_deref(), Some("a=1,b=2"));
        let unsampled = GOOD.replace("-01", "-00");
        assert!(matches!(arrived(&[("traceparent", &unsampled)]), Arrived::Unrecorded(_)));
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        assert_eq!(arrived(&[]), Arrived::Nothing);
        assert_eq!(arrived(&[("tracestate", "a=1")]), Arrived::Nothing);
        assert_eq!(arrived(&[("traceparent", "00-xyz")]), Arrived::Nothing);
        assert_eq!(arrived(&[("traceparent", GOOD), ("traceparent", GOOD)]), Arrived::Nothing);
        let Arrived::Recorded(carried) = arrived(&[("traceparent", GOOD), ("tracestate", "nonsense")]) else {
            panic!("a bad tracestate is dropped alone")
        };
        assert_eq!(carried.state, None);
    }
}
