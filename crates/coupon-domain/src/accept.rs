//! Reading along: what a reader of `coupon.outcomes` does with the next record.
//!
//! stock-consumers may be killed, paused and woken again at any line, so the outcomes of a partition may stand in the log more
//! than once. First copies stand in the order of the line without a gap; later copies are identical. A reader takes
//! the first copies, skips the others, and halts where the log cannot be the one it knows.

use crate::chain::Chain;
use crate::halt::HaltReason;
use crate::outcome::Outcome;
use crate::position::{Offset, Partition};

/// How far a reader has come: what `partition_progress` holds, or what a tail keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeWatermark {
    /// The first claims offset whose outcome has not been taken.
    pub next_src: Offset,
    /// The outcomes offset to read next.
    pub next_outcome_offset: Offset,
    /// The chain behind the last outcome that was taken.
    pub chain: Chain,
}

/// What to do with an outcome that continues the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is the next of the line: use it.
    Take,
    /// A copy of one that was taken: only the outcomes offset moves.
    Skip,
}

/// The first and the next offset of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// The oldest offset that is still there (equal to `end` in an empty log).
    pub start: Offset,
    /// The offset of the next record to be appended.
    pub end: Offset,
}

impl OutcomeWatermark {
    /// The watermark before the first outcome of a partition.
    #[must_use]
    pub fn genesis(partition: Partition) -> Self {
        Self { next_src: Offset::ZERO, next_outcome_offset: Offset::ZERO, chain: Chain::genesis(partition) }
    }

    /// Where to start reading a log with these bounds. What retention took after we had seen it is no loss; whether it
    /// took what we had not is seen at the first record ([`OutcomeWatermark::accept`]).
    ///
    /// # Errors
    /// [`HaltReason::LogMismatch`]: the log ends before the place we had come to, so it is another log.
    pub fn start_in(&self, bounds: LogBounds) -> Result<Offset, HaltReason> {
        if bounds.end < self.next_outcome_offset {
            return Err(HaltReason::LogMismatch);
        }
        Ok(self.next_outcome_offset.max(bounds.start))
    }

    /// Judges the outcome at `outcome_offset` and moves behind it.
    ///
    /// # Errors
    /// The reader must halt, and the watermark has not moved: [`HaltReason::OffsetGap`] where outcomes are missing before this
    /// one, [`HaltReason::ChainMismatch`] where it does not continue the chain.
    pub fn accept(&mut self, outcome_offset: Offset, outcome: &Outcome) -> Result<Accepted, HaltReason> {
        if outcome.src_offset > self.next_src {
            return Err(HaltReason::OffsetGap);
        }
        if outcome.src_offset < self.next_src {
            self.next_outcome_offset = outcome_offset.next();
            return Ok(Accepted::Skip);
        }
        if self.chain.next(outcome) != outcome.chain {
            return Err(HaltReason::ChainMismatch);
        }
        *self = Self {
            next_src: self.next_src.next(),
            next_outcome_offset: outcome_offset.next(),
            chain: outcome.chain,
        };
        Ok(Accepted::Take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Body, Ledger, LogRecord};
    use crate::timestamp::Timestamp;

    fn offset(number: i64) -> Offset {
        Offset::new(number).unwrap()
    }

    fn partition() -> Partition {
        Partition::new(0).unwrap()
    }

    fn outcomes(count: i64) -> Vec<Outcome> {
        let mut ledger = Ledger::new(partition());
        let record = |number| LogRecord {
            src_offset: offset(number),
            appended_at: Timestamp::EPOCH,
            body: Body::Undecodable(None),
        };
        (0..count).map(|number| ledger.fold(record(number)).unwrap()).collect()
    }

    #[test]
    fn first_copies_are_taken_and_later_ones_skipped() {
        let line = outcomes(4);
        let log = [0, 1, 2, 1, 2, 3, 0];
        let mut watermark = OutcomeWatermark::genesis(partition());
        let taken: Vec<usize> = (0i64..)
            .zip(log)
            .filter(|(place, src)| watermark.accept(offset(*place), &line[*src]).unwrap() == Accepted::Take)
            .map(|(_, src)| src)
            .collect();
        assert_eq!(taken, [0, 1, 2, 3]);
        assert_eq!(watermark.next_outcome_offset, offset(7));
        assert_eq!(watermark.chain, line[3].chain);
    }

    #[test]
    fn a_gap_and_a_break_halt_and_move_nothing() {
        let line = outcomes(3);
        let mut watermark = OutcomeWatermark::genesis(partition());
        watermark.accept(offset(0), &line[0]).unwrap();
        let before = watermark;
        assert_eq!(watermark.accept(offset(1), &line[2]), Err(HaltReason::OffsetGap));
        let forged = Outcome { appended_at: Timestamp::from_ms(1).unwrap(), ..line[1].clone() };
        assert_eq!(watermark.accept(offset(1), &forged), Err(HaltReason::ChainMismatch));
        assert_eq!(watermark, before);
    }

    #[test]
    fn reading_starts_where_we_stopped_or_where_the_log_starts_now() {
        let watermark =
            OutcomeWatermark { next_outcome_offset: offset(10), ..OutcomeWatermark::genesis(partition()) };
        let bounds = |start, end| LogBounds { start: offset(start), end: offset(end) };
        assert_eq!(watermark.start_in(bounds(0, 20)), Ok(offset(10)));
        assert_eq!(watermark.start_in(bounds(15, 20)), Ok(offset(15)));
        assert_eq!(watermark.start_in(bounds(10, 10)), Ok(offset(10)));
        assert_eq!(watermark.start_in(bounds(0, 9)), Err(HaltReason::LogMismatch));
    }
}
