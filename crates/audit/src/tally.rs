//! The ledger of claims: each distinct claim by its final answer, else by its latest. Disjoint, so that it must add up.

use std::collections::{BTreeMap, HashMap};

use coupon_domain::{ClaimCode, ClaimId, CouponId};
use serde_json::{Value, json};

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It holds a coupon.
    Granted,
    /// Its final answer is another one.
    Rejected,
    /// Its latest answer is a deferral.
    Deferred,
    /// It stands in the log without an answer.
    Undecided,
    /// Its latest record cannot be read and lies in the dead-letter queue.
    DeadLettered,
    /// It stands in the log, and what became of it is nowhere.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    state: State,
    is_final: bool,
}

/// All claims of a line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    claims: HashMap<(CouponId, [u8; 16]), Standing>,
}

/// The ledger's columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Distinct claims in the log.
    pub accepted: u64,
    /// They hold a coupon.
    pub granted: u64,
    /// Another final answer.
    pub rejected: u64,
    /// `not_open` or `paused` is their latest answer.
    pub deferred: u64,
    /// Not answered yet.
    pub undecided: u64,
    /// Their latest record cannot be read and lies in the dead-letter queue.
    pub dead_lettered: u64,
}

impl Tally {
    /// A claim stands in the log; nothing is known of it unless something was already.
    pub(crate) fn accept(&mut self, claim_id: &ClaimId) {
        let lost = Standing { state: State::Lost, is_final: false };
        self.claims.entry((claim_id.coupon_id, claim_id.mac)).or_insert(lost);
    }

    /// Something became of a claim. What was final stays.
    pub(crate) fn settle(&mut self, claim_id: &ClaimId, state: State, is_final: bool) {
        let standing =
            self.claims.entry((claim_id.coupon_id, claim_id.mac)).or_insert(Standing { state, is_final });
        let no_news = state == State::Undecided && standing.state != State::Lost;
        if !standing.is_final && !no_news {
            *standing = Standing { state, is_final };
        }
    }

    /// The ledger of each coupon, and of all.
    pub(crate) fn ledgers(&self) -> (Ledger, BTreeMap<CouponId, Ledger>) {
        let (mut all, mut of_coupon) = (Ledger::default(), BTreeMap::<CouponId, Ledger>::new());
        for ((coupon_id, _), standing) in &self.claims {
            all.count(standing.state);
            of_coupon.entry(*coupon_id).or_default().count(standing.state);
        }
        (all, of_coupon)
    }
}

/// What an answer makes of a claim.
pub(crate) fn state_of(code: ClaimCode) -> State {
    match code {
        ClaimCode::Granted => State::Granted,
        ClaimCode::NotOpen | ClaimCode::Paused => State::Deferred,
        ClaimCode::SoldOut | ClaimCode::AlreadyIssued | ClaimCode::Closed | ClaimCode::UnknownCoupon => {
            State::Rejected
        }
    }
}

impl Ledger {
    fn count(&mut self, state: State) {
        self.accepted += 1;
        match state {
            State::Granted => self.granted += 1,
            State::Rejected => self.rejected += 1,
            State::Deferred => self.deferred += 1,
            State::Undecided => self.undecided += 1,
            State::DeadLettered => self.dead_lettered += 1,
            State::Lost => {}
        }
    }

    /// Accepted claims of which nothing is known.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let known = self.granted + self.rejected + self.deferred + self.undecided + self.dead_lettered;
        self.accepted.saturating_sub(known)
    }

    /// The columns by their names, `accepted` first.
    #[must_use]
    pub fn columns(self) -> [(&'static str, u64); 6] {
        [
            ("accepted", self.accepted),
            ("granted", self.granted),
            ("rejected", self.rejected),
            ("deferred", self.deferred),
            ("undecided", self.undecided),
            ("dead_lettered", self.dead_lettered),
        ]
    }

    /// As an object, for scripts.
    #[must_use]
    pub fn to_json(self) -> Value {
        self.columns()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

impl std::ops::AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.granted += other.granted;
        self.rejected += other.rejected;
        self.deferred += other.deferred;
        self.undecided += other.undecided;
        self.dead_lettered += other.dead_lettered;
    }
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "accepted {} = granted {} + rejected {} + deferred {} + undecided {} + dead_lettered {}",
            self.accepted, self.granted, self.rejected, self.deferred, self.undecided, self.dead_lettered
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(mac: u8) -> ClaimId {
        format!("c0-{}.0.0.{}", "1".repeat(32), format!("{mac:02x}").repeat(16)).parse().unwrap()
    }

    #[test]
    fn each_claim_counts_once_by_its_latest_answer() {
        let mut tally = Tally::default();
        for mac in 1..=6 {
            tally.accept(&claim(mac));
        }
        tally.settle(&claim(1), State::Deferred, false);
        tally.settle(&claim(1), State::Granted, true);
        tally.settle(&claim(1), State::DeadLettered, false);
        tally.settle(&claim(2), State::Deferred, false);
        tally.settle(&claim(2), State::DeadLettered, false);
        tally.settle(&claim(3), State::Deferred, false);
        tally.settle(&claim(3), State::Undecided, false);
        tally.settle(&claim(4), State::Undecided, false);
        tally.settle(&claim(5), State::Rejected, true);
        let (ledger, of_coupon) = tally.ledgers();
        let wanted =
            Ledger { accepted: 6, granted: 1, rejected: 1, deferred: 1, undecided: 1, dead_lettered: 1 };
        assert_eq!((ledger, ledger.lost(), of_coupon.len()), (wanted, 1, 1));
        let sum = "accepted 6 = granted 1 + rejected 1 + deferred 1 + undecided 1 + dead_lettered 1";
        assert_eq!(ledger.to_string(), sum);
    }
}
