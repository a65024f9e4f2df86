//! Appending to the line: one append in flight per claim, and no 202 for a log that is not the one we know.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use coupon_domain::wire::{encode_claim, encode_command};
use coupon_domain::{Claim, ClaimId, Command, CouponId, HaltReason, Offset, Partition, Timestamp};
use infrastructure_http::{Code, Problem};
use infrastructure_kafka::{AppendError, NewRecord, Producer};
use parking_lot::Mutex;
use service_runtime::topics_watch::TopicsWatch;
use service_runtime::trace::{Carried, TraceHeaders};
use service_runtime::{Clock, Ended, Tasks};
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;

use crate::broker_clock::BrokerClocks;
use crate::metrics::ServiceMetrics;
use crate::state_map::StateMap;

/// The map of claims in flight is split, so that requests do not queue for one lock.
const SHARDS: usize = 64;

/// Where a record stands in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) partition: i32,
    /// Unknown where the broker recognised a resent request.
    pub(crate) offset: Option<Offset>,
    pub(crate) appended_at: Timestamp,
    /// It stands here or behind: its own offset, else the first one that was not decided when it was sent. An older answer is none to this press.
    pub(crate) not_before: Option<Offset>,
}

/// Why there is no ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoTicket {
    /// Too busy: certainly not in the log.
    QueueFull,
    /// Certainly not in the log.
    Refused,
    /// It may be in the log.
    InDoubt,
    /// It is in a log, but not in the one we know.
    LogMismatch,
    /// Certainly not in the log, which is not kept as promises need it.
    Unsafe(Arc<str>),
    /// Certainly not in the log: its line stands still, and nobody can say whether it will be decided.
    Halted(HaltReason),
}

impl NoTicket {
    pub(crate) fn problem(&self) -> Problem {
        match self {
            Self::QueueFull => {
                Problem::new(Code::Overloaded, "too many requests wait for the log; nothing happened")
            }
            Self::Refused => {
                Problem::new(Code::NotAccepted, "the log did not take the record; nothing happened")
            }
            Self::InDoubt => Problem::new(
                Code::InDoubt,
                "the log did not acknowledge in time; pressing again is safe, and the Location tells",
            ),
            Self::Unsafe(wrong) => Problem::new(
                Code::NotAccepted,
                format!("nothing can be promised now, and nothing happened: {wrong}"),
            ),
            Self::Halted(reason) => Problem::new(
                Code::NotAccepted,
                format!(
                    "the coupon's line stands still ({reason}) until an operator has looked; nothing happened"
                ),
            ),
            Self::LogMismatch => Problem::new(
                Code::LogMismatch,
                "the log is behind what was already decided: it was truncated or recreated",
            ),
        }
    }
}

type Outcome = Result<Ticket, NoTicket>;
type Followers = SmallVec<[oneshot::Sender<Outcome>; 1]>;
type Shard = Mutex<HashMap<ClaimId, Followers, foldhash::fast::RandomState>>;

/// Appends claims and commands.
pub(crate) struct Appender {
    pub(crate) producer: Producer,
    pub(crate) topic: String,
    pub(crate) states: Arc<StateMap>,
    pub(crate) broker_clocks: Arc<BrokerClocks>,
    pub(crate) topics: TopicsWatch,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Arc<ServiceMetrics>,
    pub(crate) in_flight: InFlight,
    pub(crate) strange_lines: StrangeLines,
}

/// Lines whose log is not the one we know. What is appended there makes it only look more like it, so nothing is, until the process starts anew
/// and looks again.
#[derive(Default)]
pub(crate) struct StrangeLines {
    any: AtomicBool,
    partitions: Mutex<HashSet<Partition>>,
}

impl StrangeLines {
    fn holds(&self, partition: Partition) -> bool {
        self.any.load(Ordering::Acquire) && self.partitions.lock().contains(&partition)
    }

    fn add(&self, partition: Partition) {
        self.partitions.lock().insert(partition);
        self.any.store(true, Ordering::Release);
    }
}

impl Appender {
    /// Appends a claim, or shares the append of the same claim that is under way.
    pub(crate) async fn claim(&self, claim: &Claim, trace: Option<&Carried>) -> Outcome {
        loop {
            match self.in_flight.join(claim.claim_id) {
                Joined::Leader(leader) => {
                    let payload = encode_claim(claim);
                    let claim_id = claim.claim_id.to_string();
                    let coupon_id = claim.claim_id.coupon_id;
                    let outcome = self.append(coupon_id, &payload, ("claim_id", &claim_id), trace).await;
                    leader.finish(&outcome);
                    return outcome;
                }
                Joined::Follower(outcome) => match outcome.await {
                    Ok(outcome) => return outcome,
                    // The leader's client went away in the middle: lead ourselves. The log bears a second copy.
                    Err(_) => continue,
                },
            }
        }
    }

    /// Appends a command.
    pub(crate) async fn command(&self, command: &Command) -> Outcome {
        let payload = encode_command(command);
        let command_id = command.command_id.to_string();
        self.append(command.command_id.coupon_id, &payload, ("command_id", &command_id), None).await
    }

