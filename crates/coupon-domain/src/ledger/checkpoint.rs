//! The checkpoint: everything a ledger knows, as PostgreSQL keeps it. A ledger restored from one folds on as if it had
//! never stopped.
//!
//! It is put together as its parts arrive ([`Restoring`]): beside the ledger that grows nothing is held of a coupon but what
//! can be checked only once all of it is there.

use std::hash::BuildHasher;

use hashbrown::HashMap;

use crate::chain::Chain;
use crate::claim_id::ClaimId;
use crate::code::{ClaimCode, CommandCode, Refusal};
use crate::command_id::CommandId;
use crate::coupon::{CouponState, CouponStatus, RULES_NEWEST};
use crate::coupon_id::CouponId;
use crate::halt::HaltReason;
use crate::ledger::restoring::RestoringClaims;
use crate::ledger::{CommandAnswer, CouponEntry, DefaultHasher, Ledger};
use crate::position::{Offset, Partition};
use crate::timestamp::Timestamp;
use crate::user_id::UserId;

/// A partition's ledger at one watermark.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Which partition.
    pub partition: Partition,
    /// The first claims offset that is not reflected.
    pub next_src: Offset,
    /// The chain behind the last outcome that is.
    pub chain: Chain,
    /// Every coupon, retired ones included.
    pub coupons: Vec<CouponCheckpoint>,
}

/// A coupon in a checkpoint.
#[derive(Clone, Debug)]
pub struct CouponCheckpoint {
    /// Its state.
    pub state: CouponState,
    /// The answers to its commands, in any order.
    pub commands: Vec<AnsweredCommand>,
    /// Its claims with a final outcome, in any order, their ranks from 1 without a gap; none once it is retired.
    pub claims: Vec<FinalClaim>,
}

/// A command and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnsweredCommand {
    /// Which command.
    pub command_id: CommandId,
    /// Its answer.
    pub code: CommandCode,
    /// Refused: why.
    pub refusal: Option<Refusal>,
    /// Where it was answered.
    pub decided_offset: Offset,
}

/// A claim and its final outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalClaim {
    /// Which claim.
    pub claim_id: ClaimId,
    /// Granted: whose. The ledger keeps no other users.
    pub user_id: Option<UserId>,
    /// Its answer.
    pub code: ClaimCode,
    /// Where it was answered.
    pub decided_offset: Offset,
    /// The append time of that record.
    pub appended_at: Timestamp,
    /// Its rank.
    pub rank: u32,
    /// Granted: its issue number.
    pub issue_no: Option<u32>,
    /// Granted: the how-manieth of this user.
    pub user_nth: Option<u16>,
    /// Already issued: the claim that won.
    pub granted_claim_id: Option<ClaimId>,
}

/// A checkpoint that cannot be folded on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint of partition {partition} cannot be used: {problem}")]
pub struct CheckpointError {
    /// The partition.
    pub partition: Partition,
    /// Why a line that begins with it stands still: its parts do not fit each other ([`HaltReason::Constraint`]), or a coupon has rules of a
    /// newer release ([`HaltReason::NewerVersion`]).
    pub reason: HaltReason,
    /// What does not fit.
    pub problem: String,
}

impl<S: BuildHasher + Clone> Ledger<S> {
    /// The ledger that folds on where the checkpoint was taken.
    ///
    /// # Errors
    /// As [`Restoring::coupon`], [`Restoring::claim`] and [`Restoring::finish`].
    pub fn restore(checkpoint: Checkpoint, hasher: S) -> Result<Self, CheckpointError> {
        let Checkpoint { partition, next_src, chain, coupons } = checkpoint;
        let mut restoring = Restoring::begin(partition, next_src, chain, hasher);
        for coupon in coupons {
            let settled = u32::try_from(coupon.claims.len()).unwrap_or(u32::MAX);
            restoring.coupon(coupon.state, coupon.commands, settled)?;
            for claim in &coupon.claims {
                restoring.claim(claim)?;
            }
        }
        restoring.finish()
    }

    /// Everything this ledger knows.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let mut coupons: Vec<_> = self.coupons.values().map(checkpoint_coupon).collect();
        coupons.sort_unstable_by_key(|coupon| coupon.state.coupon_id);
        Checkpoint { partition: self.partition, next_src: self.next_src, chain: self.chain, coupons }
    }
}

/// A ledger that is being put together from a checkpoint's parts: coupon by coupon, and behind each coupon its claims.
pub struct Restoring<S = DefaultHasher> {
    ledger: Ledger<S>,
    coupon: Option<RestoringCoupon<S>>,
}

struct RestoringCoupon<S> {
    state: CouponState,
    commands: HashMap<CommandId, CommandAnswer, S>,
    claims: RestoringClaims<S>,
}

impl<S: BuildHasher + Clone> Restoring<S> {
    /// A ledger that will fold `next_src` next, its last outcome's chain being `chain`.
    #[must_use]
    pub fn begin(partition: Partition, next_src: Offset, chain: Chain, hasher: S) -> Self {
        let coupons = HashMap::with_hasher(hasher.clone());
        Self { ledger: Ledger { partition, next_src, chain, coupons, hasher }, coupon: None }
    }

