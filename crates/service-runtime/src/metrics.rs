//! The process's metrics: collectors made from the catalogue, and their text for Prometheus.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use infrastructure_postgres::PostgresError;

use crate::catalogue::{self, Kind, Metric};

/// Makes and registers collectors. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    service: &'static str,
    before_text: Arc<Mutex<Vec<Look>>>,
}

/// Brings gauges up to date.
type Look = Box<dyn Fn() + Send + Sync>;

impl Metrics {
    /// The metrics of a service, with those of its process.
    #[must_use]
    pub fn new(service: &'static str) -> Self {
        let metrics = Self { registry: Registry::new(), service, before_text: Arc::default() };
        metrics.register("process", prometheus::process_collector::ProcessCollector::for_self());
        metrics.int_gauges(&catalogue::BUILD_INFO).with_label_values(&[crate::RELEASE]).set(1);
        metrics
    }

    /// A counter without labels.
    #[must_use]
    pub fn counter(&self, metric: &Metric) -> IntCounter {
        self.add(metric, IntCounter::with_opts(self.options(metric)))
    }

    /// Counters by label.
    #[must_use]
    pub fn counters(&self, metric: &Metric) -> IntCounterVec {
        self.add(metric, IntCounterVec::new(self.options(metric), metric.labels))
    }

    /// A gauge of whole numbers without labels.
    #[must_use]
    pub fn int_gauge(&self, metric: &Metric) -> IntGauge {
        self.add(metric, IntGauge::with_opts(self.options(metric)))
    }

    /// Gauges of whole numbers by label.
    #[must_use]
    pub fn int_gauges(&self, metric: &Metric) -> IntGaugeVec {
        self.add(metric, IntGaugeVec::new(self.options(metric), metric.labels))
    }

    /// A gauge without labels.
    #[must_use]
    pub fn gauge(&self, metric: &Metric) -> Gauge {
        self.add(metric, Gauge::with_opts(self.options(metric)))
    }

    /// Gauges by label.
    #[must_use]
    pub fn gauges(&self, metric: &Metric) -> GaugeVec {
        self.add(metric, GaugeVec::new(self.options(metric), metric.labels))
    }

    /// A histogram without labels.
    #[must_use]
    pub fn histogram(&self, metric: &Metric) -> Histogram {
        self.add(metric, Histogram::with_opts(self.histogram_options(metric)))
    }

    /// Histograms by label.
    #[must_use]
    pub fn histograms(&self, metric: &Metric) -> HistogramVec {
        self.add(metric, HistogramVec::new(self.histogram_options(metric), metric.labels))
    }

    /// Lets `look` bring gauges up to date each time somebody reads them. It must be quick and wait for nothing.
    pub fn before_text(&self, look: impl Fn() + Send + Sync + 'static) {
        self.before_text.lock().push(Box::new(look));
    }

    /// Everything, as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        for look in self.before_text.lock().iter() {
            look();
        }
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    fn options(&self, metric: &Metric) -> Opts {
        Opts::new(format!("coupon_{}", metric.name), metric.help).const_label("service", self.service)
    }

    fn histogram_options(&self, metric: &Metric) -> HistogramOpts {
        let bounds = match metric.kind {
            Kind::Histogram(buckets) => buckets.bounds(),
            Kind::Counter | Kind::Gauge => unreachable!("{} is no histogram", metric.name),
        };
        HistogramOpts::from(self.options(metric)).buckets(bounds)
    }

    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: &Metric,
        collector: prometheus::Result<C>,
    ) -> C {
        match collector {
            Ok(collector) => {
                self.register(metric.name, collector.clone());
                collector
            }
            Err(error) => unreachable!("the catalogue's {} is well formed: {error}", metric.name),
        }
    }

    fn register(&self, name: &str, collector: impl prometheus::core::Collector + 'static) {
        if let Err(error) = self.registry.register(Box::new(collector)) {
            unreachable!("{name} is registered once: {error}");
        }
    }
}

/// The collectors that Kafka clients fill.
#[must_use]
pub fn kafka(metrics: &Metrics, dependency_up: &IntGaugeVec) -> infrastructure_kafka::KafkaMetrics {
    infrastructure_kafka::KafkaMetrics {
        delivery_seconds: metrics.histograms(&catalogue::KAFKA_DELIVERY_SECONDS),
        broker_rtt_seconds: metrics.gauges(&catalogue::KAFKA_BROKER_RTT_SECONDS),
        broker_errors_total: metrics.counters(&catalogue::KAFKA_BROKER_ERRORS_TOTAL),
        assigned_partitions: metrics.int_gauges(&catalogue::KAFKA_ASSIGNED_PARTITIONS),
        rebalances_total: metrics.counters(&catalogue::KAFKA_REBALANCES_TOTAL),
        up: dependency_up.with_label_values(&["kafka"]),
    }
}

