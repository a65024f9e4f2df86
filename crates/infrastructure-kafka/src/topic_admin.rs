//! Creating, growing and checking the topics.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};

use crate::client::{Connection, KafkaError, Observer};
use crate::refusal::explain;
use crate::topics::{REPLICATION_FACTOR, RETENTION_MS, RETENTION_MS_MIN, Topic, TopicLayout};

/// Something about a topic that is not as this installation needs it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicProblem {
    /// It is not there. A service waits for it.
    #[error("topic {topic} does not exist: run `couponctl topics apply`")]
    Missing {
        /// The topic's full name.
        topic: String,
    },
    /// It has fewer partitions than configured. A service waits for them.
    #[error("topic {topic} has {found} partitions, {expected} are configured: run `couponctl topics apply`")]
    TooFewPartitions {
        /// The topic's full name.
        topic: String,
        /// How many it has.
        found: usize,
        /// How many it needs.
        expected: usize,
    },
    /// It is kept in a way that breaks a promise. A service refuses to start.
    #[error(
        "topic {topic} has {setting}={found}, needed is {expected}: alter the topic, or recreate it while it is empty"
    )]
    Wrong {
        /// The topic's full name.
        topic: String,
        /// Which setting.
        setting: String,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
}

impl TopicProblem {
    /// True where `couponctl topics apply` mends it, so that a service waits rather than refuses.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !matches!(self, Self::Wrong { .. })
    }

    /// True where an acknowledgement is worth less than it should be: the record may be lost, merged with another or not be dated by the broker. A
    /// retention that is too short endangers only what is not read in time.
    #[must_use]
    pub fn endangers_acknowledged(&self) -> bool {
        matches!(self, Self::Wrong { setting, .. } if setting != RETENTION_MS && setting != "retention.bytes")
    }

    /// The topic's full name.
    #[must_use]
    pub fn topic(&self) -> &str {
        match self {
            Self::Missing { topic } | Self::TooFewPartitions { topic, .. } | Self::Wrong { topic, .. } => {
                topic
            }
        }
    }
}

/// What `apply` did to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was made.
    Created,
    /// It got more partitions.
    Grown {
        /// How many it had.
        from: usize,
    },
    /// It was there already.
    Unchanged,
}

/// Looks after the topics of one installation.
pub struct TopicAdmin {
    client: AdminClient<Observer>,
    connection: Connection,
    layout: TopicLayout,
    timeout: Duration,
}

impl TopicAdmin {
    /// An admin client.
    ///
    /// # Errors
    /// [`KafkaError::Fatal`]: librdkafka refuses the settings.
    pub fn new(connection: &Connection, layout: TopicLayout) -> Result<Self, KafkaError> {
        let client =
            AdminClient::from_config_and_context(&connection.base(), connection.observer("topic admin"))
                .map_err(|error| KafkaError::Fatal(format!("admin client settings: {error}")))?;
        Ok(Self { client, connection: connection.clone(), layout, timeout: connection.request_timeout() })
    }

