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
    /// The mac of its claim id.
    pub mac: [u8; 16],
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

/// Ranks begin at 1.
const NO_RANK: u32 = 0;

impl SettledClaim {
    /// What stands in a place that waits for its claim: no claim is settled with this code.
    const ABSENT: Self = Self {
        mac: [0; 16],
        slot: Slot::ONLY,
        decided_offset: Offset::ZERO,
        appended_at: Timestamp::EPOCH,
        reference: 0,
        nth: 0,
        round: Round::FIRST,
        code: ClaimCode::UnknownCoupon,
    };

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
    /// Refusals that were let go.
    forgotten: u32,
    hasher: S,
}

impl<S: BuildHasher + Clone> SettledClaims<S> {
    pub(super) fn with_hasher(hasher: S) -> Self {
        Self {
            by_rank: Vec::new(),
            ranks: HashTable::new(),
            grants: Vec::new(),
            issued_to: HashMap::with_hasher(hasher.clone()),
            forgotten: 0,
            hasher,
        }
    }

    /// Places for claims and grants that come in any order ([`SettledClaims::put`]): how many there are, and for how many there shall be room.
    pub(super) fn with_places(settled: (usize, usize), granted: (usize, usize), hasher: S) -> Self {
        let mut by_rank = Vec::with_capacity(settled.1);
        by_rank.resize(settled.0, SettledClaim::ABSENT);
        let mut grants = Vec::with_capacity(granted.1);
        grants.resize(granted.0, NO_RANK);
        Self {
            by_rank,
            ranks: HashTable::with_capacity(settled.1),
            grants,
            issued_to: HashMap::with_capacity_and_hasher(granted.0, hasher.clone()),
            forgotten: 0,
            hasher,
        }
    }

