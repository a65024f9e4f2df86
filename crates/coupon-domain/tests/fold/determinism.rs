//! The same log gives the same chain: in any batches, with any hash seeds, with suffixes read again, and from a checkpoint
//! taken anywhere.

use coupon_domain::accept::{Accepted, OutcomeWatermark};
use coupon_domain::ledger::LogRecord;
use coupon_domain::resume::RecordIdentity;
use coupon_domain::wire::{decode_outcome, encode_outcome};
use coupon_domain::{Chain, Ledger, Outcome};
use foldhash::fast::FixedState;
use proptest::prelude::*;

use crate::line;

fn fold_all(line: &[LogRecord]) -> Vec<Outcome> {
    let mut ledger = Ledger::new(line::partition());
    line.iter().map(|record| ledger.fold(record.clone()).unwrap()).collect()
}

fn last_chain(outcomes: &[Outcome]) -> Chain {
    outcomes.last().map_or_else(|| Chain::genesis(line::partition()), |outcome| outcome.chain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn hash_seeds_do_not_matter(line in line::any_line(100), seed: u64) {
        let mut seeded = Ledger::with_hasher(line::partition(), FixedState::with_seed(seed));
        for (record, expected) in line.iter().zip(fold_all(&line)) {
            prop_assert_eq!(seeded.fold(record.clone()).unwrap(), expected);
        }
    }

    #[test]
    fn a_checkpoint_of_any_prefix_folds_on_to_the_same_chain(
        line in line::any_line(100),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
        seed: u64,
    ) {
        let expected = fold_all(&line);
        let mut ledger = Ledger::with_hasher(line::partition(), FixedState::with_seed(seed));
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(line.len() + 1)).collect();
        for (place, record) in line.iter().enumerate() {
            if cuts.contains(&place) {
                ledger = Ledger::restore(ledger.checkpoint(), FixedState::with_seed(seed ^ 1)).unwrap();
            }
            prop_assert_eq!(&ledger.fold(record.clone()).unwrap(), &expected[place]);
        }
    }

    /// A reader sees a log in which workers died and others began again somewhere earlier, in batches of any size.
    #[test]
    fn copies_in_the_log_change_nothing_for_a_reader(
        line in line::any_line(60),
        restarts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..6),
    ) {
        let outcomes = fold_all(&line);
        let mut log: Vec<&Outcome> = outcomes.iter().collect();
        for (at, back) in restarts {
            // Behind `at`, a second worker says again what was said from some earlier record on, as far as `at`.
            let place = at.index(log.len() + 1);
            let said = log[..place].iter().map(|outcome| outcome.src_offset).max();
            let Some(said) = said.and_then(|last| usize::try_from(last.number()).ok()) else { continue };
            let from = back.index(said + 1);
            let tail = log.split_off(place);
            log.extend(&outcomes[from..=said]);
            log.extend(tail);
        }
        let mut watermark = OutcomeWatermark::genesis(line::partition());
        let mut taken = Vec::new();
        for (place, outcome) in log.iter().enumerate() {
            let decoded = decode_outcome(&encode_outcome(outcome)).unwrap();
            if watermark.accept(line::offset(place), &decoded) == Ok(Accepted::Take) {
                taken.push(decoded);
            }
        }
        prop_assert_eq!(watermark.chain, last_chain(&outcomes));
        prop_assert_eq!(taken, outcomes);
    }

    #[test]
    fn every_outcome_survives_its_record(line in line::any_line(60)) {
        for outcome in fold_all(&line) {
            prop_assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);
        }
    }

    /// What db-writer remembers of a record is what stock-consumer finds there after a restart.
    #[test]
    fn a_record_is_recognised_by_its_outcome(line in line::any_line(60)) {
        for (record, outcome) in line.iter().zip(fold_all(&line)) {
            prop_assert_eq!(
                RecordIdentity::of_record(line::partition(), record),
                RecordIdentity::of_outcome(&outcome)
            );
        }
    }

    /// Any change to any outcome is noticed by whoever computes the chain.
    #[test]
    fn a_lost_outcome_breaks_the_chain(line in line::any_line(40), lost: prop::sample::Index) {
        let outcomes = fold_all(&line);
        prop_assume!(outcomes.len() > 1);
        let lost = lost.index(outcomes.len() - 1);
        let previous = if lost == 0 { Chain::genesis(line::partition()) } else { outcomes[lost - 1].chain };
        prop_assert_ne!(previous.next(&outcomes[lost + 1]), outcomes[lost + 1].chain);
    }
}

#[test]
fn a_record_out_of_order_is_refused_and_changes_nothing() {
    let mut ledger = Ledger::new(line::partition());
    let record = LogRecord {
        src_offset: line::offset(1),
        appended_at: line::at(0),
        body: coupon_domain::ledger::Body::Undecodable(None),
    };
    let error = ledger.fold(record).unwrap_err();
    assert_eq!((error.expected, error.found), (line::offset(0), line::offset(1)));
    assert_eq!(ledger.chain(), Chain::genesis(line::partition()));
}