    /// Creates what is missing and grows what is too small: claims last, so that no line exists before its outcomes can. Settings of
    /// topics that exist are left alone; [`TopicAdmin::problems`] names those that do not fit.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub async fn apply(&self) -> Result<Vec<(String, Applied)>, KafkaError> {
        let mut done = Vec::new();
        for topic in Topic::ALL {
            let name = self.layout.name(topic);
            let wanted = usize::from(self.layout.partitions);
            let applied = match self.partitions(&name)? {
                None => self.create(topic, &name).await?,
                Some(found) if found.len() < wanted => self.grow(&name, found.len(), wanted).await?,
                Some(_) => Applied::Unchanged,
            };
            done.push((name, applied));
        }
        Ok(done)
    }

    async fn create(&self, topic: Topic, name: &str) -> Result<Applied, KafkaError> {
        let minimum = self.layout.min_insync_replicas.to_string();
        let initial = topic.initial_settings();
        let replication = TopicReplication::Fixed(self.layout.replication_factor.into());
        let mut new = NewTopic::new(name, self.layout.partitions.into(), replication)
            .set("min.insync.replicas", &minimum);
        for (key, value) in topic.required_settings() {
            new = new.set(key, value);
        }
        for (key, value) in &initial {
            new = new.set(key, value);
        }
        let results = self.client.create_topics([&new], &self.options()).await;
        applied(first_result(results, name), Applied::Created)
    }

    async fn grow(&self, name: &str, from: usize, to: usize) -> Result<Applied, KafkaError> {
        let growth = [NewPartitions::new(name, to)];
        let results = self.client.create_partitions(&growth, &self.options()).await;
        applied(first_result(results, name), Applied::Grown { from })
    }

    /// Everything about the topics that is not as it has to be, at once.
    ///
    /// # Errors
    /// [`KafkaError`]: they could not be asked about.
    pub async fn problems(&self) -> Result<Vec<TopicProblem>, KafkaError> {
        let mut problems = Vec::new();
        for topic in Topic::ALL {
            let name = self.layout.name(topic);
            match self.partitions(&name)? {
                None => problems.push(TopicProblem::Missing { topic: name }),
                Some(partitions) => problems.extend(self.problems_of(topic, &name, &partitions).await?),
            }
        }
        Ok(problems)
    }

    async fn problems_of(
        &self,
        topic: Topic,
        name: &str,
        replicas: &[usize],
    ) -> Result<Vec<TopicProblem>, KafkaError> {
        let mut problems = Vec::new();
        let expected = usize::from(self.layout.partitions);
        if replicas.len() < expected {
            let (topic, found) = (name.to_owned(), replicas.len());
            problems.push(TopicProblem::TooFewPartitions { topic, found, expected });
        }
        let mut wrong = |setting: &str, found: &str, expected: &str| {
            problems.push(TopicProblem::Wrong {
                topic: name.to_owned(),
                setting: setting.to_owned(),
                found: found.to_owned(),
                expected: expected.to_owned(),
            });
        };
        let fewest = replicas.iter().copied().min().unwrap_or(0);
        if fewest < usize::from(self.layout.replication_factor) {
            let at_least = format!("at least {}", self.layout.replication_factor);
            wrong(REPLICATION_FACTOR, &fewest.to_string(), &at_least);
        }
        let settings = self.settings(name).await?;
        let found = |key: &str| settings.get(key).map_or("", String::as_str);
        for (key, expected) in topic.required_settings() {
            if found(key) != expected {
                wrong(key, found(key), expected);
            }
        }
        let kept = found(RETENTION_MS);
        // -1: for ever.
        let is_long = kept == "-1" || kept.parse().is_ok_and(|kept_ms: u64| kept_ms >= RETENTION_MS_MIN);
        if topic.is_log() && !is_long {
            wrong(RETENTION_MS, kept, &format!("at least {RETENTION_MS_MIN}"));
        }
        let in_sync = found("min.insync.replicas");
        if in_sync.parse::<u16>().map_or(true, |copies| copies < self.layout.min_insync_replicas) {
            let at_least = format!("at least {}", self.layout.min_insync_replicas);
            wrong("min.insync.replicas", in_sync, &at_least);
        }
        Ok(problems)
    }

    /// How long a topic keeps its records, in ms; none: for ever.
    ///
    /// # Errors
    /// [`KafkaError`]: it could not be asked about, or is not there.
    pub async fn retention_ms(&self, topic: Topic) -> Result<Option<u64>, KafkaError> {
        let settings = self.settings(&self.layout.name(topic)).await?;
        Ok(settings.get(RETENTION_MS).and_then(|kept_ms| kept_ms.parse().ok()))
    }

    /// How many copies each partition has; none where there is no such topic.
    fn partitions(&self, name: &str) -> Result<Option<Vec<usize>>, KafkaError> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(Some(name), self.timeout)
            .map_err(|error| self.failed(&error, name))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok(None);
        };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(topic.partitions().iter().map(|partition| partition.replicas().len()).collect())),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(code) => Err(self.failed(&ClientError::MetadataFetch(code), name)),
        }
    }

    async fn settings(&self, name: &str) -> Result<HashMap<String, String>, KafkaError> {
        let resource = [ResourceSpecifier::Topic(name)];
        let resources = self
            .client
            .describe_configs(&resource, &self.options())
            .await
            .map_err(|error| self.failed(&error, name))?;
        let mut settings = HashMap::new();
        for resource in resources {
            let resource = resource.map_err(|code| KafkaError::of(&ClientError::AdminOp(code), name, -1))?;
            settings
                .extend(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
        }
        Ok(settings)
    }

    fn failed(&self, error: &ClientError, name: &str) -> KafkaError {
        explain(KafkaError::of(error, name, -1), &self.connection)
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }
}

enum ApplyError {
    /// It is so already: somebody else was faster.
    Already,
    Kafka(KafkaError),
}

fn applied(result: Result<(), ApplyError>, done: Applied) -> Result<Applied, KafkaError> {
    match result {
        Ok(()) => Ok(done),
        Err(ApplyError::Already) => Ok(Applied::Unchanged),
        Err(ApplyError::Kafka(error)) => Err(error),
    }
}

fn first_result(
    results: Result<Vec<rdkafka::admin::TopicResult>, ClientError>,
    name: &str,
) -> Result<(), ApplyError> {
    let results = results.map_err(|error| ApplyError::Kafka(KafkaError::of(&error, name, -1)))?;
    match results.into_iter().next() {
        // The second code is what a growth gets that would be none.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists | RDKafkaErrorCode::InvalidPartitions))) => {
            Err(ApplyError::Already)
        }
        Some(Err((_, code))) => {
            Err(ApplyError::Kafka(KafkaError::Fatal(format!("topic {name} was refused: {code}"))))
        }
        Some(Ok(_)) | None => Ok(()),
    }
}
