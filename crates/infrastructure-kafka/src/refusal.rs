//! What brokers and librdkafka say when they refuse each other, as the key to change.
//!
//! A request fails with "broker transport failure" whatever the reason was; the reason stands in a log line of the client alone, and
//! rdkafka hands those out to clients that are polled. So who wants to know asks a client that is made for it and listened to.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::client::{Connection, KafkaError, Observer};

/// So long a client is listened to: a refusal comes with the first attempt to connect.
const LISTENED: Duration = Duration::from_secs(2);
/// How long one turn of listening waits.
const TURN: Duration = Duration::from_millis(50);

/// The last reason for which a client could not connect, if it was one that configuration mends.
#[derive(Default)]
pub(crate) struct LastRefusal(Mutex<Option<String>>);

impl LastRefusal {
    /// Looks at a line of the client's log; the line with what to do about it, if it is a refusal.
    pub(crate) fn note(&self, line: &str) -> Option<String> {
        let text = format!("{line}: {}", remedy(line)?);
        *self.0.lock() = Some(text.clone());
        Some(text)
    }

    pub(crate) fn last(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

/// The error, with the reason why no broker answers where one says it. Takes up to two seconds; only for what happens at a start.
pub(crate) fn explain(error: KafkaError, connection: &Connection) -> KafkaError {
    match error {
        KafkaError::Unreachable(text) => {
            let reason = ask(connection).map_or_else(String::new, |reason| format!(": {reason}"));
            KafkaError::Unreachable(format!("{text}{reason}"))
        }
        other => other,
    }
}

fn ask(connection: &Connection) -> Option<String> {
    let mut config = connection.base();
    // Wanted by every consumer; nothing is joined.
    config.set("group.id", connection.section().group("reader"));
    let client: BaseConsumer<Observer> =
        config.create_with_context(connection.observer("asking why no broker answers")).ok()?;
    let until = Instant::now() + LISTENED;
    while Instant::now() < until {
        if client.fetch_metadata(None, TURN).is_ok() {
            return None;
        }
        // Nothing is assigned: all that this serves is what the client says.
        let _ = client.poll(TURN);
        if let Some(reason) = client.context().refusal().last() {
            return Some(reason);
        }
    }
    None
}

const PROTOCOL: &str =
    "kafka.security_protocol must be what that port speaks: plaintext, ssl, sasl_plaintext or sasl_ssl";

/// librdkafka's own advice names its own settings.
fn remedy(line: &str) -> Option<&'static str> {
    let remedies = [
        (
            "ssl.ca.location",
            "kafka.ssl_ca_file must hold the authority that has signed the brokers' certificates, and the hosts of \
             kafka.bootstrap_servers and of the brokers' advertised listeners must be names in them",
        ),
        ("ssl.key.location", "the brokers may want kafka.ssl_certificate_file and kafka.ssl_key_file"),
        ("mechanism handshake failed", "kafka.sasl_mechanism must be one that the brokers take"),
        (
            "SASL authentication error",
            "kafka.sasl_username and kafka.sasl_password_file must be what the brokers know for kafka.sasl_mechanism",
        ),
        ("security.protocol", PROTOCOL),
        // A TLS port hangs up on the first request in the open; so does a broker that stops just then.
        ("in state APIVERSION_QUERY", PROTOCOL),
        ("SSL handshake failed", PROTOCOL),
    ];
    remedies.into_iter().find(|(words, _)| line.contains(words)).map(|(_, remedy)| remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_our_key_and_other_troubles_are_none() {
        let refusal = LastRefusal::default();
        assert_eq!(refusal.note("Connect to ipv4#127.0.0.1:1 failed: Connection refused"), None);
        assert_eq!(refusal.last(), None);
        let said = [
            (
                "SSL handshake failed: verify that ssl.ca.location is correctly configured",
                "kafka.ssl_ca_file",
            ),
            ("SASL authentication error: Authentication failed", "kafka.sasl_password_file"),
            (
                "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism",
                "kafka.sasl_mechanism",
            ),
            (
                "Disconnected: might be caused by incorrect security.protocol configuration",
                "kafka.security_protocol",
            ),
            ("Disconnected (after 1ms in state APIVERSION_QUERY)", "kafka.security_protocol"),
            (
                "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                "kafka.security_protocol",
            ),
        ];
        for (line, key) in said {
            let told = refusal.note(line).unwrap();
            assert!(told.starts_with(line) && told.contains(key), "{told}");
            assert_eq!(refusal.last(), Some(told));
        }
    }
}
