//! An open stream of a claim's events.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::event_stream::{Decoder, Event};

/// Longest silence of a stream that is alive: three heartbeats.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// A stream, and its place among the connections.
pub(crate) struct Listening {
    response: reqwest::Response,
    decoder: Decoder,
    _place: OwnedSemaphorePermit,
}

/// What came of listening.
pub(crate) enum Next {
    /// An event.
    Event(Event),
    /// The stream has ended in good order.
    End,
    /// It broke, fell silent, or sent what is no event.
    Broken,
}

impl Listening {
    pub(crate) fn new(response: reqwest::Response, place: OwnedSemaphorePermit) -> Self {
        Self { response, decoder: Decoder::default(), _place: place }
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            if let Some(event) = self.decoder.next_event() {
                return Next::Event(event);
            }
            match timeout(SILENCE_MAX, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    if self.decoder.push(&bytes).is_err() {
                        return Next::Broken;
                    }
                }
                Ok(Ok(None)) => return Next::End,
                Ok(Err(_)) | Err(_) => return Next::Broken,
            }
        }
    }

    /// Listens to what is left, so that the connection can be used again; at most this long.
    pub(crate) async fn rest(mut self, at_most: Duration, mut each: impl FnMut(Event)) {
        let all = async {
            while let Next::Event(event) = self.next().await {
                each(event);
            }
        };
        // Whoever does not end in time is hung up on.
        drop(timeout(at_most, all).await);
    }

    /// The id to come back with.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.decoder.last_id()
    }

    /// When to come back, if the server has said so.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.decoder.retry()
    }
}
