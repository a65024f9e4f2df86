//! A part of the broker that belongs to one test, and what most tests do there.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::time::Duration;

use infrastructure_kafka::{
    Acknowledged, AppendError, Connection, KafkaMetrics, KafkaSection, LogBounds, NewRecord, Producer,
    ProducerPurpose, ReadError, Reader, Topic, TopicAdmin, TopicLayout,
};
use local_stack::{
    ExternalServers, Namespace, Servers, ServersOptions, eventually, namespace, servers_for_tests,
};
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, histogram_opts,
};

/// Far beyond what anything here takes, on a machine that is busy with something else.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// One test's topics, groups and connection.
pub(crate) struct Installation {
    pub(crate) section: KafkaSection,
    pub(crate) connection: Connection,
}

impl Installation {
    /// On the servers that all tests share. `name` tells it apart from those of other tests.
    pub(crate) fn new(name: &str, partitions: u16) -> Self {
        static NAMESPACE: OnceLock<Namespace> = OnceLock::new();
        let servers = servers_for_tests();
        let namespace = NAMESPACE.get_or_init(|| namespace(servers, 1).unwrap());
        let prefix = format!("{}{name}.", namespace.topic_prefix);
        Self::at(KafkaSection {
            topic_prefix: prefix.clone(),
            group_prefix: prefix,
            partitions,
            ..test_section(servers.kafka_bootstrap())
        })
    }

    /// As this section says.
    pub(crate) fn at(section: KafkaSection) -> Self {
        let problems = section.problems(false);
        assert!(problems.is_empty(), "{problems:?}");
        let connection = Connection::new(section.clone(), "tests", metrics());
        Self { section, connection }
    }

    pub(crate) fn layout(&self) -> TopicLayout {
        self.section.layout(false)
    }

    pub(crate) fn topic(&self, topic: Topic) -> String {
        self.layout().name(topic)
    }

    pub(crate) fn admin(&self) -> TopicAdmin {
        TopicAdmin::new(&self.connection, self.layout()).unwrap()
    }

    /// Creates the topics and waits until the broker shows them.
    pub(crate) fn with_topics(self) -> Self {
        let admin = self.admin();
        block_on(admin.apply()).unwrap();
        assert!(eventually(SOON, || block_on(admin.problems()).unwrap().is_empty()));
        self
    }

    pub(crate) fn producer(&self, purpose: ProducerPurpose) -> Producer {
        Producer::new(&self.connection, purpose).unwrap()
    }

    pub(crate) fn reader(&self, topic: &str) -> Reader {
        Reader::new(&self.connection, topic, "test").unwrap()
    }

    /// Appends these values, one after the other, each acknowledged.
    pub(crate) fn append_all(&self, topic: &str, partition: i32, values: &[&str]) -> Vec<Acknowledged> {
        let producer = self.producer(ProducerPurpose::Claims);
        values.iter().map(|value| append(&producer, &record(topic, partition, value)).unwrap()).collect()
    }

    /// The values of a partition, from this offset to its end as it is now.
    pub(crate) fn values(&self, topic: &str, partition: i32, from: i64) -> Vec<(i64, String)> {
        let reader = self.reader(topic);
        let bounds = LogBounds { start: from, ..reader.bounds(partition).unwrap() };
        reader.assign_within(&[(partition, bounds)]).unwrap();
        let mut values = Vec::new();
        let read = eventually(SOON, || {
            values.extend(drain(&reader, 10_000).unwrap());
            reader.is_at_end()
        });
        assert!(read, "{topic} {partition}: {} values, but its end is {}", values.len(), bounds.end);
        values
    }
}

/// A section for tests: development defaults, and figures often.
pub(crate) fn test_section(bootstrap_servers: &str) -> KafkaSection {
    KafkaSection {
        bootstrap_servers: bootstrap_servers.to_owned(),
        // On a busy machine an answer may take its time.
        request_timeout_ms: 20_000,
        message_timeout_ms: 60_000,
        statistics_interval_ms: 1_000,
        ..KafkaSection::default()
    }
}

/// A broker of a test's own, with these settings.
pub(crate) fn only_kafka(kafka_settings: &[(&str, &str)]) -> Servers {
    let nobody = || Some("nobody-is-asked".to_owned());
    let external = ExternalServers { database_url: nobody(), redis_url: nobody(), ..Default::default() };
    let kafka_settings =
        kafka_settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Servers::start(ServersOptions { external, kafka_settings, ..ServersOptions::default() }).unwrap()
}

/// A record without headers; its key says nothing.
pub(crate) fn record<'a>(topic: &'a str, partition: i32, value: &'a str) -> NewRecord<'a> {
    NewRecord { topic, partition, key: b"key", payload: Some(value.as_bytes()), headers: &[] }
}

pub(crate) fn append(producer: &Producer, record: &NewRecord<'_>) -> Result<Acknowledged, AppendError> {
    block_on(producer.append(*record))
}

/// What is there now: offsets and values (an empty text for a tombstone).
pub(crate) fn drain(reader: &Reader, most: usize) -> Result<Vec<(i64, String)>, ReadError> {
    let mut values = Vec::new();
    reader.drain(most, Duration::from_millis(100), |record| {
        let value = String::from_utf8(record.payload().unwrap_or_default().to_vec()).unwrap();
        values.push((record.offset(), value));
        ControlFlow::Continue(())
    })?;
    Ok(values)
}

/// Drains until something is there.
pub(crate) fn drain_some(reader: &Reader, most: usize) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    assert!(eventually(SOON, || {
        values = drain(reader, most).unwrap();
        !values.is_empty()
    }));
    values
}

/// Drains until reading cannot go on.
pub(crate) fn drain_until_error(reader: &Reader) -> ReadError {
    let mut error = None;
    assert!(eventually(SOON, || {
        error = drain(reader, 1_000).err();
        error.is_some()
    }));
    error.unwrap()
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn metrics() -> KafkaMetrics {
    let opts = |name: &str| Opts::new(name, "of a test");
    let histogram: HistogramOpts = histogram_opts!("delivery_seconds", "of a test");
    KafkaMetrics {
        delivery_seconds: HistogramVec::new(histogram, &["topic", "result"]).unwrap(),
        broker_rtt_seconds: GaugeVec::new(opts("rtt"), &["broker", "quantile"]).unwrap(),
        broker_errors_total: IntCounterVec::new(opts("errors"), &["broker", "kind"]).unwrap(),
        assigned_partitions: IntGaugeVec::new(opts("assigned"), &["group", "topic"]).unwrap(),
        rebalances_total: IntCounterVec::new(opts("rebalances"), &["group"]).unwrap(),
        up: IntGauge::with_opts(opts("up")).unwrap(),
    }
}
