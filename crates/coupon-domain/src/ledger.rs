//! The ledger: the pure fold that decides a line.
//!
//! `(ledger, record) → (ledger, outcome)`: no clock, no randomness, no I/O. Time is the append time of that very record.
//! The same log folded again, in other batches, by another process or from a checkpoint in between, gives the same outcomes, bit
//! for bit; that one property makes crashes, redelivery, zombie consumers and lost stores harmless.

mod checkpoint;
mod command;
mod restoring;
mod settled;

use std::hash::BuildHasher;

use hashbrown::HashMap;

pub use checkpoint::{AnsweredCommand, Checkpoint, CheckpointError, CouponCheckpoint, FinalClaim, Restoring};
pub use settled::SettledClaim;

use crate::chain::Chain;
use crate::claim::Claim;
use crate::claim_id::ClaimId;
use crate::code::{ClaimCode, CommandCode, Refusal};
use crate::command::Command;
use crate::command_id::CommandId;
use crate::coupon::{CouponState, CouponStatus, RULES_WITHOUT_COUPON};
use crate::coupon_id::CouponId;
use crate::outcome::{ClaimOutcome, CommandOutcome, InvalidOutcome, InvalidReason, Outcome, Subject};
use crate::position::{Offset, Partition};
use crate::timestamp::Timestamp;
use crate::wire::Input;
use settled::SettledClaims;

/// The hasher of the ledger's maps, seeded anew in each process. No outcome depends on it.
pub type DefaultHasher = foldhash::fast::RandomState;

/// What stands at one place of the line.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// The place.
    pub src_offset: Offset,
    /// When the broker appended it (LogAppendTime).
    pub appended_at: Timestamp,
    /// What it says.
    pub body: Body,
}

/// What a record says.
#[derive(Clone, Debug)]
pub enum Body {
    /// A claim or a command.
    Readable(Input),
    /// Neither; with the claim it would have been, where that much can be read.
    Undecodable(Option<ClaimId>),
    /// The broker did not date it, so it cannot be decided, whatever it says; with the claim that it names.
    Undated(Option<ClaimId>),
}

impl LogRecord {
    /// The record at a place of the line. Without an append time of the broker (the topic kept the producers' times when it was appended) it is
    /// answered as one that cannot be read, at [`UNDATED`]: no rule may look at a time that a client has written.
    #[must_use]
    pub fn new(src_offset: Offset, appended_at: Option<Timestamp>, body: Body) -> Self {
        match appended_at {
            Some(appended_at) => Self { src_offset, appended_at, body },
            None => Self { src_offset, appended_at: UNDATED, body: Body::Undated(body.claim_id()) },
        }
    }
}

impl Body {
    /// The claim that it names.
    #[must_use]
    pub fn claim_id(&self) -> Option<ClaimId> {
        match self {
            Self::Readable(Input::Claim(claim)) => Some(claim.claim_id),
            Self::Readable(Input::Command(_)) => None,
            Self::Undecodable(claim_id) | Self::Undated(claim_id) => *claim_id,
        }
    }
}

/// What stands in the place of the append time of a record that the broker did not date.
pub const UNDATED: Timestamp = Timestamp::EPOCH;

/// A record that is not the next one of the line. The ledger is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {found} was given to a ledger that stands at {expected}")]
pub struct OutOfOrder {
    /// The offset that the ledger folds next.
    pub expected: Offset,
    /// The offset that was given.
    pub found: Offset,
}

/// All that decides a partition: its coupons, who claimed them, and the answers given.
#[derive(Clone, Debug)]
pub struct Ledger<S = DefaultHasher> {
    partition: Partition,
    next_src: Offset,
    chain: Chain,
    coupons: HashMap<CouponId, CouponEntry<S>, S>,
    hasher: S,
}

