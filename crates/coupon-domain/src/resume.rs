//! Starting again: what a stock-consumer does before it decides the first record of a partition that it was assigned.
//!
//! The store (PostgreSQL's checkpoint) reflects the line up to S, the outcomes log continues it up to W ≥ S. The records between are
//! replayed without a word, the chain at W must come out equal, and deciding starts at W + 1. In terms of the first offset *not*
//! reflected, `stored.next_src` is S + 1 and `next_undecided` is W + 1.

use crate::accept::{LogBounds, OutcomeWatermark};
use crate::chain::Chain;
use crate::halt::HaltReason;
use crate::ledger::{Body, LogRecord};
use crate::outcome::{Outcome, Subject};
use crate::position::{Offset, Partition};
use crate::timestamp::Timestamp;
use crate::wire::Input;

/// The store's memory of the last record that it reflects, by which a recreated or truncated log is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordIdentity {
    /// The claim id or command id that the record names; absent where it could not be read.
    pub id: Option<String>,
    /// When the broker appended it.
    pub appended_at: Timestamp,
}

impl RecordIdentity {
    /// The identity of the record that an outcome answers: what db-writer stores.
    #[must_use]
    pub fn of_outcome(outcome: &Outcome) -> Self {
        let id = match &outcome.subject {
            Subject::Claim(claim) => Some(claim.claim_id.to_string()),
            Subject::Command(command) => Some(command.command_id.to_string()),
            Subject::Invalid(invalid) => invalid.claim_id.map(|claim_id| claim_id.to_string()),
        };
        Self { id, appended_at: outcome.appended_at }
    }

    /// The identity of a record of this partition, as its outcome will have it.
    #[must_use]
    pub fn of_record(partition: Partition, record: &LogRecord) -> Self {
        let id = match &record.body {
            Body::Readable(Input::Claim(claim)) => Some(claim.claim_id.to_string()),
            Body::Readable(Input::Command(command)) => {
                // A command for another partition is answered as a record that names no claim.
                let ours = command.command_id.coupon_id.partition() == partition;
                if ours { Some(command.command_id.to_string()) } else { None }
            }
            Body::Undecodable(claim_id) | Body::Undated(claim_id) => {
                claim_id.map(|claim_id| claim_id.to_string())
            }
        };
        Self { id, appended_at: record.appended_at }
    }
}

/// What PostgreSQL says about the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It cannot be asked now.
    Unreachable,
    /// It has never heard of the partition.
    Nothing,
    /// Its progress row.
    Progress {
        /// How far it reflects the partition.
        watermark: OutcomeWatermark,
        /// The record before `watermark.next_src`; absent before the first.
        last_record: Option<RecordIdentity>,
    },
}

/// Why a partition cannot start yet. It is looked at again every second; nothing is lost by waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// PostgreSQL is away and the logs no longer reach back to the beginning: starting empty would forget people.
    ForCheckpoint,
    /// PostgreSQL is behind the start of the claims log: db-writer has to catch up from the outcomes log first.
    ForWriter,
}

impl Waiting {
    /// The readiness reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForCheckpoint => "waiting_for_checkpoint",
            Self::ForWriter => "waiting_for_writer",
        }
    }
}

/// The ledger to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing was ever decided that is not in the logs.
    Empty,
    /// The checkpoint at this watermark.
    Checkpoint {
        /// How far it reflects the partition.
        watermark: OutcomeWatermark,
        /// The record before `watermark.next_src`.
        last_record: Option<RecordIdentity>,
    },
}

impl Base {
    /// How far the base reflects the partition.
    #[must_use]
    pub fn watermark(&self, partition: Partition) -> OutcomeWatermark {
        match self {
            Self::Empty => OutcomeWatermark::genesis(partition),
            Self::Checkpoint { watermark, .. } => *watermark,
        }
    }
}

/// What to do next, if it is not to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Look again in a second.
    Wait(Waiting),
    /// Stand still until somebody lifts it.
    Halt(HaltReason),
}