    async fn append(
        &self,
        coupon_id: CouponId,
        payload: &[u8],
        id: (&str, &str),
        trace: Option<&Carried>,
    ) -> Outcome {
        let partition = coupon_id.partition();
        if self.strange_lines.holds(partition) {
            return Err(NoTicket::LogMismatch);
        }
        if let Some(reason) = self.states.halted(partition).filter(|reason| reason.endangers_new_claims()) {
            return Err(NoTicket::Halted(reason));
        }
        if let Some(wrong) = self.topics.endangers(&self.topic) {
            return Err(NoTicket::Unsafe(wrong));
        }
        // What was decided before this was sent lies before it, if the log is the one we know.
        let decided = self.states.decided(partition);
        let key = coupon_id.to_string();
        let trace = trace.map(TraceHeaders::new);
        let mut headers: SmallVec<[(&str, &[u8]); 4]> =
            smallvec![(id.0, id.1.as_bytes()), ("coupon_id", key.as_bytes())];
        headers.extend(trace.iter().flat_map(TraceHeaders::iter));
        let sent = Instant::now();
        let record = NewRecord {
            topic: &self.topic,
            partition: partition.number(),
            key: key.as_bytes(),
            payload: Some(payload),
            headers: &headers,
        };
        let acknowledged = match self.producer.append(record).await {
            Ok(acknowledged) => acknowledged,
            Err(AppendError::QueueFull) => return Err(NoTicket::QueueFull),
            Err(AppendError::Refused(reason)) => {
                tracing::warn!(%partition, "the log refused a record: {reason}");
                return Err(NoTicket::Refused);
            }
            Err(AppendError::Unknown(reason)) => {
                tracing::debug!(%partition, "a record is in doubt: {reason}");
                return Err(NoTicket::InDoubt);
            }
            Err(AppendError::Fatal(reason)) => {
                self.tasks.end(Ended::Fatal(reason));
                return Err(NoTicket::InDoubt);
            }
        };
        let offset = acknowledged.offset.and_then(|offset| Offset::new(offset).ok());
        let appended_at = acknowledged.append_time_ms.and_then(|ms| Timestamp::from_ms(ms).ok());
        if let Some(appended_at) = appended_at {
            let acknowledged_at = Instant::now();
            self.broker_clocks.learn(partition, sent, acknowledged_at, appended_at);
            let half =
                i64::try_from(acknowledged_at.duration_since(sent).as_millis() / 2).unwrap_or(i64::MAX);
            let offset_ms = appended_at.ms() - self.clock.now().plus_ms(-half).ms();
            let offset_ms = f64::from(i32::try_from(offset_ms).unwrap_or(i32::MAX));
            self.metrics.broker_clock_offset_seconds.set(offset_ms / 1_000.0);
        }
        if let (Some(offset), Some(decided)) = (offset, decided)
            && offset <= decided
        {
            tracing::error!(runbook = "CouponPartitionHalted", %partition, %offset, %decided, "the log ends before what was decided: no 202 for it from now on");
            self.strange_lines.add(partition);
            return Err(NoTicket::LogMismatch);
        }
        let Some(appended_at) = appended_at else {
            // It stands in the log and cannot be decided (the topic does not keep the broker's times), or a copy of it does.
            return Err(NoTicket::InDoubt);
        };
        let not_before = offset.or_else(|| decided.map(Offset::next));
        Ok(Ticket { partition: acknowledged.partition, offset, appended_at, not_before })
    }
}

/// The claims whose append is under way.
pub(crate) struct InFlight {
    shards: Vec<Shard>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

enum Joined<'a> {
    Leader(Leader<'a>),
    Follower(oneshot::Receiver<Outcome>),
}

impl InFlight {
    fn join(&self, claim_id: ClaimId) -> Joined<'_> {
        let [first, ..] = claim_id.mac;
        let Some(shard) = self.shards.get(usize::from(first) % SHARDS) else {
            unreachable!("a remainder is smaller than its divisor");
        };
        let mut in_flight = shard.lock();
        match in_flight.get_mut(&claim_id) {
            Some(followers) => {
                let (sender, receiver) = oneshot::channel();
                followers.push(sender);
                Joined::Follower(receiver)
            }
            None => {
                in_flight.insert(claim_id, Followers::new());
                Joined::Leader(Leader { shard, claim_id, finished: false })
            }
        }
    }
}

/// The request that does the append. Dropped without an outcome, its followers find out and lead themselves.
struct Leader<'a> {
    shard: &'a Shard,
    claim_id: ClaimId,
    finished: bool,
}

impl Leader<'_> {
    fn finish(mut self, outcome: &Outcome) {
        self.finished = true;
        let followers = self.shard.lock().remove(&self.claim_id).unwrap_or_default();
        for follower in followers {
            // A follower whose client went away no longer needs it.
            drop(follower.send(outcome.clone()));
        }
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.shard.lock().remove(&self.claim_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use coupon_domain::{Partition, Round, Slot};
    use uuid::Uuid;

    use super::*;

    fn claim_id() -> ClaimId {
        let coupon_id = CouponId::new(Partition::new(0).unwrap(), Uuid::from_u128(1));
        ClaimId { coupon_id, round: Round::FIRST, slot: Slot::ONLY, mac: [7; 16] }
    }

    #[tokio::test]
    async fn presses_of_one_claim_share_one_append() {
        let in_flight = InFlight::default();
        let Joined::Leader(leader) = in_flight.join(claim_id()) else { panic!("the first press leads") };
        let Joined::Follower(follower) = in_flight.join(claim_id()) else { panic!("the second follows") };
        let ticket = Ticket { partition: 0, offset: None, appended_at: Timestamp::EPOCH, not_before: None };
        leader.finish(&Ok(ticket));
        assert_eq!(follower.await.unwrap(), Ok(ticket));
        assert!(matches!(in_flight.join(claim_id()), Joined::Leader(_)));
    }

    #[tokio::test]
    async fn followers_of_a_leader_that_went_away_lead_themselves() {
        let in_flight = InFlight::default();
        let Joined::Leader(leader) = in_flight.join(claim_id()) else { panic!("the first press leads") };
        let Joined::Follower(follower) = in_flight.join(claim_id()) else { panic!("the second follows") };
        drop(leader);
        assert!(follower.await.is_err());
        assert!(matches!(in_flight.join(claim_id()), Joined::Leader(_)));
    }
}