/// A coupon: its state, its commands for ever, and its claims until it is retired.
#[derive(Clone, Debug)]
struct CouponEntry<S> {
    state: CouponState,
    commands: HashMap<CommandId, CommandAnswer, S>,
    claims: SettledClaims<S>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CommandAnswer {
    code: CommandCode,
    refusal: Option<Refusal>,
    decided_offset: Offset,
}

impl Ledger {
    /// The ledger of a partition before its first record.
    #[must_use]
    pub fn new(partition: Partition) -> Self {
        Self::with_hasher(partition, DefaultHasher::default())
    }
}

impl<S: BuildHasher + Clone> Ledger<S> {
    /// The ledger of a partition before its first record, with this hasher in its maps.
    #[must_use]
    pub fn with_hasher(partition: Partition, hasher: S) -> Self {
        Self {
            partition,
            next_src: Offset::ZERO,
            chain: Chain::genesis(partition),
            coupons: HashMap::with_hasher(hasher.clone()),
            hasher,
        }
    }

    /// Which line it decides.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The offset that it folds next.
    #[must_use]
    pub fn next_src(&self) -> Offset {
        self.next_src
    }

    /// The chain behind the last outcome.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The state of a coupon, retired ones included.
    #[must_use]
    pub fn coupon(&self, coupon_id: CouponId) -> Option<&CouponState> {
        self.coupons.get(&coupon_id).map(|entry| &entry.state)
    }

    /// The states of all coupons, retired ones included, in no order.
    pub fn coupons(&self) -> impl Iterator<Item = &CouponState> {
        self.coupons.values().map(|entry| &entry.state)
    }

    /// The coupon's claims with a final outcome, by rank: those of ranks `from + 1 ..= to` (as far as there are any).
    #[must_use]
    pub fn settled(&self, coupon_id: CouponId, from: u32, to: u32) -> &[SettledClaim] {
        self.coupons.get(&coupon_id).map_or(&[], |entry| entry.claims.range(from, to))
    }

    /// The claim id that a settled claim of the coupon names as the winner.
    #[must_use]
    pub fn granted_claim(&self, coupon_id: CouponId, claim: &SettledClaim) -> Option<ClaimId> {
        let entry = self.coupons.get(&coupon_id)?;
        entry.claims.winner(claim).map(|winner| winner.claim_id(coupon_id))
    }

    /// How many claims of the coupon have a final outcome: the last rank.
    #[must_use]
    pub fn settled_count(&self, coupon_id: CouponId) -> u32 {
        self.coupons.get(&coupon_id).map_or(0, |entry| entry.claims.count())
    }

    /// Lets the claim go that was settled last, unless it was granted: for whoever recognises repeats without the ledger, millions of refusals take
    /// no room. It goes on deciding new claims as before; of those that it let go, and of the ranks of claims behind them, it knows nothing any more.
    pub fn forget_refusal(&mut self, claim_id: &ClaimId) {
        if let Some(entry) = self.coupons.get_mut(&claim_id.coupon_id) {
            entry.claims.forget_refusal(claim_id);
        }
    }

    /// Steps over a record that is somebody else's to judge, and takes over the chain behind its outcome.
    pub fn step_over(&mut self, chain: Chain) {
        self.chain = chain;
        self.next_src = self.next_src.next();
    }

    /// Decides the next record of the line.
    ///
    /// # Errors
    /// [`OutOfOrder`]: it is not the next one. The caller has lost or repeated a record and must not go on.
    pub fn fold(&mut self, record: LogRecord) -> Result<Outcome, OutOfOrder> {
        if record.src_offset != self.next_src {
            return Err(OutOfOrder { expected: self.next_src, found: record.src_offset });
        }
        let moment = Moment { src_offset: record.src_offset, appended_at: record.appended_at };
        let mut outcome = match record.body {
            Body::Readable(Input::Claim(claim)) => self.claim(moment, claim),
            Body::Readable(Input::Command(command)) => self.command(moment, &command),
            Body::Undecodable(claim_id) => self.invalid(moment, InvalidReason::Undecodable, claim_id),
            Body::Undated(claim_id) => self.invalid(moment, InvalidReason::Undated, claim_id),
        };
        outcome.chain = self.chain.next(&outcome);
        self.chain = outcome.chain;
        self.next_src = self.next_src.next();
        Ok(outcome)
    }