/// The collectors that the Kafka clients of a process fill which only reads; the others are there and shown to nobody.
#[must_use]
pub fn kafka_reader(metrics: &Metrics, dependency_up: &IntGaugeVec) -> infrastructure_kafka::KafkaMetrics {
    let unwatched = Metrics { registry: Registry::new(), ..metrics.clone() };
    infrastructure_kafka::KafkaMetrics {
        broker_rtt_seconds: metrics.gauges(&catalogue::KAFKA_BROKER_RTT_SECONDS),
        broker_errors_total: metrics.counters(&catalogue::KAFKA_BROKER_ERRORS_TOTAL),
        ..kafka(&unwatched, dependency_up)
    }
}

/// The collectors that Redis connections fill which do these operations.
#[must_use]
pub fn redis(
    metrics: &Metrics,
    dependency_up: &IntGaugeVec,
    operations: &[&str],
) -> infrastructure_redis::RedisMetrics {
    let redis = infrastructure_redis::RedisMetrics {
        request_seconds: metrics.histograms(&catalogue::REDIS_SECONDS),
        up: dependency_up.with_label_values(&["redis"]),
    };
    for operation in operations {
        redis.asks(operation);
    }
    redis
}

/// Whether PostgreSQL answers, in the metrics.
pub const PING: &str = "ping";

/// Requests to PostgreSQL: how long they take, and whether it answered last time.
#[derive(Clone)]
pub struct PostgresRequests {
    seconds: HistogramVec,
    up: IntGauge,
}

impl PostgresRequests {
    /// The collectors of a process that does these operations.
    #[must_use]
    pub fn new(metrics: &Metrics, dependency_up: &IntGaugeVec, operations: &[&str]) -> Self {
        let seconds = metrics.histograms(&catalogue::POSTGRES_SECONDS);
        for operation in operations {
            for result in PostgresError::RESULTS {
                drop(seconds.with_label_values(&[*operation, result]));
            }
        }
        Self { seconds, up: dependency_up.with_label_values(&["postgres"]) }
    }

    /// An operation came to this result.
    pub fn observe<T>(&self, operation: &str, seconds: f64, result: &Result<T, PostgresError>) {
        self.up.set(i64::from(!result.as_ref().is_err_and(PostgresError::is_loss)));
        let labels = [operation, PostgresError::result(result)];
        self.seconds.with_label_values(&labels).observe(seconds);
    }

    /// Measures work.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn measure<T>(
        &self,
        operation: &str,
        work: impl Future<Output = Result<T, PostgresError>>,
    ) -> Result<T, PostgresError> {
        let started = Instant::now();
        let result = work.await;
        self.observe(operation, started.elapsed().as_secs_f64(), &result);
        result
    }
}

/// Shows the keys that are held, by fingerprint.
pub fn keys(metrics: &Metrics, ring: &coupon_domain::KeyRing) {
    let gauges = metrics.int_gauges(&catalogue::KEY_INFO);
    for (id, key) in ring.iter() {
        gauges.with_label_values(&[id.as_str(), key.fingerprint().as_str()]).set(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_carry_the_service_and_the_prefix() {
        let metrics = Metrics::new("notifier");
        metrics.counters(&catalogue::LIMIT_HITS_TOTAL).with_label_values(&["waiters"]).inc();
        let text = metrics.text();
        assert!(text.contains(r#"coupon_limit_hits_total{limit="waiters",service="notifier"} 1"#), "{text}");
        assert!(text.contains("process_resident_memory_bytes"));
        assert!(text.contains("# HELP coupon_build_info"));
    }

    #[test]
    fn every_row_of_the_catalogue_can_be_registered() {
        let metrics = Metrics::new("all");
        for metric in catalogue::ALL.iter().filter(|metric| metric.name != catalogue::BUILD_INFO.name) {
            match metric.kind {
                Kind::Counter => drop(metrics.counters(metric)),
                Kind::Gauge => drop(metrics.gauges(metric)),
                Kind::Histogram(_) => drop(metrics.histograms(metric)),
            }
        }
    }
}
