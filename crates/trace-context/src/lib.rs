//! W3C trace context: who asked, in the headers `traceparent` and `tracestate`, over HTTP and over Kafka.
//!
//! What is written wrong is dropped, as the recommendation wants it: a trace never makes a request fail. What others put into `tracestate` is
//! handed on as it is.

use std::fmt;

/// The header that names the trace and the caller's span.
pub const TRACEPARENT: &str = "traceparent";
/// The header with whatever tracing systems add of their own.
pub const TRACESTATE: &str = "tracestate";

/// The length of a `traceparent` of version 00.
pub const TRACEPARENT_BYTES: usize = 55;
/// A longer `tracestate` is dropped; so many bytes must be handed on at least.
pub const TRACESTATE_BYTES_MAX: usize = 512;
/// Most members of a `tracestate`.
pub const TRACESTATE_MEMBERS_MAX: usize = 32;

/// The bit of the flags that says that the trace is recorded.
const SAMPLED: u8 = 0x01;
/// The flags that we know: sampled, and that the trace id is random.
const KNOWN_FLAGS: u8 = 0x03;

/// A trace, and the span in it that is the parent of whatever is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// A context; none where an id is all zeros.
    #[must_use]
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], is_sampled: bool) -> Option<Self> {
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self { trace_id, span_id, flags: u8::from(is_sampled) })
    }

    /// Reads a `traceparent`: `00-<trace id>-<span id>-<flags>` in lower-case hex, or a later version that begins so.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (known, rest) = header.split_at_checked(TRACEPARENT_BYTES)?;
        let [version] = hex::<1>(known.get(..2)?)?;
        let goes_on = rest.first().is_some_and(|next| *next == b'-');
        if version == 0xff || version == 0 && !rest.is_empty() || !rest.is_empty() && !goes_on {
            return None;
        }
        let dashes = [known.get(2), known.get(35), known.get(52)];
        if dashes.iter().any(|dash| *dash != Some(&b'-')) {
            return None;
        }
        let [flags] = hex::<1>(known.get(53..)?)?;
        let (trace_id, span_id) = (hex(known.get(3..35)?)?, hex(known.get(36..52)?)?);
        Self::new(trace_id, span_id, false).map(|context| Self { flags: flags & KNOWN_FLAGS, ..context })
    }

    /// The same trace, with another span as the parent of what is done next.
    #[must_use]
    pub fn within(self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..self }
    }

    /// True where somebody records the trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The trace's id.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span's id.
    #[must_use]
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// The trace's id as logs spell it.
    #[must_use]
    pub fn trace_id_hex(&self) -> impl fmt::Display + use<> {
        Hex(self.trace_id)
    }

    /// The span's id as logs spell it.
    #[must_use]
    pub fn span_id_hex(&self) -> impl fmt::Display + use<> {
        Hex(self.span_id)
    }

    /// The `traceparent`, version 00.
    #[must_use]
    pub fn to_header(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut header = [b'-'; TRACEPARENT_BYTES];
        let digits =
            [0].into_iter().chain(self.trace_id).chain(self.span_id).chain([self.flags]).flat_map(digits);
        let dashes = [2, 35, 52];
        let places = header.iter_mut().enumerate().filter(|(place, _)| !dashes.contains(place));
        for ((_, place), digit) in places.zip(digits) {
            *place = digit;
        }
        header
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_header()).unwrap_or_default())
    }
}

struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A context on its way, with what other tracing systems gave along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The context.
    pub context: TraceContext,
    /// `tracestate`, as it came.
    pub state: Option<Box<str>>,
}

impl Carried {
    /// What these headers carry, if somebody records it. A trace that nobody records needs no company: nothing is copied for it.
    #[must_use]
    pub fn sampled(traceparent: &[u8], tracestate: impl FnOnce() -> Option<Box<str>>) -> Option<Box<Self>> {
        let context = TraceContext::parse(traceparent).filter(TraceContext::is_sampled)?;
        let state = tracestate().filter(|state| is_tracestate(state));
        Some(Box::new(Self { context, state }))
    }
}

/// True for what may be handed on: members of printable ASCII, not too many and not too long.
#[must_use]
pub fn is_tracestate(text: &str) -> bool {
    let is_member = |member: &str| {
        let member = member.trim();
        member.is_empty()
            || member.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty())
    };
    (1..=TRACESTATE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && text.split(',').count() <= TRACESTATE_MEMBERS_MAX
        && text.split(',').all(is_member)
}

fn digits(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    [digit(byte >> 4), digit(byte & 0x0f)]
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (nibble(*high)? << 4) | nibble(*low)?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_header_is_read_and_written_the_same() {
        let context = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert!(context.is_sampled());
        assert_eq!(context.trace_id_hex().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id_hex().to_string(), "00f067aa0ba902b7");
        let child = context.within([1; 8]);
        assert_eq!(child.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0101010101010101-01");
        let unsampled = TraceContext::parse(GOOD.replace("-01", "-00").as_bytes()).unwrap();
        assert!(!unsampled.is_sampled());
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("cc{}-more", &GOOD[2..]);
        assert_eq!(TraceContext::parse(later.as_bytes()), TraceContext::parse(GOOD.as_bytes()));
        let unknown_flags = GOOD.replace("-01", "-fd");
        assert_eq!(TraceContext::parse(unknown_flags.as_bytes()).unwrap().to_string(), GOOD);
    }

    #[test]
    fn bad_headers_are_dropped() {
        let bad = [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("cc{}more", &GOOD[2..]),
            &format!("ff{}", &GOOD[2..]),
            &GOOD.replace("4bf9", "4BF9"),
            &GOOD.replace("4bf9", "4bg9"),
            &GOOD.replace("00-4", "00_4"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        ];
        for header in bad {
            assert_eq!(TraceContext::parse(header.as_bytes()), None, "{header}");
        }
    }

    #[test]
    fn what_others_added_is_carried_unless_it_is_malformed_and_nothing_is_asked_of_an_unsampled_trace() {
        let carried = |state: &str| Carried::sampled(GOOD.as_bytes(), || Some(state.into())).unwrap().state;
        assert_eq!(carried("vendor=a1, other@x=b").as_deref(), Some("vendor=a1, other@x=b"));
        let long = format!("a={}", "x".repeat(TRACESTATE_BYTES_MAX));
        let many = vec!["a=b"; TRACESTATE_MEMBERS_MAX + 1].join(",");
        for bad in ["", "novalue", "a=\u{7}", "a=é", &long, &many] {
            assert_eq!(carried(bad), None, "{bad}");
        }
        let unsampled = GOOD.replace("-01", "-00");
        assert_eq!(Carried::sampled(unsampled.as_bytes(), || panic!("it was asked for")), None);
    }
}
