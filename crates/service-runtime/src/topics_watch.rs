//! Looking at the topics' settings while the process runs: promises rest on them, and they are changed under running systems.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use infrastructure_kafka::{Connection, KafkaError, Topic, TopicAdmin, TopicLayout, TopicProblem};
use parking_lot::RwLock;
use prometheus::IntGaugeVec;

use crate::boot::Context;
use crate::catalogue;
use crate::exit::Ended;
use crate::health::Health;

/// The loop turns at least this often while it waits.
const TURN: Duration = Duration::from_secs(1);

/// What was found when the topics were last looked at. Cheap to clone.
#[derive(Clone, Default)]
pub struct TopicsWatch {
    found: Arc<Found>,
}

#[derive(Default)]
struct Found {
    any: AtomicBool,
    /// By topic: what makes an acknowledgement worth less than it should be.
    endangered: RwLock<BTreeMap<String, Arc<str>>>,
}

impl TopicsWatch {
    /// Looks every `kafka.topics_check_ms`, beginning now, and tells the metrics, the log and `/readyz`.
    ///
    /// # Errors
    /// [`Ended::Configuration`]: there is no client with these settings.
    pub fn start<C: Send + Sync + 'static>(
        context: &Context<C>,
        connection: &Connection,
        layout: TopicLayout,
    ) -> Result<Self, Ended> {
        let watch = Self::default();
        let admin = TopicAdmin::new(connection, layout.clone())
            .map_err(|error| Ended::Configuration(error.to_string()))?;
        let telling = Telling {
            health: context.health.clone(),
            wrong: context.metrics.int_gauges(&catalogue::TOPIC_SETTING_WRONG),
            layout,
            told: Vec::new(),
        };
        telling.begin();
        let interval = Duration::from_millis(connection.section().topics_check_ms.into());
        let (turn, shutdown) = (context.health.watch_loop("topics-watch"), context.shutdown.clone());
        let (found, mut telling) = (Arc::clone(&watch.found), telling);
        context.tasks.spawn("topics-watch", async move {
            loop {
                telling.tell(admin.problems().await, &found);
                let next = tokio::time::Instant::now() + interval;
                while tokio::time::Instant::now() < next {
                    turn.turn();
                    tokio::select! {
                        () = shutdown.requested() => return,
                        () = tokio::time::sleep_until(next.min(tokio::time::Instant::now() + TURN)) => {}
                    }
                }
            }
        });
        Ok(watch)
    }

    /// Why nothing must be promised of this topic now, if so.
    #[must_use]
    pub fn endangers(&self, topic: &str) -> Option<Arc<str>> {
        if !self.found.any.load(Ordering::Acquire) {
            return None;
        }
        self.found.endangered.read().get(topic).cloned()
    }
}

impl Found {
    fn set(&self, problems: &[TopicProblem]) {
        let mut endangered = BTreeMap::<String, Vec<String>>::new();
        for problem in problems.iter().filter(|problem| problem.endangers_acknowledged()) {
            endangered.entry(problem.topic().to_owned()).or_default().push(problem.to_string());
        }
        let endangered = endangered.into_iter().map(|(topic, wrong)| (topic, Arc::from(wrong.join("; "))));
        let mut known = self.endangered.write();
        *known = endangered.collect();
        self.any.store(!known.is_empty(), Ordering::Release);
    }
}

/// Tells people of what is found, each thing once.
struct Telling {
    health: Health,
    wrong: IntGaugeVec,
    layout: TopicLayout,
    told: Vec<TopicProblem>,
}

impl Telling {
    /// Every series there may be, so that a quiet one reads 0.
    fn begin(&self) {
        for topic in Topic::ALL {
            for setting in topic.checked_settings() {
                self.wrong.with_label_values(&[&self.layout.name(topic), setting]).set(0);
            }
        }
    }

    /// Where Kafka did not answer, what was found before stays.
    fn tell(&mut self, looked: Result<Vec<TopicProblem>, KafkaError>, found: &Found) {
        let problems = match looked {
            Ok(problems) => problems,
            Err(error) => {
                tracing::debug!("the topics' settings cannot be looked at: {error}");
                return;
            }
        };
        found.set(&problems);
        self.begin();
        for problem in &problems {
            if let TopicProblem::Wrong { topic, setting, .. } = problem {
                self.wrong.with_label_values(&[topic, setting]).set(1);
            }
            if !self.told.contains(problem) {
                tracing::error!(runbook = "CouponTopicSettingWrong", topic = problem.topic(), "{problem}");
            }
        }
        for mended in self.told.iter().filter(|told| !problems.contains(told)) {
            tracing::info!(topic = mended.topic(), "no longer so: {mended}");
        }
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        self.health.note("topics", (!lines.is_empty()).then(|| lines.join("; ")));
        self.told = problems;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn wrong(topic: &str, setting: &str) -> TopicProblem {
        let (found, expected) = ("found".to_owned(), "expected".to_owned());
        TopicProblem::Wrong { topic: topic.to_owned(), setting: setting.to_owned(), found, expected }
    }

    #[test]
    fn what_is_found_is_told_until_it_is_mended_and_stays_while_nobody_answers() {
        let (metrics, health) = (Metrics::new("api-gateway"), Health::new(Duration::from_secs(15)));
        let layout = TopicLayout {
            prefix: String::new(),
            partitions: 1,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        let watch = TopicsWatch::default();
        let gauges = metrics.int_gauges(&catalogue::TOPIC_SETTING_WRONG);
        let mut telling = Telling { health: health.clone(), wrong: gauges, layout, told: Vec::new() };
        telling.begin();
        let shown = |setting: &str| {
            let series = format!(
                r#"coupon_topic_setting_wrong{{service="api-gateway",setting="{setting}",topic="coupon.claims"}} "#
            );
            let text = metrics.text();
            text.lines().find_map(|line| line.strip_prefix(&series).map(str::to_owned)).unwrap()
        };
        assert_eq!((shown("cleanup.policy"), watch.endangers("coupon.claims")), ("0".to_owned(), None));

        let found = vec![wrong("coupon.claims", "cleanup.policy"), wrong("coupon.outcomes", "retention.ms")];
        telling.tell(Ok(found), &watch.found);
        assert_eq!((shown("cleanup.policy"), shown("retention.bytes")), ("1".to_owned(), "0".to_owned()));
        assert!(watch.endangers("coupon.claims").unwrap().contains("cleanup.policy=found"));
        assert_eq!(watch.endangers("coupon.outcomes"), None, "what is not read in time alone is in danger");
        assert!(health.notes()[0].contains("coupon.outcomes has retention.ms=found"), "{:?}", health.notes());
        assert!(health.ready().is_ok());

        telling.tell(Err(KafkaError::Fatal("away".to_owned())), &watch.found);
        assert!(watch.endangers("coupon.claims").is_some());
        telling.tell(Ok(Vec::new()), &watch.found);
        assert_eq!((shown("cleanup.policy"), watch.endangers("coupon.claims")), ("0".to_owned(), None));
        assert!(health.notes().is_empty());
    }
}
