//! What the rows of each claim come to: its final answer must stay, the view must say what the log said, and it counts once in the ledger.

use std::collections::BTreeMap;

use coupon_domain::CouponId;
use coupon_domain::invariant::Invariant;

use crate::error::AuditError;
use crate::findings::Findings;
use crate::rows::{Row, Rows, Run, Sealing, Spill};
use crate::tally::{Ledger, Standing, State};
use crate::view::{Strays, View};

/// The record stands in the claims log.
pub(crate) const ACCEPTED: u8 = 1;
/// It got a final outcome, first given at `decided`.
pub(crate) const FINAL: u8 = 2;
/// `state` is what became of the claim.
pub(crate) const SETTLED: u8 = 4;
/// That will stay.
pub(crate) const SETTLED_FOR_GOOD: u8 = 8;
/// `said` is an answer that the view may hold.
pub(crate) const ANSWER: u8 = 16;
/// It is a final one.
pub(crate) const ANSWER_FINAL: u8 = 32;

/// It is said to repeat the claim's final outcome.
pub(crate) const REPEAT: u8 = 64;

/// Rows that an earlier audit has judged stand before every record.
const EARLIER: i64 = -1;

/// What the claims of a partition came to.
#[derive(Default)]
pub(crate) struct Judged {
    /// The ledger of each coupon.
    pub(crate) of_coupon: BTreeMap<CouponId, Ledger>,
    /// What was said below the cut.
    pub(crate) kept: Option<Kept>,
}

/// What is known of each claim: a later audit can go on from it.
#[derive(Clone)]
pub(crate) struct Kept {
    /// A row for each of them.
    pub(crate) rows: Run,
    of_coupon: BTreeMap<CouponId, Ledger>,
}

impl Kept {
    /// What it comes to where nothing was added.
    pub(crate) fn unchanged(self) -> Judged {
        Judged { of_coupon: self.of_coupon.clone(), kept: Some(self) }
    }
}

/// Judges the claims of a partition, one after another. What was said below `cut` is kept for a later audit, if there is to be one.
pub(crate) fn judge(
    rows: Rows,
    mut view: Option<&mut View>,
    cut: Option<i64>,
    spill: &Spill,
    strays: &mut Strays<'_>,
) -> Result<Judged, AuditError> {
    let (mut judged, mut kept_of_coupon) = (Judged::default(), BTreeMap::<_, Ledger>::new());
    let mut sealing = cut.map(|_| Sealing::new(spill));
    let mut sorted = rows.sorted()?;
    while let Some(key) = sorted.peek().map(|row| row.key) {
        let seen = match view.as_deref_mut() {
            Some(view) => view.take(key, strays)?,
            None => None,
        };
        let (mut claim, mut kept, mut is_matched) = (Claim::default(), None, false);
        while sorted.peek().is_some_and(|row| row.key == key) {
            let Some(row) = sorted.next()? else { break };
            claim.add(&row, strays.findings);
            if cut.is_some_and(|cut| row.src < cut) {
                kept = claim.row(&row);
            }
            if let Some(view) = view.as_deref_mut().filter(|_| row.is(ANSWER)) {
                let unmatched = seen.as_ref().filter(|_| !is_matched);
                is_matched |= view.compare(&row, unmatched, strays.findings);
            }
        }
        if let Some(seen) = seen.filter(|_| !is_matched) {
            strays.report(&seen, None);
        }
        if let Some(standing) = claim.standing {
            judged.of_coupon.entry(key.coupon_id).or_default().count(standing.state);
        }
        if let (Some(sealing), Some(kept)) = (&mut sealing, kept) {
            sealing.push(kept)?;
            if kept.is(SETTLED) {
                kept_of_coupon.entry(key.coupon_id).or_default().count(State::of_number(kept.state));
            }
        }
    }
    if let Some(sealing) = sealing {
        judged.kept = Some(Kept { rows: sealing.seal()?, of_coupon: kept_of_coupon });
    }
    Ok(judged)
}

/// A claim, as far as its rows were read.
#[derive(Default)]
struct Claim {
    /// Where its final outcome was first given, and what it said.
    first_final: Option<(i64, u64)>,
    standing: Option<Standing>,
}