    /// The coupon whose claims come now: its state, the answers to its commands in any order, and how many claims with a final outcome it has
    /// (0 once it is retired).
    ///
    /// # Errors
    /// [`CheckpointError`]: the coupon does not belong here, its rules are unknown, or the one before it is not whole.
    pub fn coupon(
        &mut self,
        state: CouponState,
        commands: impl IntoIterator<Item = AnsweredCommand>,
        settled: u32,
    ) -> Result<(), CheckpointError> {
        self.end_coupon()?;
        let coupon_id = state.coupon_id;
        let torn = |problem: &str| Err(self.torn(coupon_id, problem.to_owned()));
        let rules = state.definition.rules();
        if rules > RULES_NEWEST {
            let reason = HaltReason::NewerVersion;
            let problem = format!("rules {rules} are newer than this release");
            return Err(CheckpointError { reason, ..self.torn(coupon_id, problem) });
        }
        if coupon_id.partition() != self.ledger.partition {
            return torn("belongs to another partition");
        }
        if self.ledger.coupons.contains_key(&coupon_id) {
            return torn("stands in it twice");
        }
        let hasher = self.ledger.hasher.clone();
        let mut answers = HashMap::with_hasher(hasher.clone());
        for AnsweredCommand { command_id, code, refusal, decided_offset } in commands {
            answers.insert(command_id, CommandAnswer { code, refusal, decided_offset });
        }
        if !answers.contains_key(&state.last_command.command_id) {
            return torn("the last command has no answer");
        }
        let granted = if state.status == CouponStatus::Retired { 0 } else { state.issued };
        let claims = RestoringClaims::begin(settled, granted, hasher);
        self.coupon = Some(RestoringCoupon { state, commands: answers, claims });
        Ok(())
    }

    /// A claim of the coupon that was named last. They may come in any order.
    ///
    /// # Errors
    /// [`CheckpointError`]: it does not fit the coupon, or the claims that were there before it.
    pub fn claim(&mut self, claim: &FinalClaim) -> Result<(), CheckpointError> {
        let coupon_id = claim.claim_id.coupon_id;
        let taken = match &mut self.coupon {
            Some(coupon) if coupon.state.coupon_id == coupon_id => coupon.claims.take(claim),
            _ => Err("belongs to another coupon"),
        };
        taken.map_err(|problem| self.torn(coupon_id, format!("claim {}: {problem}", claim.claim_id)))
    }

    /// The ledger, once everything was named.
    ///
    /// # Errors
    /// [`CheckpointError`]: the last coupon is not whole.
    pub fn finish(mut self) -> Result<Ledger<S>, CheckpointError> {
        self.end_coupon()?;
        Ok(self.ledger)
    }

    fn end_coupon(&mut self) -> Result<(), CheckpointError> {
        let Some(RestoringCoupon { state, commands, claims }) = self.coupon.take() else {
            return Ok(());
        };
        let coupon_id = state.coupon_id;
        let claims = claims.finish().map_err(|problem| self.torn(coupon_id, problem))?;
        self.ledger.coupons.insert(coupon_id, CouponEntry { state, commands, claims });
        Ok(())
    }

    fn torn(&self, coupon_id: CouponId, problem: String) -> CheckpointError {
        CheckpointError {
            partition: self.ledger.partition,
            reason: HaltReason::Constraint,
            problem: format!("coupon {coupon_id}: {problem}"),
        }
    }
}

fn checkpoint_coupon<S: BuildHasher + Clone>(entry: &CouponEntry<S>) -> CouponCheckpoint {
    let coupon_id = entry.state.coupon_id;
    let mut users = std::collections::BTreeMap::new();
    for (user_id, held) in entry.claims.holders() {
        users.extend(held.iter().map(|issue_no| (*issue_no, user_id)));
    }
    let mut claims = Vec::with_capacity(entry.claims.range(0, u32::MAX).len());
    for (rank, claim) in (1..).zip(entry.claims.range(0, u32::MAX)) {
        let user_id = claim.issue_no().and_then(|issue_no| users.get(&issue_no).copied());
        claims.push(FinalClaim {
            claim_id: claim.claim_id(coupon_id),
            user_id: user_id.cloned(),
            code: claim.code,
            decided_offset: claim.decided_offset,
            appended_at: claim.appended_at,
            rank,
            issue_no: claim.issue_no(),
            user_nth: claim.user_nth(),
            granted_claim_id: entry.claims.winner(claim).map(|winner| winner.claim_id(coupon_id)),
        });
    }
    let mut commands: Vec<_> = entry
        .commands
        .iter()
        .map(|(command_id, answer)| AnsweredCommand {
            command_id: *command_id,
            code: answer.code,
            refusal: answer.refusal,
            decided_offset: answer.decided_offset,
        })
        .collect();
    commands.sort_unstable_by_key(|command| command.decided_offset);
    CouponCheckpoint { state: entry.state.clone(), commands, claims }
}
