//! Following a claim to its answer: register, then look up.
//!
//! The waiter is registered with the tail first and T, the outcome offset that the tail reads next, is noted. From T on the
//! tail tells. What lies before T is in the stores, or will be: they are looked at again every second until PostgreSQL says, in
//! the same statement as the claim, that it reflects everything before T.
//!
//! Where the ticket is known and the tail has not come to it yet, the stores need not be asked at all: the log answers every record, so the
//! answer to this press (a repeat, if the claim was decided before) is still to come past the tail. In a stampede that is nearly everybody.

use std::sync::Arc;
use std::time::Duration;

use coupon_domain::{ClaimAnswer, ClaimCode, Offset};
use infrastructure_http::{Code, Problem};
use service_runtime::trace::TraceContext;
use service_runtime::{Limit, Place};

use crate::look_up::{AlreadyIssued, Found, Question, Stores};
use crate::per_user::{PerUser, UserPlace};
use crate::tail::{TailState, Tails};
use crate::waiters::{Registration, Told, Waiters};

/// How a claim was followed to its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Followed {
    /// The log has answered; with the trace of the outcome, where the tail has told it.
    Answer(ClaimAnswer, Option<TraceContext>),
    /// The claim's record could not be read and is parked.
    Parked(Offset),
    /// The coupon is retired, and nothing is written of this claim: it came too late.
    Forgotten,
    /// The user holds what they may, and nothing is written of this press.
    AlreadyIssued(AlreadyIssued),
    /// As many follow this claim as may, and somebody came later: whoever was told so comes back, or not.
    Replaced,
}

/// Follows claims.
pub(crate) struct Follower {
    pub(crate) tails: Arc<Tails>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) stores: Stores,
    pub(crate) waiting: Limit,
    /// Of users who are known by their token.
    pub(crate) per_user: PerUser,
}

/// A claim that is being followed.
pub(crate) struct Following {
    question: Question,
    tail: Arc<TailState>,
    registration: Registration,
    /// What the tail has not told lies before this outcome offset; none while it stands still.
    untold_before: Option<Offset>,
    /// False where the answer to the ticket is certain to come past the tail.
    must_look: bool,
    _place: Place,
    _of_user: Option<UserPlace>,
}

impl Follower {
    /// Registers a waiter.
    pub(crate) fn register(&self, question: Question) -> Result<Following, Problem> {
        let Question { claim_id, ticket, .. } = question;
        let of_user = question.user_id.as_ref().map(|user_id| self.per_user.take(user_id)).transpose()?;
        let tail = self
            .tails
            .of(claim_id.coupon_id.partition())
            // Its mac is right, so it was given out for a line that exists; we have just not heard of that line yet.
            .ok_or_else(|| {
                Problem::new(
                    Code::Unavailable,
                    "this notifier does not follow the claim's partition yet; try again",
                )
            })?;
        let place = self.waiting.take().ok_or_else(|| {
            Problem::new(Code::Overloaded, "as many clients as this process takes are waiting")
        })?;
        let registration = self.waiters.register(claim_id);
        // Only now: whatever the tail reads from here on, it tells.
        let untold_before = Some(tail.next_offset());
        let must_look = ticket.is_none_or(|ticket| ticket < tail.next_src());
        Ok(Following {
            question,
            tail,
            registration,
            untold_before,
            must_look,
            _place: place,
            _of_user: of_user,
        })
    }

    /// Waits for the answer. Never ends where there is none; the caller decides how long to wait.
    pub(crate) async fn follow(&self, following: &mut Following, look_up_interval: Duration) -> Followed {
        let mut next_look = tokio::time::interval(look_up_interval);
        next_look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looking = following.must_look;
        // A closed coupon may have been retired: only once the stores hold nothing final is `closed` the answer.
        let mut closed = None;
        loop {
            tokio::select! {
                told = following.registration.told() => match told {
                    Told::Replaced => return Followed::Replaced,
                    Told::Parked(offset) if following.question.is_of_this_press(offset) => return Followed::Parked(offset),
                    Told::Parked(_) => {}
                    Told::Answer(answer, _) if answer.code == ClaimCode::Closed && !answer.is_final => {
                        closed = Some(answer);
                        following.untold_before = Some(following.tail.next_offset());
                        looking = true;
                        next_look.reset_immediately();
                    }
                    Told::Answer(answer, trace) if following.question.is_answered_by(&answer) => {
                        return Followed::Answer(answer, trace);
                    }
                    Told::Answer(..) => {}
                },
                // A tail that stands still tells nobody: from now on it is looked, until it goes on.
                () = following.tail.until_halted(), if !looking => looking = true,
                _ = next_look.tick(), if looking => {
                    following.untold_before = following.tail.untold_before(following.untold_before);
                    let found = self.stores.look_up(&following.question, false).await;
                    // A retired coupon's claims are closed, whatever became of them before.
                    let parked = found.parked.filter(|offset| !found.retired && following.question.is_of_this_press(*offset));
                    if let Some(offset) = parked {
                        return Followed::Parked(offset);
                    }
                    if let Some(refusal) = found.already_issued {
                        return Followed::AlreadyIssued(refusal);
                    }
                    if let Some(answer) = found.answer.filter(|answer| following.question.is_answered_by(answer)) {
                        return Followed::Answer(answer, None);
                    }
                    let untold_before = following.untold_before;
                    if untold_before.is_some_and(|untold| found.complete_up_to.is_some_and(|offset| offset >= untold)) {
                        looking = false;
                        match closed.filter(|_| found.retired) {
                            Some(answer) => return Followed::Answer(answer, None),
                            None if found.retired && following.was_passed() => return Followed::Forgotten,
                            None => {}
                        }
                    }
                }
            }
        }
    }

    /// One look at the stores, for those who do not wait.
    pub(crate) async fn look(&self, question: &Question, with_coupon: bool) -> Found {
        self.stores.look_up(question, with_coupon).await
    }
}

impl Following {
    /// What is asked for.
    pub(crate) fn question(&self) -> &Question {
        &self.question
    }

    /// Waits until somebody who came later takes the place.
    pub(crate) async fn replaced(&self) {
        while !matches!(self.registration.told().await, Told::Replaced) {}
    }

    /// The partition's tail.
    pub(crate) fn tail(&self) -> &Arc<TailState> {
        &self.tail
    }

    /// True where no answer to this press is still to come past the tail.
    fn was_passed(&self) -> bool {
        self.question.ticket.is_none_or(|ticket| ticket < self.tail.next_src())
    }
}
