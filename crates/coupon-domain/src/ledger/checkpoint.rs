//! The checkpoint: everything a ledger knows, as PostgreSQL keeps it. A ledger restored from one folds on as if it had
//! never stopped.

use std::hash::BuildHasher;

use hashbrown::HashMap;

use crate::chain::Chain;
use crate::claim_id::ClaimId;
use crate::code::{ClaimCode, CommandCode, Refusal};
use crate::command_id::CommandId;
use crate::coupon::{CouponState, CouponStatus, RULES_NEWEST};
use crate::coupon_id::CouponId;
use crate::halt::HaltReason;
use crate::ledger::settled::{SettledClaim, SettledClaims};
use crate::ledger::{CommandAnswer, CouponEntry, Ledger, Moment};
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
    /// Its claims with a final outcome by rank, from 1 without a gap; none once it is retired.
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
    /// [`CheckpointError`]: ranks, issue numbers or counts do not fit each other, or rules are unknown. Starting from it would decide wrongly.
    pub fn restore(checkpoint: Checkpoint, hasher: S) -> Result<Self, CheckpointError> {
        let Checkpoint { partition, next_src, chain, coupons } = checkpoint;
        let mut ledger = Self {
            partition,
            next_src,
            chain,
            coupons: HashMap::with_capacity_and_hasher(coupons.len(), hasher.clone()),
            hasher: hasher.clone(),
        };
        for coupon in coupons {
            let coupon_id = coupon.state.coupon_id;
            let torn = |problem: String| CheckpointError {
                partition,
                reason: HaltReason::Constraint,
                problem: format!("coupon {coupon_id}: {problem}"),
            };
            let rules = coupon.state.definition.rules();
            if rules > RULES_NEWEST {
                let reason = HaltReason::NewerVersion;
                return Err(CheckpointError {
                    reason,
                    ..torn(format!("rules {rules} are newer than this release"))
                });
            }
            if coupon_id.partition() != partition {
                return Err(torn("belongs to another partition".to_owned()));
            }
            let entry = restore_coupon(coupon, &hasher).map_err(torn)?;
            if ledger.coupons.insert(coupon_id, entry).is_some() {
                return Err(torn("stands in it twice".to_owned()));
            }
        }
        Ok(ledger)
    }

    /// Everything this ledger knows.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let mut coupons: Vec<_> = self.coupons.values().map(checkpoint_coupon).collect();
        coupons.sort_unstable_by_key(|coupon| coupon.state.coupon_id);
        Checkpoint { partition: self.partition, next_src: self.next_src, chain: self.chain, coupons }
    }
}

fn restore_coupon<S: BuildHasher + Clone>(
    coupon: CouponCheckpoint,
    hasher: &S,
) -> Result<CouponEntry<S>, String> {
    let coupon_id = coupon.state.coupon_id;
    let mut claims = SettledClaims::with_hasher(hasher.clone());
    for claim in &coupon.claims {
        restore_claim(&mut claims, coupon_id, claim)?;
    }
    let retired = coupon.state.status == CouponStatus::Retired;
    if !retired && claims.granted_count() != coupon.state.issued {
        return Err(format!("{} grants, but issued says {}", claims.granted_count(), coupon.state.issued));
    }
    let mut commands = HashMap::with_capacity_and_hasher(coupon.commands.len(), hasher.clone());
    for command in coupon.commands {
        let answer = CommandAnswer {
            code: command.code,
            refusal: command.refusal,
            decided_offset: command.decided_offset,
        };
        commands.insert(command.command_id, answer);
    }
    if !commands.contains_key(&coupon.state.last_command.command_id) {
        return Err("the last command has no answer".to_owned());
    }
    Ok(CouponEntry { state: coupon.state, commands, claims })
}

fn restore_claim<S: BuildHasher + Clone>(
    claims: &mut SettledClaims<S>,
    coupon_id: CouponId,
    claim: &FinalClaim,
) -> Result<(), String> {
    let problem = |what: &str| Err(format!("claim {}: {what}", claim.claim_id));
    if claim.claim_id.coupon_id != coupon_id {
        return problem("belongs to another coupon");
    }
    if claim.rank != claims.count().saturating_add(1) {
        return problem("its rank leaves a gap");
    }
    if claims.find(&claim.claim_id).is_some() {
        return problem("has two final outcomes");
    }
    let user_id = claim.user_id.as_ref();
    let reference = match (claim.code, claim.issue_no, claim.granted_claim_id) {
        (ClaimCode::Granted, Some(issue_no), None) => {
            let Some(user_id) = user_id else {
                return problem("is granted to nobody");
            };
            if issue_no != claims.granted_count().saturating_add(1) {
                return problem("its issue number leaves a gap");
            }
            if claim.user_nth != Some(claims.held_by(user_id).saturating_add(1)) {
                return problem("its user_nth does not continue the user's grants");
            }
            Some(issue_no)
        }
        (ClaimCode::AlreadyIssued, None, Some(winner)) => {
            match claims.find(&winner).and_then(|(_, winner)| winner.issue_no()) {
                Some(issue_no) => Some(issue_no),
                None => return problem("names a winner that is none"),
            }
        }
        (ClaimCode::SoldOut | ClaimCode::Closed, None, None) => None,
        _ => return problem("its columns do not fit its code"),
    };
    let moment = Moment { src_offset: claim.decided_offset, appended_at: claim.appended_at };
    let settled =
        SettledClaim::new(&claim.claim_id, claim.code, moment, reference, claim.user_nth.unwrap_or(0));
    let granted_to = user_id.filter(|_| claim.code == ClaimCode::Granted);
    claims.push(settled, granted_to);
    Ok(())
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
