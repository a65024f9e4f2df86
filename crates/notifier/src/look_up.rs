//! Looking a claim up in the stores. Redis is asked first; PostgreSQL also where Redis has nothing final, since the view may lag.

use std::sync::Arc;

use coupon_domain::{ClaimAnswer, ClaimId, Offset};
use infrastructure_postgres::look_up::{self, IssuedCoupon, LookedUp};
use infrastructure_postgres::{Pool, PostgresError};
use infrastructure_redis::ViewReader;

use crate::metrics::{LOOK_UP_CLAIM, ServiceMetrics};

/// What the stores say at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// The newest answer.
    pub(crate) answer: Option<ClaimAnswer>,
    /// The claim's newest record could not be read, and stands here in the line.
    pub(crate) parked: Option<Offset>,
    /// The issued coupon of a granted claim, where PostgreSQL was asked and has it.
    pub(crate) issued: Option<IssuedCoupon>,
    /// Every outcome before this offset is in `answer`; none where PostgreSQL gave no answer.
    pub(crate) complete_up_to: Option<Offset>,
    /// The coupon is retired.
    pub(crate) retired: bool,
    /// Neither store gave an answer.
    pub(crate) blind: bool,
}

/// Both stores.
pub(crate) struct Stores {
    pub(crate) view: ViewReader,
    pub(crate) pool: Pool,
    pub(crate) metrics: Arc<ServiceMetrics>,
}

impl Stores {
    /// Looks the claim up. A final answer in the view is enough; `with_coupon` asks PostgreSQL all the same, for the coupon's code.
    pub(crate) async fn look_up(&self, claim_id: &ClaimId, with_coupon: bool) -> Found {
        let view = self.view.claim(claim_id).await;
        let seen = view.as_ref().ok().copied().flatten();
        if let Some(answer) = seen.filter(|answer| answer.is_final)
            && !with_coupon
        {
            return Found { answer: Some(answer), ..Found::default() };
        }
        match self.ask_postgres(claim_id).await {
            Ok(stored) => Found {
                parked: still_parked(newest(seen, stored.answer), stored.parked),
                answer: newest(seen, stored.answer),
                issued: stored.issued,
                complete_up_to: Some(stored.next_outcome_offset),
                retired: stored.retired,
                blind: false,
            },
            Err(error) => {
                tracing::debug!(claim.id = %claim_id, "looked up without PostgreSQL: {error}");
                Found { answer: seen, blind: view.is_err(), ..Found::default() }
            }
        }
    }

    async fn ask_postgres(&self, claim_id: &ClaimId) -> Result<LookedUp, PostgresError> {
        let looking = self.pool.run(async |connection| look_up::claim(connection, claim_id).await);
        self.metrics.postgres.measure(LOOK_UP_CLAIM, looking).await
    }
}

/// A final answer counts before a deferral, a later deferral before an earlier one.
fn newest(left: Option<ClaimAnswer>, right: Option<ClaimAnswer>) -> Option<ClaimAnswer> {
    [left, right].into_iter().flatten().max_by_key(|answer| (answer.is_final, answer.decided_offset))
}

/// Where the claim is parked, unless it was answered behind that place: a final answer counts before everything.
fn still_parked(answer: Option<ClaimAnswer>, parked: Option<Offset>) -> Option<Offset> {
    let answered = |at: &Offset| answer.is_some_and(|answer| answer.is_final || answer.decided_offset > *at);
    parked.filter(|at| !answered(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coupon_domain::{ClaimCode, CouponId, Partition, Round, Slot, Timestamp};

    fn answer(code: ClaimCode, is_final: bool, at: i64) -> ClaimAnswer {
        let coupon_id = CouponId::new(Partition::new(0).unwrap(), uuid::Uuid::from_u128(1));
        ClaimAnswer {
            claim_id: ClaimId { coupon_id, round: Round::FIRST, slot: Slot::ONLY, mac: [0; 16] },
            code,
            is_final,
            decided_offset: Offset::new(at).unwrap(),
            decided_at: Timestamp::EPOCH,
            issue_no: None,
            user_nth: None,
            rank: None,
            granted_claim_id: None,
        }
    }

    #[test]
    fn the_newest_answer_counts_and_a_final_one_before_all() {
        let (paused, not_open) = (answer(ClaimCode::Paused, false, 9), answer(ClaimCode::NotOpen, false, 3));
        let granted = answer(ClaimCode::Granted, true, 5);
        assert_eq!(newest(Some(not_open), Some(paused)), Some(paused));
        assert_eq!(newest(Some(paused), Some(granted)), Some(granted));
        assert_eq!(newest(Some(granted), None), Some(granted));
        assert_eq!(newest(None, None), None);
    }

    #[test]
    fn a_claim_is_parked_until_it_is_answered_behind_that_place() {
        let at = |number| Some(Offset::new(number).unwrap());
        let (deferred, granted) = (answer(ClaimCode::Paused, false, 5), answer(ClaimCode::Granted, true, 5));
        assert_eq!(still_parked(None, at(4)), at(4));
        assert_eq!(still_parked(Some(deferred), at(6)), at(6));
        assert_eq!(still_parked(Some(deferred), at(4)), None);
        assert_eq!(still_parked(Some(granted), at(6)), None);
        assert_eq!(still_parked(Some(granted), None), None);
    }
}