    /// Puts a claim where its rank says; a grant with its user. What is wrong with it, if anything is.
    pub(super) fn put(
        &mut self,
        rank: u32,
        claim: SettledClaim,
        granted_to: Option<&UserId>,
    ) -> Result<(), &'static str> {
        let hash = self.hasher.hash_one(claim.mac);
        if self.ranks.find(hash, |rank| self.at(*rank).is_some_and(|known| known.mac == claim.mac)).is_some()
        {
            return Err("has two final outcomes");
        }
        match place(rank).and_then(|index| self.by_rank.get_mut(index)) {
            None => return Err("its rank is beyond the number of settled claims"),
            Some(known) if *known != SettledClaim::ABSENT => return Err("its rank is another claim's, too"),
            Some(free) => *free = claim,
        }
        if let Some(user_id) = granted_to {
            match place(claim.reference).and_then(|index| self.grants.get_mut(index)) {
                None => return Err("its issue number is beyond the number of grants"),
                Some(known) if *known != NO_RANK => return Err("its issue number is another claim's, too"),
                Some(free) => *free = rank,
            }
            self.issued_to.entry_ref(user_id).or_default().push(claim.reference);
        }
        let Self { by_rank, ranks, hasher, .. } = self;
        ranks.insert_unique(hash, rank, |rank| hash_of(by_rank, hasher, *rank));
        Ok(())
    }

    /// Brings the grants of each user into their order and says what does not fit: a number that nobody has, a number that does not follow the
    /// ranks, a user's grants that are not counted from 1.
    pub(super) fn check_grants(&mut self) -> Result<(), String> {
        let mut before = NO_RANK;
        for (issue_no, rank) in (1u32..).zip(&self.grants) {
            if *rank <= before {
                return Err(format!("issue number {issue_no} leaves a gap or is out of order"));
            }
            before = *rank;
        }
        let Self { by_rank, grants, issued_to, .. } = self;
        for held in issued_to.values_mut() {
            held.sort_unstable();
            for (nth, issue_no) in (1u16..).zip(held.iter()) {
                let rank = place(*issue_no).and_then(|index| grants.get(index));
                let grant = rank.and_then(|rank| by_rank.get(place(*rank)?));
                if grant.is_none_or(|grant| grant.nth != nth) {
                    return Err(format!(
                        "issue number {issue_no}: its user_nth does not continue the user's grants"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Lets the claim of this rank name the grant with this mac as the winner.
    pub(super) fn refer(&mut self, rank: u32, winner: [u8; 16]) -> Result<(), String> {
        let hash = self.hasher.hash_one(winner);
        let found = self.ranks.find(hash, |rank| self.at(*rank).is_some_and(|claim| claim.mac == winner));
        let issue_no = found.filter(|found| **found < rank).and_then(|found| self.at(*found)?.issue_no());
        match (issue_no, place(rank).and_then(|index| self.by_rank.get_mut(index))) {
            (Some(issue_no), Some(claim)) => {
                claim.reference = issue_no;
                Ok(())
            }
            _ => Err(format!("the claim of rank {rank} names a winner that is none")),
        }
    }

    /// The last rank.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.by_rank.len()).unwrap_or(u32::MAX).saturating_add(self.forgotten)
    }

    /// Lets the claim go that was settled last, unless it was granted.
    pub(super) fn forget_refusal(&mut self, claim_id: &ClaimId) {
        let Self { by_rank, ranks, hasher, .. } = self;
        let stands_at = u32::try_from(by_rank.len()).unwrap_or(u32::MAX);
        if by_rank.pop_if(|last| last.is(claim_id) && last.code != ClaimCode::Granted).is_some() {
            if let Ok(known) = ranks.find_entry(hasher.hash_one(claim_id.mac), |rank| *rank == stands_at) {
                known.remove();
            }
            self.forgotten += 1;
        }
    }

    pub(super) fn find(&self, claim_id: &ClaimId) -> Option<(u32, &SettledClaim)> {
        let hash = self.hasher.hash_one(claim_id.mac);
        let rank = self.ranks.find(hash, |rank| self.at(*rank).is_some_and(|claim| claim.is(claim_id)))?;
        Some((*rank, self.at(*rank)?))
    }

    /// Appends a claim under the next rank; a grant with its user.
    pub(super) fn push(&mut self, claim: SettledClaim, granted_to: Option<&UserId>) -> u32 {
        let Self { by_rank, ranks, grants, issued_to, forgotten, hasher } = self;
        by_rank.push(claim);
        let rank = u32::try_from(by_rank.len()).unwrap_or(u32::MAX);
        if let Some(user_id) = granted_to {
            grants.push(rank);
            issued_to.entry_ref(user_id).or_default().push(claim.reference);
        }
        ranks.insert_unique(hasher.hash_one(claim.mac), rank, |rank| hash_of(by_rank, hasher, *rank));
        rank.saturating_add(*forgotten)
    }

    /// The claims of ranks `from + 1 ..= to`, as far as there are any.
    pub(super) fn range(&self, from: u32, to: u32) -> &[SettledClaim] {
        let end = usize::try_from(to).unwrap_or(usize::MAX).min(self.by_rank.len());
        let start = usize::try_from(from).unwrap_or(usize::MAX).min(end);
        self.by_rank.get(start..end).unwrap_or(&[])
    }

    /// The claim that `claim` names as the winner, if it was answered `already_issued`.
    pub(super) fn winner(&self, claim: &SettledClaim) -> Option<&SettledClaim> {
        if claim.code == ClaimCode::AlreadyIssued { self.granted(claim.reference) } else { None }
    }

    /// The issue numbers of a user's grants, in their order.
    pub(super) fn issued_to(&self, user_id: &UserId) -> &[u32] {
        self.issued_to.get(user_id).map_or(&[], |held| held.as_slice())
    }

    /// How many grants the user holds.
    pub(super) fn held_by(&self, user_id: &UserId) -> u16 {
        u16::try_from(self.issued_to(user_id).len()).unwrap_or(u16::MAX)
    }

    /// The slot of the grant with this issue number.
    pub(super) fn slot_of(&self, issue_no: u32) -> Option<Slot> {
        self.granted(issue_no).map(|claim| claim.slot)
    }

    /// The users with grants and their issue numbers, in no order.
    pub(super) fn holders(&self) -> impl Iterator<Item = (&UserId, &[u32])> {
        self.issued_to.iter().map(|(user_id, held)| (user_id, held.as_slice()))
    }

    /// The claim that was granted under this issue number.
    pub(super) fn granted(&self, issue_no: u32) -> Option<&SettledClaim> {
        self.at(*self.grants.get(place(issue_no)?)?)
    }

    fn at(&self, rank: u32) -> Option<&SettledClaim> {
        self.by_rank.get(place(rank)?)
    }
}

/// Ranks and issue numbers begin at 1.
fn place(number: u32) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

fn hash_of<S: BuildHasher>(by_rank: &[SettledClaim], hasher: &S, rank: u32) -> u64 {
    hasher.hash_one(place(rank).and_then(|index| by_rank.get(index)).map_or([0; 16], |claim| claim.mac))
}
