//! Looking a claim up in the stores. Redis is asked first; PostgreSQL only where Redis has nothing final, since the view may lag, or where a winner's code is
//! needed.

use std::sync::Arc;

use coupon_domain::{ClaimAnswer, ClaimCode, ClaimId, Offset, UserId};
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
    /// The answer is `already_issued`, of which nothing is written.
    pub(crate) already_issued: Option<AlreadyIssued>,
    /// Neither store gave an answer.
    pub(crate) blind: bool,
}

/// A refusal that follows from what the user holds: the coupon's rules give it anew each time, and no store has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AlreadyIssued {
    /// The grant that stands in the way, where we know who asks.
    pub(crate) winner: Option<ClaimId>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Which claim.
    pub(crate) claim_id: ClaimId,
    /// Whose it is, where the caller said so: a stream token names nobody.
    pub(crate) user_id: Option<UserId>,
    /// Where this press of the button was appended, where known: a deferral from before it is no answer.
    pub(crate) ticket: Option<Offset>,
}

impl Question {
    /// True where this answer is one to the press that is asked about.
    pub(crate) fn is_answered_by(&self, answer: &ClaimAnswer) -> bool {
        answer.is_final || self.is_of_this_press(answer.decided_offset)
    }

    /// What was said before this press is no answer to it.
    pub(crate) fn is_of_this_press(&self, offset: Offset) -> bool {
        self.ticket.is_none_or(|ticket| offset >= ticket)
    }
}

/// Both stores.
pub(crate) struct Stores {
    pub(crate) view: ViewReader,
    pub(crate) pool: Pool,
    pub(crate) metrics: Arc<ServiceMetrics>,
}

impl Stores {
    /// Looks the claim up. A final answer in the view is enough; `with_coupon` asks PostgreSQL all the same for a winner, who has a code there.
    pub(crate) async fn look_up(&self, question: &Question, with_coupon: bool) -> Found {
        let view = self.view.claim(&question.claim_id).await;
        let seen = view.as_ref().ok().copied().flatten();
        if let Some(answer) = seen.filter(|answer| answer.is_final)
            && !(with_coupon && answer.code == ClaimCode::Granted)
        {
            return Found { answer: Some(answer), ..Found::default() };
        }
        match self.ask_postgres(question).await {
            Ok(stored) => {
                let answer = newest(seen, stored.answer);
                let parked = still_parked(answer, stored.parked);
                Found {
                    already_issued: already_issued(question, &stored, answer, parked),
                    answer,
                    parked,
                    issued: stored.issued,
                    complete_up_to: Some(stored.next_outcome_offset),
                    retired: stored.retired,
                    blind: false,
                }
            }
            Err(error) => {
                tracing::debug!(claim.id = %question.claim_id, "looked up without PostgreSQL: {error}");
                Found { answer: seen, blind: view.is_err(), ..Found::default() }
            }
        }
    }

    async fn ask_postgres(&self, question: &Question) -> Result<LookedUp, PostgresError> {
        let Question { claim_id, user_id, .. } = question;
        let looking =
            self.pool.run(async |connection| look_up::claim(connection, claim_id, user_id.as_ref()).await);
        self.metrics.postgres.measure(LOOK_UP_CLAIM, looking).await
    }
}

/// A final answer counts before a deferral, a later deferral before an earlier one.
fn newest(left: Option<ClaimAnswer>, right: Option<ClaimAnswer>) -> Option<ClaimAnswer> {
    [left, right].into_iter().flatten().max_by_key(|answer| (answer.is_final, answer.decided_offset))
}

/// Recognises the answer of which nothing is written. Who holds what the limit allows gets it to every other key. Where nobody is named, the place of the
/// press says it: PostgreSQL reflects it, and has no other answer.
fn already_issued(
    question: &Question,
    stored: &LookedUp,
    answer: Option<ClaimAnswer>,
    parked: Option<Offset>,
) -> Option<AlreadyIssued> {
    if stored.retired || !stored.forgets_already_issued || answer.is_some_and(|answer| answer.is_final) {
        return None;
    }
    let has_other_answer = answer.is_some_and(|answer| question.is_answered_by(&answer))
        || parked.is_some_and(|at| question.is_of_this_press(at));
    let is_reflected = question.ticket.is_some_and(|ticket| ticket < stored.next_src);
    let follows = stored.winner.is_some() || is_reflected && !has_other_answer;
    follows.then_some(AlreadyIssued { winner: stored.winner })
}

/// Where the claim is parked, unless it was answered behind that place: a final answer counts before everything.
fn still_parked(answer: Option<ClaimAnswer>, parked: Option<Offset>) -> Option<Offset> {
    let answered = |at: &Offset| answer.is_some_and(|answer| answer.is_final || answer.decided_offset > *at);
    parked.filter(|at| !answered(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coupon_domain::{CouponId, Partition, Round, Slot, Timestamp};

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
    fn a_refusal_of_which_nothing_is_written_follows_from_what_the_user_holds_or_from_the_place_of_the_press()
    {
        let at = |number| Offset::new(number).unwrap();
        let (paused, sold_out) = (answer(ClaimCode::Paused, false, 5), answer(ClaimCode::SoldOut, true, 5));
        let stored = |winner| LookedUp {
            next_outcome_offset: at(10),
            next_src: at(8),
            answer: None,
            issued: None,
            parked: None,
            retired: false,
            forgets_already_issued: true,
            winner,
        };
        let pressed = |ticket: Option<i64>| Question {
            claim_id: paused.claim_id,
            user_id: None,
            ticket: ticket.map(at),
        };
        let none = AlreadyIssued { winner: None };
        let found = |ticket, answer, parked| already_issued(&pressed(ticket), &stored(None), answer, parked);
        assert_eq!(found(Some(7), None, None), Some(none));
        assert_eq!(found(Some(8), None, None), None, "not reflected yet");
        assert_eq!(found(None, None, None), None, "perhaps it was never pressed");
        assert_eq!(found(Some(5), Some(paused), None), None, "it was answered");
        assert_eq!(found(Some(6), Some(paused), None), Some(none), "that was before this press");
        assert_eq!(found(Some(7), Some(sold_out), None), None);
        assert_eq!(found(Some(7), None, Some(at(7))), None, "it could not be read");
        let holds = LookedUp { ..stored(Some(sold_out.claim_id)) };
        let winner = AlreadyIssued { winner: holds.winner };
        assert_eq!(already_issued(&pressed(None), &holds, Some(paused), None), Some(winner));
        assert_eq!(already_issued(&pressed(None), &holds, Some(sold_out), None), None);
        let retired = LookedUp { retired: true, ..holds.clone() };
        assert_eq!(already_issued(&pressed(None), &retired, None, None), None);
        let by_rules_1 = LookedUp { forgets_already_issued: false, ..holds };
        assert_eq!(already_issued(&pressed(None), &by_rules_1, None, None), None);
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
