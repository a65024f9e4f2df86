//! The claims of one coupon that have their final outcome.
//!
//! They stand in a vector by rank and never move, so whoever pushes a view needs no snapshot: the first n ranks are what was
//! settled when there were n. An index of 32-bit ranks finds a claim by its mac: about 64 bytes a claim in all.

use std::hash::BuildHasher;

use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use crate::claim_id::{ClaimId, Round, Slot};
use crate::code::ClaimCode;
use crate::coupon_id::CouponId;
use crate::ledger::Moment;
use crate::position::Offset;
use crate::timestamp::Timestamp;
use crate::user_id::UserId;

/// A claim with its final outcome. The coupon is known from where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledClaim {
    mac: [u8; 16],
    slot: Slot,
    /// Where the answer was given.
    pub decided_offset: Offset,
    /// The append time of that record.
    pub appended_at: Timestamp,
    /// Granted: its own issue number. Already issued: the winner's. Else zero.
    reference: u32,
    nth: u16,
    round: Round,
    /// The answer.
    pub code: ClaimCode,
}

impl SettledClaim {
    pub(super) fn new(
        claim_id: &ClaimId,
        code: ClaimCode,
        moment: Moment,
        reference: Option<u32>,
        nth: u16,
    ) -> Self {
        Self {
            mac: claim_id.mac,
            slot: claim_id.slot,
            decided_offset: moment.src_offset,
            appended_at: moment.appended_at,
            reference: reference.unwrap_or(0),
            nth,
            round: claim_id.round,
            code,
        }
    }

    /// Which claim of this coupon it is.
    #[must_use]
    pub fn claim_id(&self, coupon_id: CouponId) -> ClaimId {
        ClaimId { coupon_id, round: self.round, slot: self.slot, mac: self.mac }
    }

    /// Granted: the number of the issued coupon.
    #[must_use]
    pub fn issue_no(&self) -> Option<u32> {
        if self.code == ClaimCode::Granted { Some(self.reference) } else { None }
    }

    /// Granted: the how-manieth grant of this user.
    #[must_use]
    pub fn user_nth(&self) -> Option<u16> {
        if self.code == ClaimCode::Granted { Some(self.nth) } else { None }
    }

    /// The mac is made of user, round and slot, so within a coupon it alone says which claim it is. PostgreSQL's unique
    /// indexes say the same.
    fn is(&self, claim_id: &ClaimId) -> bool {
        self.mac == claim_id.mac
    }
}

#[derive(Clone, Debug)]
pub(super) struct SettledClaims<S> {
    by_rank: Vec<SettledClaim>,
    ranks: HashTable<u32>,
    /// The rank of each grant, by issue number.
    grants: Vec<u32>,
    issued_to: HashMap<UserId, SmallVec<[u32; 2]>, S>,
    hasher: S,
}

impl<S: BuildHasher + Clone> SettledClaims<S> {
    pub(super) fn with_hasher(hasher: S) -> Self {
        Self {
            by_rank: Vec::new(),
            ranks: HashTable::new(),
            grants: Vec::new(),
            issued_to: HashMap::with_hasher(hasher.clone()),
            hasher,
        }
    }

    /// The last rank.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.by_rank.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn find(&self, claim_id: &ClaimId) -> Option<(u32, &SettledClaim)> {
        let hash = self.hasher.hash_one(claim_id.mac);
        let rank = self.ranks.find(hash, |rank| self.at(*rank).is_some_and(|claim| claim.is(claim_id)))?;
        Some((*rank, self.at(*rank)?))
    }

    /// Appends a claim under the next rank; a grant with its user.
    pub(super) fn push(&mut self, claim: SettledClaim, granted_to: Option<&UserId>) -> u32 {
        let Self { by_rank, ranks, grants, issued_to, hasher } = self;
        by_rank.push(claim);
        let rank = u32::try_from(by_rank.len()).unwrap_or(u32::MAX);
        if let Some(user_id) = granted_to {
            grants.push(rank);
            issued_to.entry_ref(user_id).or_default().push(claim.reference);
        }
        let hash_of = |rank: &u32| {
            let claim = usize::try_from(*rank - 1).ok().and_then(|index| by_rank.get(index));
            hasher.hash_one(claim.map_or([0; 16], |claim| claim.mac))
        };
        ranks.insert_unique(hasher.hash_one(claim.mac), rank, hash_of);
        rank
    }

    /// The claims of ranks `from + 1 ..= to`, as far as there are any.
    pub(super) fn range(&self, from: u32, to: u32) -> &[SettledClaim] {
        let end = usize::try_from(to).unwrap_or(usize::MAX).min(self.by_rank.len());
        let start = usize::try_from(from).unwrap_or(usize::MAX).min(end);
        self.by_rank.get(start..end).unwrap_or(&[])
    }

    /// The claim that `claim` names as the winner, if it was answered `already_issued`.
    pub(super) fn winner(&self, claim: &SettledClaim) -> Option<&SettledClaim> {
        if claim.code == ClaimCode::AlreadyIssued { self.grant(claim.reference) } else { None }
    }

    /// The issue numbers of a user's grants, in their order.
    pub(super) fn issued_to(&self, user_id: &UserId) -> &[u32] {
        self.issued_to.get(user_id).map_or(&[], |held| held.as_slice())
    }

    /// How many grants the user holds.
    pub(super) fn held_by(&self, user_id: &UserId) -> u16 {
        u16::try_from(self.issued_to(user_id).len()).unwrap_or(u16::MAX)
    }

    /// How many grants there are: the last issue number.
    pub(super) fn granted_count(&self) -> u32 {
        u32::try_from(self.grants.len()).unwrap_or(u32::MAX)
    }

    /// The slot of the grant with this issue number.
    pub(super) fn slot_of(&self, issue_no: u32) -> Option<Slot> {
        self.grant(issue_no).map(|claim| claim.slot)
    }

    /// The users with grants and their issue numbers, in no order.
    pub(super) fn holders(&self) -> impl Iterator<Item = (&UserId, &[u32])> {
        self.issued_to.iter().map(|(user_id, held)| (user_id, held.as_slice()))
    }

    fn grant(&self, issue_no: u32) -> Option<&SettledClaim> {
        let index = usize::try_from(issue_no.checked_sub(1)?).ok()?;
        self.at(*self.grants.get(index)?)
    }

    fn at(&self, rank: u32) -> Option<&SettledClaim> {
        self.by_rank.get(usize::try_from(rank.checked_sub(1)?).ok()?)
    }
}
