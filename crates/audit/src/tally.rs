//! The ledger of claims: each distinct claim by its final answer, else by its latest. Disjoint, so that it must add up.

use coupon_domain::ClaimCode;
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

impl State {
    const ALL: [Self; 6] =
        [Self::Granted, Self::Rejected, Self::Deferred, Self::Undecided, Self::DeadLettered, Self::Lost];

    /// Its number in a row.
    pub(crate) fn number(self) -> u8 {
        let place = Self::ALL.iter().position(|state| *state == self);
        place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
    }

    /// The state with this number.
    pub(crate) fn of_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Lost)
    }
}

/// What is known of a claim so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: State,
    pub(crate) is_final: bool,
}

impl Standing {
    /// It stands in the log; nothing is known of it unless something was already.
    pub(crate) fn accepted(earlier: Option<Self>) -> Self {
        earlier.unwrap_or(Self { state: State::Lost, is_final: false })
    }

    /// Something became of it. What was final stays.
    pub(crate) fn settled(earlier: Option<Self>, state: State, is_final: bool) -> Self {
        let news = Self { state, is_final };
        let Some(earlier) = earlier else { return news };
        let no_news = state == State::Undecided && earlier.state != State::Lost;
        if earlier.is_final || no_news { earlier } else { news }
    }
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
    /// One more claim.
    pub(crate) fn count(&mut self, state: State) {
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

    #[test]
    fn each_claim_counts_once_by_its_latest_answer() {
        let of = |answers: &[(State, bool)]| {
            let accepted = Some(Standing::accepted(None));
            let settle = |earlier, (state, is_final): &(State, bool)| {
                Some(Standing::settled(earlier, *state, *is_final))
            };
            answers.iter().fold(accepted, settle).unwrap().state
        };
        let deferred = (State::Deferred, false);
        let dead_lettered = (State::DeadLettered, false);
        let undecided = (State::Undecided, false);
        let claims = [
            of(&[deferred, (State::Granted, true), dead_lettered]),
            of(&[deferred, dead_lettered]),
            of(&[deferred, undecided]),
            of(&[undecided]),
            of(&[(State::Rejected, true)]),
            of(&[]),
        ];
        let mut ledger = Ledger::default();
        for state in claims {
            ledger.count(State::of_number(state.number()));
        }
        let wanted =
            Ledger { accepted: 6, granted: 1, rejected: 1, deferred: 1, undecided: 1, dead_lettered: 1 };
        assert_eq!((ledger, ledger.lost()), (wanted, 1));
        let sum = "accepted 6 = granted 1 + rejected 1 + deferred 1 + undecided 1 + dead_lettered 1";
        assert_eq!(ledger.to_string(), sum);
    }
}
