//! The process's metrics: collectors made from the catalogue, and their text for Prometheus.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::catalogue::{self, Kind, Metric};

/// Makes and registers collectors. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    service: &'static str,
}

impl Metrics {
    /// The metrics of a service, with those of its process.
    #[must_use]
    pub fn new(service: &'static str) -> Self {
        let metrics = Self { registry: Registry::new(), service };
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

    /// Everything, as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
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

/// The collectors that Redis connections fill.
#[must_use]
pub fn redis(metrics: &Metrics, dependency_up: &IntGaugeVec) -> infrastructure_redis::RedisMetrics {
    infrastructure_redis::RedisMetrics {
        request_seconds: metrics.histograms(&catalogue::REDIS_SECONDS),
        up: dependency_up.with_label_values(&["redis"]),
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