    fn claim(&mut self, moment: Moment, claim: Claim) -> Outcome {
        let claim_id = claim.claim_id;
        if claim_id.coupon_id.partition() != self.partition {
            return self.invalid(moment, InvalidReason::WrongPartition, Some(claim_id));
        }
        let Some(entry) = self.coupons.get_mut(&claim_id.coupon_id) else {
            let subject = Subject::Claim(not_final(claim, ClaimCode::UnknownCoupon));
            return self.outcome(moment, moment.src_offset, RULES_WITHOUT_COUPON, None, subject);
        };
        let (decided_offset, subject) = entry.decide(moment, claim);
        let (rules, remaining) = (entry.state.definition.rules(), entry.state.remaining());
        self.outcome(moment, decided_offset, rules, Some(remaining), Subject::Claim(subject))
    }

    fn command(&mut self, moment: Moment, command: &Command) -> Outcome {
        let coupon_id = command.command_id.coupon_id;
        if coupon_id.partition() != self.partition {
            return self.invalid(moment, InvalidReason::WrongPartition, None);
        }
        let answer = command::answer(&mut self.coupons, &self.hasher, moment, command);
        let state = self.coupon(coupon_id).cloned();
        let rules = state.as_ref().map_or(RULES_WITHOUT_COUPON, |state| state.definition.rules());
        let remaining = state.as_ref().map(CouponState::remaining);
        let subject = Subject::Command(Box::new(CommandOutcome {
            command_id: command.command_id,
            kind: command.change.kind(),
            code: answer.code,
            refusal: answer.refusal,
            actor: command.actor.clone(),
            reason: command.reason.clone(),
            state,
        }));
        self.outcome(moment, answer.decided_offset, rules, remaining, subject)
    }

    fn invalid(&self, moment: Moment, reason: InvalidReason, claim_id: Option<ClaimId>) -> Outcome {
        let subject = Subject::Invalid(InvalidOutcome { reason, claim_id });
        self.outcome(moment, moment.src_offset, RULES_WITHOUT_COUPON, None, subject)
    }

    fn outcome(
        &self,
        moment: Moment,
        decided_offset: Offset,
        rules: u16,
        remaining: Option<u32>,
        subject: Subject,
    ) -> Outcome {
        let Moment { src_offset, appended_at } = moment;
        Outcome { src_offset, appended_at, decided_offset, rules, remaining, subject, chain: self.chain }
    }
}

/// Where and when the record stands that is being decided.
#[derive(Clone, Copy)]
struct Moment {
    src_offset: Offset,
    appended_at: Timestamp,
}

impl<S: BuildHasher + Clone> CouponEntry<S> {
    /// The rules of claims, in their order. The claim's own round is part of its identity only: a claim of an older
    /// round that arrives after a restock is as eligible as any.
    fn decide(&mut self, moment: Moment, claim: Claim) -> (Offset, ClaimOutcome) {
        if let Some((rank, settled)) = self.claims.find(&claim.claim_id) {
            return (settled.decided_offset, self.repeat(claim, rank, settled));
        }
        let window = self.state.definition.window();
        let not_decided = |code| (moment.src_offset, code);
        let (offset, deferral) = if self.state.status == CouponStatus::Retired {
            not_decided(ClaimCode::Closed)
        } else if self.state.definition.forgets_already_issued()
            && let Some(winner) = self.winner_in_the_way(&claim)
        {
            let granted_claim_id =
                self.claims.granted(winner).map(|winner| winner.claim_id(self.state.coupon_id));
            let refusal = ClaimOutcome { granted_claim_id, ..not_final(claim, ClaimCode::AlreadyIssued) };
            return (moment.src_offset, refusal);
        } else if moment.appended_at < window.opens_at() {
            not_decided(ClaimCode::NotOpen)
        } else if self.state.is_closed_at(moment.appended_at) {
            return self.settle(moment, claim, ClaimCode::Closed, None);
        } else if self.state.status == CouponStatus::Paused {
            not_decided(ClaimCode::Paused)
        } else if let Some(winner) = self.winner_in_the_way(&claim) {
            return self.settle(moment, claim, ClaimCode::AlreadyIssued, Some(winner));
        } else if self.state.remaining() == 0 {
            return self.settle(moment, claim, ClaimCode::SoldOut, None);
        } else {
            return self.grant(moment, claim);
        };
        (offset, not_final(claim, deferral))
    }

