//! The outcomes log of one partition, read for its first copies; what is wrong with the log itself is found here.

use std::hash::{BuildHasher, RandomState};

use coupon_domain::invariant::Invariant;
use coupon_domain::wire::{RecordError, decode_outcome, encode_outcome};
use coupon_domain::{Chain, Outcome, Partition};

use infrastructure_kafka::LogCursor;

use crate::error::{AuditError, failed};
use crate::findings::Findings;

/// Reads along. Outcomes are handed out by the offset that they answer, in order.
pub(crate) struct FirstCopies<'a> {
    cursor: LogCursor<'a>,
    partition: Partition,
    known: Known,
}

/// What is known of the log as far as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Where reading goes on.
    at: i64,
    /// The one that is handed out next.
    next: Option<Outcome>,
    /// What the first copies said, by the offset that they answer, hashed by this process alone.
    said: Said,
    hasher: RandomState,
    /// The first offset that the log still answers.
    first_src: Option<i64>,
    /// Behind the last first copy.
    next_src: Option<i64>,
    chain: Option<Chain>,
}

impl Known {
    /// Nothing yet. Where the log begins at 0 its first outcome must be the line's.
    pub(crate) fn nothing(partition: Partition, log_start: i64) -> Self {
        let from_the_beginning = log_start == 0;
        Self {
            at: log_start,
            next: None,
            said: Said::default(),
            hasher: RandomState::new(),
            first_src: from_the_beginning.then_some(0),
            next_src: from_the_beginning.then_some(0),
            chain: from_the_beginning.then(|| Chain::genesis(partition)),
        }
    }

    /// Where reading goes on in the outcomes log.
    pub(crate) fn at(&self) -> i64 {
        self.at
    }
}

impl<'a> FirstCopies<'a> {
    /// Goes on from what is known; the cursor stands where that ends.
    pub(crate) fn new(
        cursor: LogCursor<'a>,
        partition: Partition,
        known: Known,
        findings: &mut Findings,
    ) -> Result<Self, AuditError> {
        let mut copies = Self { cursor, partition, known };
        copies.advance(findings)?;
        Ok(copies)
    }

    /// What is known by now.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// What is known at the end.
    pub(crate) fn into_known(self) -> Known {
        self.known
    }

    /// The first offset that the log still answers; none where nothing is left.
    pub(crate) fn first_src(&self) -> Option<i64> {
        self.known.first_src
    }

    /// The first offset without an outcome; none where the log says nothing.
    pub(crate) fn next_src(&self) -> Option<i64> {
        self.known.next_src
    }

    /// The offset that the next outcome answers.
    pub(crate) fn peek(&self) -> Option<i64> {
        self.known.next.as_ref().map(|outcome| outcome.src_offset.number())
    }

    /// The outcome of this offset, if it comes next.
    pub(crate) fn take(&mut self, src: i64, findings: &mut Findings) -> Result<Option<Outcome>, AuditError> {
        if self.peek() != Some(src) {
            return Ok(None);
        }
        let taken = self.known.next.take();
        self.advance(findings)?;
        Ok(taken)
    }

    fn advance(&mut self, findings: &mut Findings) -> Result<(), AuditError> {
        while self.known.next.is_none() {
            let Some(entry) = self.cursor.next().map_err(failed("reading the outcomes log"))? else {
                return Ok(());
            };
            self.known.at = entry.offset.saturating_add(1);
            let place = format!("partition {}, outcomes offset {}", self.partition, entry.offset);
            match decode_outcome(entry.payload.as_deref().unwrap_or_default()) {
                Ok(outcome) => self.judge(outcome, &place, findings),
                Err(RecordError::NewerVersion { found, .. }) => {
                    findings.note(format!("{place}: version {found} is newer than this release reads"));
                    // Whatever it answers, the next one begins anew.
                    (self.known.next_src, self.known.chain) = (None, None);
                }
                Err(error) => findings.broken(Invariant::OneOutcome, &place, &error.to_string()),
            }
        }
        Ok(())
    }

    fn judge(&mut self, outcome: Outcome, place: &str, findings: &mut Findings) {
        let src = outcome.src_offset.number();
        // Two releases may spell the same outcome differently.
        let said = short(self.known.hasher.hash_one(encode_outcome(&outcome)));
        let next_src = *self.known.next_src.get_or_insert(src);
        self.known.first_src.get_or_insert(src);
        if src < next_src {
            findings.checked(Invariant::OneOutcome, "later copies", 1);
            // Of what stood before the log's start the first copy is gone; it is compared with the fold like any other reader would.
            if self.known.said.at(src).is_some_and(|first| first != said) {
                let finding = format!("answers claims offset {src} otherwise than the first copy");
                findings.broken(Invariant::OneOutcome, place, &finding);
            }
            return;
        }
        if src > next_src {
            let finding = format!("the outcomes of {next_src} to {} are missing before it", src - 1);
            findings.broken(Invariant::OneOutcome, place, &finding);
            self.known.chain = None;
        }
        if let Some(chain) = self.known.chain
            && chain.next(&outcome) != outcome.chain
        {
            let finding = format!("the answer to claims offset {src} does not continue the chain");
            findings.broken(Invariant::Agree, place, &finding);
        }
        findings.checked(Invariant::Agree, "outcomes", 1);
        self.known.chain = Some(outcome.chain);
        self.known.next_src = Some(outcome.src_offset.next().number());
        self.known.said.push(src, said);
        self.known.next = Some(outcome);
    }
}

/// What stands at offsets in a row: a gap begins another row. Four bytes each, for there are as many as records.
#[derive(Clone, Debug, Default)]
struct Said {
    rows: Vec<(i64, Vec<u32>)>,
}

impl Said {
    /// What stands at this offset, which is behind all others.
    fn push(&mut self, src: i64, said: u32) {
        match self.rows.last_mut() {
            Some((start, row)) if i64::try_from(row.len()).is_ok_and(|length| *start + length == src) => {
                row.push(said);
            }
            _ => self.rows.push((src, vec![said])),
        }
    }

    fn at(&self, src: i64) -> Option<u32> {
        let behind = self.rows.partition_point(|(start, _)| *start <= src);
        let (start, row) = self.rows.get(behind.checked_sub(1)?)?;
        row.get(usize::try_from(src - start).ok()?).copied()
    }
}

/// Half of a hash: that two answers share it by chance is one in four billion.
fn short(hash: u64) -> u32 {
    let [a, b, c, d, ..] = hash.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_found_by_offset_across_gaps() {
        let mut said = Said::default();
        for src in (7..10).chain(20..22) {
            said.push(src, u32::try_from(src).unwrap());
        }
        assert_eq!(said.rows.len(), 2);
        for src in 0..30 {
            let wanted = (7..10).contains(&src) || (20..22).contains(&src);
            assert_eq!(said.at(src), wanted.then(|| u32::try_from(src).unwrap()));
        }
    }
}