/// Step one: the ledger to begin with. An unreachable store can be done without only where both logs still hold everything.
///
/// # Errors
/// [`Stop`]: wait for the store, or halt because the outcomes log is not the one it knows.
pub fn choose_base(stored: Stored, claims: LogBounds, outcomes: LogBounds) -> Result<Base, Stop> {
    let complete = claims.start == Offset::ZERO && outcomes.start == Offset::ZERO;
    match stored {
        Stored::Unreachable | Stored::Nothing if complete => Ok(Base::Empty),
        Stored::Unreachable | Stored::Nothing => Err(Stop::Wait(Waiting::ForCheckpoint)),
        Stored::Progress { watermark, .. } if outcomes.end < watermark.next_outcome_offset => {
            Err(Stop::Halt(HaltReason::LogMismatch))
        }
        Stored::Progress { watermark, last_record } => Ok(Base::Checkpoint { watermark, last_record }),
    }
}

/// One outcome, as far as starting again needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastOutcome {
    /// The record it answers.
    pub src_offset: Offset,
    /// The chain behind it.
    pub chain: Chain,
}

/// What the outcomes log has said from the record before the store's place on, whatever copies stand in between.
///
/// The last word is the end of what continues the store without a gap: only so far can a reader of the log come that begins at the store's
/// place. Where retention took outcomes that the store has not read, more was said behind the gap; all of it is published again, and the
/// highest of those words is kept, so that the repetition can be compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    next: Offset,
    last: Option<LastOutcome>,
    highest: Option<LastOutcome>,
}

impl Said {
    /// Nothing yet, for a store that stands at `next_src`.
    #[must_use]
    pub fn since(next_src: Offset) -> Self {
        Self { next: next_src, last: None, highest: None }
    }

    /// Takes the next outcome of the log.
    pub fn take(&mut self, outcome: LastOutcome) {
        if self.highest.is_none_or(|highest| highest.src_offset < outcome.src_offset) {
            self.highest = Some(outcome);
        }
        if outcome.src_offset == self.next {
            self.next = self.next.next();
            self.last = Some(outcome);
        } else if self.last.is_none() && outcome.src_offset.next() == self.next {
            // The record that the store ends with: its chain is compared.
            self.last = Some(outcome);
        }
    }

    /// The last word that continues the store, or the one that the store ends with.
    #[must_use]
    pub fn last_word(&self) -> Option<LastOutcome> {
        self.last
    }

    /// The highest word behind a gap, where there is one.
    #[must_use]
    pub fn beyond_a_gap(&self) -> Option<LastOutcome> {
        self.highest.filter(|highest| highest.src_offset >= self.next)
    }
}

/// How the log is recognised at the store's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Nothing is stored, or retention took the very record: the log starts right behind it.
    NotNeeded,
    /// The record at this offset must be this one.
    Record {
        /// Where.
        offset: Offset,
        /// Which.
        identity: RecordIdentity,
    },
}

/// Step two: what to replay and what to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The first record to fold: S + 1.
    pub from: Offset,
    /// The first record to decide: W + 1. Those before it are folded without a word.
    pub next_undecided: Offset,
    /// The chain that must come out before the first is decided.
    pub chain: Chain,
    /// How the log is recognised.
    pub handshake: Handshake,
}

/// Step two: from the base and the last word in the outcomes log.
///
/// # Errors
/// [`Stop`]: undecided claims are gone, the store is behind the claims log, the claims log is another one, or the store
/// and the outcomes log do not agree on the record that both end with.
pub fn plan_replay(
    partition: Partition,
    base: &Base,
    last_word: Option<LastOutcome>,
    claims: LogBounds,
) -> Result<Replay, Stop> {
    let watermark = base.watermark(partition);
    let (next_undecided, chain) = match last_word {
        Some(last) if last.src_offset >= watermark.next_src => (last.src_offset.next(), last.chain),
        _ => (watermark.next_src, watermark.chain),
    };
    if let Some(last) = last_word
        && last.src_offset.next() == watermark.next_src
        && last.chain != watermark.chain
    {
        return Err(Stop::Halt(HaltReason::ChainMismatch));
    }
    if next_undecided < claims.start {
        return Err(Stop::Halt(HaltReason::UndecidedDeleted));
    }
    if watermark.next_src < claims.start {
        return Err(Stop::Wait(Waiting::ForWriter));
    }
    if claims.end < next_undecided {
        return Err(Stop::Halt(HaltReason::LogMismatch));
    }
    let handshake = match (base, watermark.next_src.previous()) {
        (Base::Checkpoint { last_record: Some(identity), .. }, Some(offset)) if offset >= claims.start => {
            Handshake::Record { offset, identity: identity.clone() }
        }
        _ => Handshake::NotNeeded,
    };
    Ok(Replay { from: watermark.next_src, next_undecided, chain, handshake })
}

