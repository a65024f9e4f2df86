//! Server-sent events, as far as following a claim needs them.
//!
//! A reader of our own rather than a crate: comments must count as signs of life, and a `retry` without data (how the notifier says
//! goodbye) must be seen. The crates pass over both, as the standard tells browsers to.

use std::time::Duration;

/// Longest event that is kept, in bytes. A longer one is no event of ours.
const EVENT_BYTES_MAX: usize = 64 * 1024;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name; empty where there was none.
    pub(crate) name: String,
    /// Its data.
    pub(crate) data: String,
}

/// Collects bytes and yields whole events.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    event: Event,
    last_id: Option<String>,
    retry: Option<Duration>,
}

/// What is sent is no event stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {EVENT_BYTES_MAX} bytes")]
pub(crate) struct TooLong;

impl Decoder {
    /// Takes in what has arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() + self.event.data.len() > EVENT_BYTES_MAX { Err(TooLong) } else { Ok(()) }
    }

    /// The next whole event.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if !line.is_empty() {
                self.field(line);
                continue;
            }
            let event = std::mem::take(&mut self.event);
            // An event without data is no event, whatever else it says.
            if !event.data.is_empty() {
                return Some(event);
            }
        }
        None
    }

    /// The id of the last event that had one.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// When the server wants to be asked again, if it has said so.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "id" => self.last_id = Some(value.to_owned()),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOKEN: &str = ": following\n\nevent: decided\ndata: {\"a\":1}\n\n: still here\n\nevent: end\r\nid: 42\r\ndata: {}\r\n\r\nretry: 250\n\n";

    fn all(decoder: &mut Decoder) -> Vec<(String, String)> {
        std::iter::from_fn(|| decoder.next_event()).map(|event| (event.name, event.data)).collect()
    }

    #[test]
    fn events_are_whole_however_the_bytes_arrive() {
        let expected = [("decided", "{\"a\":1}"), ("end", "{}")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        for size in [1, 2, 7, 1_000] {
            let mut decoder = Decoder::default();
            let mut events = Vec::new();
            for chunk in SPOKEN.as_bytes().chunks(size) {
                decoder.push(chunk).unwrap();
                events.extend(all(&mut decoder));
            }
            assert_eq!(events, expected);
            assert_eq!(decoder.last_id(), Some("42"));
            assert_eq!(decoder.retry(), Some(Duration::from_millis(250)));
        }
    }

    #[test]
    fn an_event_cut_off_is_none() {
        let mut decoder = Decoder::default();
        decoder.push(b"event: decided\ndata: {}\n").unwrap();
        assert_eq!(decoder.next_event(), None);
        assert_eq!(decoder.last_id(), None);
    }

    #[test]
    fn data_of_several_lines_is_one() {
        let mut decoder = Decoder::default();
        decoder.push(b"data: a\ndata:b\n\n").unwrap();
        assert_eq!(decoder.next_event().unwrap().data, "a\nb");
    }

    #[test]
    fn endless_bytes_are_refused() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(TooLong));
    }
}
