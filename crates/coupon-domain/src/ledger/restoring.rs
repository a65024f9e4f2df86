//! The settled claims of one coupon while they come from a store, in any order.
//!
//! How many there are is known beforehand, so each is put where its rank says, and nothing is copied or grows. What refers to
//! other claims is checked when all are there.

use std::hash::BuildHasher;

use crate::code::ClaimCode;
use crate::ledger::Moment;
use crate::ledger::checkpoint::FinalClaim;
use crate::ledger::settled::{SettledClaim, SettledClaims};

/// Room for claims that are decided next, as a share of those there are: without it the first one would copy all of them.
const HEADROOM: usize = 8;

pub(super) struct RestoringClaims<S> {
    claims: SettledClaims<S>,
    taken: u32,
    /// The `already_issued` claims: their ranks, and the macs of the claims that they name as winners.
    winners: Vec<(u32, [u8; 16])>,
}

impl<S: BuildHasher + Clone> RestoringClaims<S> {
    pub(super) fn begin(settled: u32, granted: u32, hasher: S) -> Self {
        let room = |count: u32| {
            let count = usize::try_from(count).unwrap_or(0);
            (count, count + count / HEADROOM)
        };
        let claims = SettledClaims::with_places(room(settled), room(granted), hasher);
        Self { claims, taken: 0, winners: Vec::new() }
    }

    /// What is wrong with the claim, if anything is.
    pub(super) fn take(&mut self, claim: &FinalClaim) -> Result<(), &'static str> {
        let user_id = claim.user_id.as_ref();
        let reference = match (claim.code, claim.issue_no, claim.granted_claim_id) {
            (ClaimCode::Granted, Some(issue_no), None) => {
                if user_id.is_none() {
                    return Err("is granted to nobody");
                }
                Some(issue_no)
            }
            (ClaimCode::AlreadyIssued, None, Some(winner)) => {
                self.winners.push((claim.rank, winner.mac));
                None
            }
            (ClaimCode::SoldOut | ClaimCode::Closed, None, None) => None,
            _ => return Err("its columns do not fit its code"),
        };
        let moment = Moment { src_offset: claim.decided_offset, appended_at: claim.appended_at };
        let settled =
            SettledClaim::new(&claim.claim_id, claim.code, moment, reference, claim.user_nth.unwrap_or(0));
        self.taken += 1;
        self.claims.put(claim.rank, settled, user_id.filter(|_| claim.code == ClaimCode::Granted))
    }

    /// The claims, or what does not fit.
    pub(super) fn finish(self) -> Result<SettledClaims<S>, String> {
        let Self { mut claims, taken, winners } = self;
        if taken != claims.count() {
            return Err(format!("{} claims are settled, but {taken} are there", claims.count()));
        }
        claims.check_grants()?;
        for (rank, mac) in winners {
            claims.refer(rank, mac)?;
        }
        Ok(claims)
    }
}
