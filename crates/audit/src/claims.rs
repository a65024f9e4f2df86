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
    /// Where its final outcome was first given.
    first_final: Option<i64>,
    standing: Option<Standing>,
}

impl Claim {
    fn add(&mut self, row: &Row, findings: &mut Findings) {
        if row.is(FINAL) {
            let first = *self.first_final.get_or_insert(row.decided);
            if first != row.decided {
                let place = format!("partition {}, claims offset {}", row.key.partition(), row.src);
                let finding = format!("{} got its final outcome at {first} already", row.claim_id());
                findings.broken(Invariant::OneOutcome, &place, &finding);
            }
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
        let decided = self.first_final.unwrap_or(EARLIER);
        (marks != 0).then_some(Row { src: EARLIER, decided, said: 0, marks, state, ..*last })
    }
}