    /// The issue number of the grant that forbids another one: the grant of this very slot, else, at the limit, the user's first.
    fn winner_in_the_way(&self, claim: &Claim) -> Option<u32> {
        let limit = usize::from(self.state.definition.per_user_limit());
        let held = self.claims.issued_to(&claim.user_id);
        let same_slot =
            held.iter().copied().find(|issue_no| self.claims.slot_of(*issue_no) == Some(claim.claim_id.slot));
        same_slot.or_else(|| if held.len() >= limit { held.first().copied() } else { None })
    }

    fn grant(&mut self, moment: Moment, claim: Claim) -> (Offset, ClaimOutcome) {
        self.state.issued += 1;
        self.state.last_grant_offset = Some(moment.src_offset);
        let (issue_no, user_nth) = (self.state.issued, self.claims.held_by(&claim.user_id).saturating_add(1));
        let rank = self.claims.push(
            SettledClaim::new(&claim.claim_id, ClaimCode::Granted, moment, Some(issue_no), user_nth),
            Some(&claim.user_id),
        );
        let outcome = ClaimOutcome {
            claim_id: claim.claim_id,
            user_id: claim.user_id,
            code: ClaimCode::Granted,
            is_final: true,
            issue_no: Some(issue_no),
            user_nth: Some(user_nth),
            rank: Some(rank),
            granted_claim_id: None,
        };
        (moment.src_offset, outcome)
    }

    fn settle(
        &mut self,
        moment: Moment,
        claim: Claim,
        code: ClaimCode,
        winner: Option<u32>,
    ) -> (Offset, ClaimOutcome) {
        let settled = SettledClaim::new(&claim.claim_id, code, moment, winner, 0);
        let granted_claim_id =
            self.claims.winner(&settled).map(|winner| winner.claim_id(self.state.coupon_id));
        let rank = self.claims.push(settled, None);
        let outcome = ClaimOutcome {
            claim_id: claim.claim_id,
            user_id: claim.user_id,
            code,
            is_final: true,
            issue_no: None,
            user_nth: None,
            rank: Some(rank),
            granted_claim_id,
        };
        (moment.src_offset, outcome)
    }

    fn repeat(&self, claim: Claim, rank: u32, settled: &SettledClaim) -> ClaimOutcome {
        ClaimOutcome {
            claim_id: claim.claim_id,
            user_id: claim.user_id,
            code: settled.code,
            is_final: true,
            issue_no: settled.issue_no(),
            user_nth: settled.user_nth(),
            rank: Some(rank),
            granted_claim_id: self.claims.winner(settled).map(|winner| winner.claim_id(self.state.coupon_id)),
        }
    }
}

fn not_final(claim: Claim, code: ClaimCode) -> ClaimOutcome {
    ClaimOutcome {
        claim_id: claim.claim_id,
        user_id: claim.user_id,
        code,
        is_final: false,
        issue_no: None,
        user_nth: None,
        rank: None,
        granted_claim_id: None,
    }
}

#[cfg(test)]
mod tests;