/// Step three: the record at the store's place must be the one it remembers.
///
/// # Errors
/// [`HaltReason::LogMismatch`].
pub fn check_handshake(expected: &RecordIdentity, found: &RecordIdentity) -> Result<(), HaltReason> {
    if expected == found { Ok(()) } else { Err(HaltReason::LogMismatch) }
}

/// Step four: the chain that came out at W must be the one the log holds there.
///
/// # Errors
/// [`HaltReason::ChainMismatch`]: this release, or this store, would decide differently from what was said.
pub fn check_chain(expected: Chain, computed: Chain) -> Result<(), HaltReason> {
    if expected == computed { Ok(()) } else { Err(HaltReason::ChainMismatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(number: i64) -> Offset {
        Offset::new(number).unwrap()
    }

    fn bounds(start: i64, end: i64) -> LogBounds {
        LogBounds { start: offset(start), end: offset(end) }
    }

    fn partition() -> Partition {
        Partition::new(0).unwrap()
    }

    fn chain(fill: u8) -> Chain {
        Chain::from_bytes([fill; 32])
    }

    fn identity() -> RecordIdentity {
        RecordIdentity { id: Some("claim".to_owned()), appended_at: Timestamp::from_ms(5).unwrap() }
    }

    fn stored(next_src: i64, next_outcome_offset: i64) -> Base {
        Base::Checkpoint {
            watermark: OutcomeWatermark {
                next_src: offset(next_src),
                next_outcome_offset: offset(next_outcome_offset),
                chain: chain(1),
            },
            last_record: Some(identity()),
        }
    }

    fn said(src_offset: i64) -> Option<LastOutcome> {
        Some(LastOutcome { src_offset: offset(src_offset), chain: chain(2) })
    }

    #[test]
    fn without_a_store_only_complete_logs_are_enough() {
        for store in [Stored::Unreachable, Stored::Nothing] {
            assert_eq!(choose_base(store.clone(), bounds(0, 9), bounds(0, 9)), Ok(Base::Empty));
            for (claims, outcomes) in [(bounds(1, 9), bounds(0, 9)), (bounds(0, 9), bounds(9, 9))] {
                assert_eq!(
                    choose_base(store.clone(), claims, outcomes),
                    Err(Stop::Wait(Waiting::ForCheckpoint))
                );
            }
        }
    }

    #[test]
    fn an_outcomes_log_that_ends_before_the_stores_place_halts() {
        let Base::Checkpoint { watermark, last_record } = stored(5, 7) else { unreachable!() };
        let progress = Stored::Progress { watermark, last_record };
        assert_eq!(
            choose_base(progress.clone(), bounds(0, 9), bounds(0, 6)),
            Err(Stop::Halt(HaltReason::LogMismatch))
        );
        assert_eq!(choose_base(progress, bounds(3, 9), bounds(7, 7)), Ok(stored(5, 7)));
    }

    #[test]
    fn the_last_word_is_where_the_log_stops_continuing_the_store() {
        let word = |src| LastOutcome { src_offset: offset(src), chain: chain(2) };
        let said = |sources: &[i64]| {
            let mut said = Said::since(offset(5));
            sources.iter().for_each(|src| said.take(word(*src)));
            (said.last_word(), said.beyond_a_gap())
        };
        assert_eq!(said(&[]), (None, None));
        assert_eq!(said(&[4]), (Some(word(4)), None), "what the store ends with");
        assert_eq!(said(&[3, 2]), (None, None), "older copies say nothing new");
        assert_eq!(said(&[4, 5, 6]), (Some(word(6)), None));
        assert_eq!(said(&[5, 6, 7, 5, 6]), (Some(word(7)), None), "a zombie's copies stand last");
        assert_eq!(said(&[9, 10]), (None, Some(word(10))), "retention took what the store had not read");
        assert_eq!(
            said(&[9, 10, 5, 6]),
            (Some(word(6)), Some(word(10))),
            "publishing it again was cut short"
        );
        assert_eq!(said(&[9, 10, 5, 6, 7, 8, 9, 10, 11]), (Some(word(11)), None));
    }

    #[test]
    fn the_line_is_replayed_from_the_store_to_the_last_word() {
        let plan = plan_replay(partition(), &stored(5, 7), said(8), bounds(0, 20)).unwrap();
        assert_eq!((plan.from, plan.next_undecided, plan.chain), (offset(5), offset(9), chain(2)));
        assert_eq!(plan.handshake, Handshake::Record { offset: offset(4), identity: identity() });
        let quiet = plan_replay(partition(), &stored(5, 7), said(3), bounds(0, 20)).unwrap();
        assert_eq!((quiet.from, quiet.next_undecided, quiet.chain), (offset(5), offset(5), chain(1)));
    }

    #[test]
    fn a_log_that_starts_right_behind_the_store_needs_no_handshake() {
        let plan = plan_replay(partition(), &stored(5, 7), None, bounds(5, 5)).unwrap();
        assert_eq!((plan.from, plan.next_undecided), (offset(5), offset(5)));
        assert_eq!(plan.handshake, Handshake::NotNeeded);
        let empty = plan_replay(partition(), &Base::Empty, None, bounds(0, 0)).unwrap();
        assert_eq!(empty.handshake, Handshake::NotNeeded);
        assert_eq!(empty.chain, Chain::genesis(partition()));
    }

    #[test]
    fn a_store_whose_last_outcome_is_not_the_logs_halts() {
        assert_eq!(
            plan_replay(partition(), &stored(5, 7), said(4), bounds(0, 20)),
            Err(Stop::Halt(HaltReason::ChainMismatch))
        );
        let same = Some(LastOutcome { src_offset: offset(4), chain: chain(1) });
        assert!(plan_replay(partition(), &stored(5, 7), same, bounds(0, 20)).is_ok());
    }

    #[test]
    fn what_stands_behind_a_gap_is_said_again() {
        let plan = plan_replay(partition(), &stored(5, 7), None, bounds(0, 20)).unwrap();
        assert_eq!((plan.from, plan.next_undecided, plan.chain), (offset(5), offset(5), chain(1)));
        // And where the claims are gone as well, nothing is left to say it from.
        let gone = plan_replay(partition(), &stored(5, 7), None, bounds(6, 20));
        assert_eq!(gone, Err(Stop::Halt(HaltReason::UndecidedDeleted)));
    }

    #[test]
    fn claims_that_are_gone_halt_or_wait() {
        let plan = |base: &Base, word, claims| plan_replay(partition(), base, word, claims);
        assert_eq!(
            plan(&stored(5, 7), said(7), bounds(9, 20)),
            Err(Stop::Halt(HaltReason::UndecidedDeleted))
        );
        assert_eq!(plan(&stored(5, 7), said(8), bounds(9, 20)), Err(Stop::Wait(Waiting::ForWriter)));
        assert_eq!(plan(&stored(5, 7), said(8), bounds(0, 8)), Err(Stop::Halt(HaltReason::LogMismatch)));
        assert_eq!(plan(&stored(5, 7), None, bounds(0, 4)), Err(Stop::Halt(HaltReason::LogMismatch)));
    }

    #[test]
    fn another_record_or_another_chain_halts() {
        let other = RecordIdentity { id: None, ..identity() };
        assert_eq!(check_handshake(&identity(), &identity()), Ok(()));
        assert_eq!(check_handshake(&identity(), &other), Err(HaltReason::LogMismatch));
        assert_eq!(check_chain(chain(1), chain(1)), Ok(()));
        assert_eq!(check_chain(chain(1), chain(2)), Err(HaltReason::ChainMismatch));
    }
}
