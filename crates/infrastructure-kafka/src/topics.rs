//! The topics: what exists, how it is kept, and why.

/// A topic of Firstcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// `coupon.claims`: claims and commands, the lines of people.
    Claims,
    /// `coupon.outcomes`: what the log says about each record of a line.
    Outcomes,
    /// `coupon.state`: what gateways need to know of each coupon.
    State,
    /// `coupon.persisted`: how far PostgreSQL reflects each partition.
    Persisted,
    /// `coupon.dlq`: bytes that could not be read.
    DeadLetters,
}

/// How [`crate::TopicProblem::Wrong`] names the number of copies, which is no setting of a topic.
pub(crate) const REPLICATION_FACTOR: &str = "replication.factor";
pub(crate) const RETENTION_MS: &str = "retention.ms";

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long claims and outcomes are kept: a store that is down for less loses nothing.
pub const LOG_RETENTION_MS: u64 = 7 * DAY_MS;
/// The shortest that logs may be kept, whatever an operator sets: a weekend's outage loses nothing else, and a day's is survived.
pub const RETENTION_MS_MIN: u64 = DAY_MS;
/// A compacted topic's segment is closed after so long, and what a newer record has replaced goes with the next compaction.
const COMPACTED_SEGMENT_MS: u64 = 10 * 60 * 1000;
/// How long undecodable records are kept for somebody to look at.
pub const DEAD_LETTER_RETENTION_MS: u64 = 30 * DAY_MS;

impl Topic {
    /// All of them, in the order in which they are grown: claims last, so that a gateway never appends to a line that has no place for its
    /// outcomes yet.
    pub const ALL: [Self; 5] =
        [Self::Outcomes, Self::State, Self::Persisted, Self::DeadLetters, Self::Claims];

    /// The name without prefix.
    #[must_use]
    pub fn base_name(self) -> &'static str {
        match self {
            Self::Claims => "coupon.claims",
            Self::Outcomes => "coupon.outcomes",
            Self::State => "coupon.state",
            Self::Persisted => "coupon.persisted",
            Self::DeadLetters => "coupon.dlq",
        }
    }

    /// True where records go after a time, and not sooner because a newer one has the same key.
    #[must_use]
    pub fn is_log(self) -> bool {
        matches!(self, Self::Claims | Self::Outcomes | Self::DeadLetters)
    }

    /// The settings that services insist on: with others, promises break. They are given at creation, since brokers have defaults of their own.
    #[must_use]
    pub fn required_settings(self) -> Vec<(&'static str, &'static str)> {
        // A replica that lacks acknowledged records must never lead.
        let mut required = vec![("unclean.leader.election.enable", "false")];
        if self.is_log() {
            required.extend([
                ("cleanup.policy", "delete"),
                // The fold's only time is the broker's append time; a client's clock would decide who was early.
                ("message.timestamp.type", "LogAppendTime"),
                // A crowd would push out what nobody has decided yet.
                ("retention.bytes", "-1"),
            ]);
        } else {
            // The last record of each key must stay for ever.
            required.push(("cleanup.policy", "compact"));
        }
        required
    }

    /// Everything that is looked at, as [`crate::TopicProblem::Wrong`] names it.
    #[must_use]
    pub fn checked_settings(self) -> Vec<&'static str> {
        let required = self.required_settings().into_iter().map(|(setting, _)| setting);
        let least = ["min.insync.replicas", REPLICATION_FACTOR].into_iter();
        required.chain(least).chain(self.is_log().then_some(RETENTION_MS)).collect()
    }

    /// Further settings given at creation, which an operator may change.
    #[must_use]
    pub fn initial_settings(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Claims | Self::Outcomes => vec![("retention.ms", LOG_RETENTION_MS.to_string())],
            Self::DeadLetters => vec![("retention.ms", DEAD_LETTER_RETENTION_MS.to_string())],
            // Whoever starts reads all of it, before it is ready and before anything is redeemed. Only closed segments are compacted: they are closed soon.
            Self::State | Self::Persisted => vec![
                ("segment.ms", COMPACTED_SEGMENT_MS.to_string()),
                ("segment.bytes", (64 * 1024 * 1024).to_string()),
                ("min.cleanable.dirty.ratio", "0.1".to_owned()),
            ],
        }
    }
}

/// The topics of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLayout {
    /// Put before every name.
    pub prefix: String,
    /// Fewest partitions of every topic.
    pub partitions: u16,
    /// Copies of each partition.
    pub replication_factor: u16,
    /// Copies that must hold a record before it is acknowledged. Set on the topic: brokers' own values are dropped by newer
    /// Kafka versions (eligible leader replicas).
    pub min_insync_replicas: u16,
}

impl TopicLayout {
    /// A topic's name.
    #[must_use]
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.base_name())
    }
}