impl Claim {
    fn add(&mut self, row: &Row, findings: &mut Findings) {
        if row.is(FINAL) {
            let wrong = match self.first_final {
                None if row.is(REPEAT) => {
                    Some(format!("repeats an outcome that {} never got", row.claim_id()))
                }
                Some((first, _)) if first != row.decided => {
                    Some(format!("{} got its final outcome at {first} already", row.claim_id()))
                }
                Some((_, told)) if row.is(REPEAT) && told != row.told => {
                    Some(format!("repeats the final outcome of {} otherwise", row.claim_id()))
                }
                _ => None,
            };
            if let Some(finding) = wrong {
                let place = format!("partition {}, claims offset {}", row.key.partition(), row.src);
                findings.broken(Invariant::OneOutcome, &place, &finding);
            }
            self.first_final.get_or_insert((row.decided, row.told));
        }
        if row.is(ACCEPTED) {
            self.standing = Some(Standing::accepted(self.standing));
        }
        if row.is(SETTLED) {
            let state = State::of_number(row.state);
            self.standing = Some(Standing::settled(self.standing, state, row.is(SETTLED_FOR_GOOD)));
        }
    }

    /// The one row that says as much as all so far.
    fn row(&self, last: &Row) -> Option<Row> {
        let mut marks = 0;
        if self.first_final.is_some() {
            marks |= FINAL;
        }
        if let Some(standing) = self.standing {
            marks |= SETTLED | if standing.is_final { SETTLED_FOR_GOOD } else { 0 };
        }
        let state = self.standing.map_or(0, |standing| standing.state.number());
        let (decided, told) = self.first_final.unwrap_or((EARLIER, 0));
        (marks != 0).then_some(Row { src: EARLIER, decided, said: 0, told, marks, state, ..*last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mac: u8, src: i64) -> Row {
        let claim_id = format!("c0-{}.0.0.{}", "1".repeat(32), format!("{mac:02x}").repeat(16));
        Row::of(&claim_id.parse().unwrap(), src)
    }

    fn settled(mac: u8, src: i64, decided: i64, told: u64, marks: u8) -> Row {
        let marks = marks | ACCEPTED | FINAL | SETTLED | SETTLED_FOR_GOOD;
        Row { decided, told, marks, state: State::Rejected.number(), ..row(mac, src) }
    }

    fn judged(earlier: Option<&Kept>, rows: &[Row], findings: &mut Findings) -> Judged {
        let spill = Spill { rows_in_memory_max: 2, ..Spill::default() };
        let mut all = Rows::beyond(earlier.map(|earlier| earlier.rows.clone()), &spill);
        rows.iter().for_each(|row| all.push(*row).unwrap());
        let mut strays = Strays { findings, proven_from: Some(0) };
        judge(all, None, Some(100), &spill, &mut strays).unwrap()
    }

    #[test]
    fn a_final_outcome_is_given_once_and_repeated_as_it_was() {
        let first = settled(1, 5, 5, 7, 0);
        let cases = [
            (vec![first, settled(1, 9, 5, 7, REPEAT)], ""),
            (vec![first, settled(1, 9, 9, 7, 0)], "got its final outcome at 5 already"),
            (vec![first, settled(1, 9, 5, 8, REPEAT)], "repeats the final outcome"),
            (vec![settled(2, 9, 5, 7, REPEAT), first], "repeats an outcome that"),
        ];
        for (rows, wanted) in cases {
            let mut findings = Findings::new(false);
            judged(None, &rows, &mut findings);
            let found: Vec<_> = findings.spelled().map(|(_, finding)| finding.to_owned()).collect();
            assert_eq!(found.len(), usize::from(!wanted.is_empty()), "{found:?}");
            assert!(found.iter().all(|finding| finding.contains(wanted)), "{found:?}");
        }
    }

    #[test]
    fn a_later_audit_goes_on_from_one_row_for_each_claim() {
        let mut findings = Findings::new(false);
        let deferred = Row { marks: ACCEPTED | SETTLED, state: State::Deferred.number(), ..row(2, 6) };
        let beyond_the_cut = settled(3, 100, 100, 7, 0);
        let rows = [settled(1, 5, 5, 7, 0), deferred, beyond_the_cut, settled(1, 7, 5, 7, REPEAT)];
        let pass = judged(None, &rows, &mut findings);
        let counted = |judged: &Judged| judged.of_coupon.values().next().copied().unwrap();
        let ledger = Ledger { accepted: 3, rejected: 2, deferred: 1, ..Ledger::default() };
        assert_eq!(counted(&pass), ledger);
        let kept = pass.kept.unwrap();
        let ledger = Ledger { accepted: 2, rejected: 1, deferred: 1, ..Ledger::default() };
        assert_eq!(counted(&kept.clone().unchanged()), ledger);
        let news = [beyond_the_cut, settled(2, 101, 101, 3, 0), settled(1, 102, 5, 7, REPEAT)];
        let pass = judged(Some(&kept), &news, &mut findings);
        assert_eq!(counted(&pass), Ledger { accepted: 3, rejected: 3, ..Ledger::default() });
        assert_eq!(findings.verdict(), "");
        judged(Some(&kept), &[settled(1, 103, 103, 7, 0)], &mut findings);
        assert_eq!(findings.verdict(), "ONE-OUTCOME 1");
    }
}
