//! What a user does next, given what they just heard. No I/O: (state, event) → step.

use std::time::Duration;

use coupon_domain::ClaimId;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::answers::{Accepted, Asked, ClaimAnswer, Code, Pressed, Refused, Said};
use crate::behaviour::{Behaviour, Manner};

/// Streams that may break before the user asks instead.
const STREAM_BREAKS_MAX: u8 = 3;
/// Advisory refusals that a user in doubt takes before believing them.
const LOOKS_MAX: u8 = 20;

/// Times, as (at least, at most).
type Range = (Duration, Duration);

const fn ms(least: u64, most: u64) -> Range {
    (Duration::from_millis(least), Duration::from_millis(most))
}

/// After a coupon has opened, by our clock.
const AFTER_OPENING: Range = ms(0, 200);
/// Open by our clock, but not by the broker's.
const ALMOST_OPEN: Range = ms(50, 250);
/// While a coupon is paused.
const WHILE_PAUSED: Range = ms(1_000, 1_500);
/// After a press without an answer.
const AFTER_LOSS: Range = ms(50, 300);
/// After a stream or a connection broke.
const AFTER_BREAK: Range = ms(100, 600);
/// After an answer from before this press.
const AFTER_STALE: Range = ms(100, 300);
/// After a wait that came to nothing.
const AFTER_PENDING: Range = ms(50, 150);
/// After an advisory refusal, with nothing to be found.
const AFTER_NOTHING: Range = ms(500, 1_000);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Press the button.
    Press { after: Duration, manner: Manner },
    /// Follow the claim by its events.
    Stream { after: Duration },
    /// GET the claim, waiting for its answer or not.
    Ask { after: Duration, patient: bool },
    /// It is over.
    End(Ending),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A coupon, by this claim.
    Granted(ClaimId),
    /// None, for this reason.
    Refused(Code),
    /// No answer. A promise broken.
    Unresolved(String),
}

/// A user.
#[derive(Debug)]
pub(crate) struct User {
    behaviour: Behaviour,
    random: SmallRng,
    stage: Stage,
    /// A press of this user may stand in line without the user having been told so.
    in_doubt: bool,
    stream_breaks: u8,
    looks: u8,
}

#[derive(Debug)]
enum Stage {
    /// No claim is known to stand in line.
    Pressing,
    /// A claim stands in line.
    Following(Accepted),
    /// Refused, but the gateway could not see everything.
    LookingUp { claim_id: ClaimId, refusal: Code },
}

impl User {
    /// Somebody who has not pressed yet.
    pub(crate) fn new(behaviour: Behaviour, random: SmallRng) -> Self {
        Self { behaviour, random, stage: Stage::Pressing, in_doubt: false, stream_breaks: 0, looks: 0 }
    }

    /// The first thing to do.
    pub(crate) fn begin(&self) -> Step {
        Step::Press { after: Duration::ZERO, manner: self.behaviour.first_press }
    }

    /// The claim whose answer is awaited.
    pub(crate) fn claim_id(&self) -> Option<ClaimId> {
        match &self.stage {
            Stage::Pressing => None,
            Stage::Following(accepted) => Some(accepted.claim_id),
            Stage::LookingUp { claim_id, .. } => Some(*claim_id),
        }
    }

    /// The token of the awaited claim's events.
    pub(crate) fn stream_token(&self) -> Option<&str> {
        match &self.stage {
            Stage::Following(accepted) => Some(&accepted.stream_token),
            _ => None,
        }
    }

    /// Where the last press stands in line, if that is known.
    pub(crate) fn ticket(&self) -> Option<i64> {
        match &self.stage {
            Stage::Following(accepted) => accepted.ticket,
            _ => None,
        }
    }

    /// What the user is about, for those whom the deadline finds here.
    pub(crate) fn doing(&self) -> &'static str {
        match &self.stage {
            Stage::Pressing => "pressing",
            Stage::Following(_) => "following a claim in line",
            Stage::LookingUp { .. } => "looking up an advisory refusal",
        }
    }

    /// After a press. `until_open` is zero once the coupon has opened by our clock.
    pub(crate) fn pressed(&mut self, answer: Pressed, until_open: Duration) -> Step {
        match answer {
            Pressed::Accepted(accepted) => {
                // Whatever else this user has in line is the same claim.
                self.in_doubt = false;
                self.stage = Stage::Following(accepted);
                self.follow(Duration::ZERO)
            }
            Pressed::Decided(answer) => self.conclude(answer, until_open),
            Pressed::Refused(refused) if refused.is_deferral() => {
                self.press_again_later(&refused.code, until_open)
            }
            Pressed::Refused(Refused { code, claim_id: Some(claim_id), advisory: true }) => {
                self.stage = Stage::LookingUp { claim_id, refusal: code };
                Step::Ask { after: Duration::ZERO, patient: false }
            }
            Pressed::Refused(refused) => Step::End(Ending::Refused(refused.code)),
            Pressed::Busy(busy) => {
                self.in_doubt |= busy.in_doubt;
                let after = self.jittered(busy.after);
                self.press_after(after)
            }
            Pressed::Lost => {
                self.in_doubt = true;
                let after = self.within(AFTER_LOSS);
                self.press_after(after)
            }
            Pressed::Wrong(what) => Step::End(Ending::Unresolved(what)),
        }
    }

    /// After a look at the claim, by stream or GET.
    pub(crate) fn asked(&mut self, answer: Asked, until_open: Duration) -> Step {
        match answer {
            Asked::Answer(answer) => self.conclude(answer, until_open),
            Asked::Pending if matches!(self.stage, Stage::LookingUp { .. }) => self.found_nothing(),
            Asked::Pending => Step::Ask { after: self.within(AFTER_PENDING), patient: true },
            Asked::Busy(after) => {
                let after = self.jittered(after);
                self.follow(after)
            }
            Asked::Broken(hint) => {
                self.stream_breaks = self.stream_breaks.saturating_add(1);
                let after = hint.unwrap_or_else(|| self.within(AFTER_BREAK));
                self.follow(after)
            }
            Asked::NoStream => Step::Ask { after: Duration::ZERO, patient: true },
            Asked::Wrong(what) => Step::End(Ending::Unresolved(what)),
        }
    }

    fn conclude(&mut self, answer: ClaimAnswer, until_open: Duration) -> Step {
        match answer.said {
            Said::Granted => Step::End(Ending::Granted(answer.claim_id)),
            Said::Refused(code) => Step::End(Ending::Refused(code)),
            Said::Parked => Step::End(Ending::Refused("parked".into())),
            Said::Deferred(code) => match &self.stage {
                // The refusal is newer than this deferral.
                Stage::LookingUp { .. } => self.found_nothing(),
                Stage::Following(accepted) if is_stale(answer.decided_offset, accepted.ticket) => {
                    let after = self.within(AFTER_STALE);
                    self.follow(after)
                }
                _ => self.press_again_later(&code, until_open),
            },
        }
    }

    /// Nothing is known of a claim that was refused. Whoever may stand in line presses again until the refusal is more than advice: looking
    /// alone cannot tell "not yet" from "never".
    fn found_nothing(&mut self) -> Step {
        match &self.stage {
            Stage::LookingUp { refusal, .. } if !self.in_doubt || self.looks >= LOOKS_MAX => {
                Step::End(Ending::Refused(refusal.clone()))
            }
            _ => {
                self.looks += 1;
                let after = self.within(AFTER_NOTHING);
                self.press_after(after)
            }
        }
    }

    fn press_again_later(&mut self, code: &str, until_open: Duration) -> Step {
        let after = match code {
            "paused" => self.within(WHILE_PAUSED),
            _ if until_open.is_zero() => self.within(ALMOST_OPEN),
            _ => until_open + self.within(AFTER_OPENING),
        };
        self.press_after(after)
    }

    fn press_after(&mut self, after: Duration) -> Step {
        self.stage = Stage::Pressing;
        Step::Press { after, manner: Manner::Single }
    }

    fn follow(&mut self, after: Duration) -> Step {
        let by_events = matches!(self.stage, Stage::Following(_))
            && self.behaviour.streams
            && self.stream_breaks < STREAM_BREAKS_MAX;
        if by_events {
            return Step::Stream { after };
        }
        Step::Ask { after, patient: !matches!(self.stage, Stage::LookingUp { .. }) }
    }

    fn within(&mut self, (least, most): Range) -> Duration {
        self.random.random_range(least..=most)
    }

    /// A wait that a server asked for, and up to half of it more: not all at once again.
    fn jittered(&mut self, after: Duration) -> Duration {
        after.mul_f64(self.random.random_range(1.0..=1.5))
    }
}

/// A deferral from before this press: the log has not answered the press yet.
pub(crate) fn is_stale(decided_offset: Option<i64>, ticket: Option<i64>) -> bool {
    matches!((decided_offset, ticket), (Some(decided), Some(ticket)) if decided < ticket)
}

/// Which of two answers to a double click counts: the one that says most.
pub(crate) fn better(one: Pressed, other: Pressed) -> Pressed {
    if rank(&other) < rank(&one) { other } else { one }
}

/// True where no other answer could say more: the user goes on.
pub(crate) fn is_decisive(answer: &Pressed) -> bool {
    matches!(answer, Pressed::Accepted(_) | Pressed::Decided(_))
}

fn rank(answer: &Pressed) -> u8 {
    match answer {
        Pressed::Decided(_) => 0,
        Pressed::Accepted(_) => 1,
        // A deferral is no refusal: the other press came a moment too early.
        Pressed::Refused(refused) if refused.is_deferral() => 2,
        // With an answer lost or in doubt, pressing again tells more than a refusal that could not see it.
        Pressed::Refused(refused) if !refused.advisory => 3,
        Pressed::Lost => 4,
        Pressed::Busy(_) => 5,
        Pressed::Refused(_) => 6,
        Pressed::Wrong(_) => 7,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::answers::Busy;

    const OPEN: Duration = Duration::ZERO;

    fn user(first_press: Manner, streams: bool) -> User {
        User::new(Behaviour { first_press, streams }, SmallRng::seed_from_u64(3))
    }

    fn claim_id() -> ClaimId {
        format!("c0-{}.0.0.{}", "1".repeat(32), "2".repeat(32)).parse().unwrap()
    }

    fn accepted(ticket: Option<i64>) -> Pressed {
        Pressed::Accepted(Accepted { claim_id: claim_id(), ticket, stream_token: "token".to_owned() })
    }

    fn refused(code: &'static str, advisory: bool) -> Pressed {
        Pressed::Refused(Refused { code: code.into(), claim_id: Some(claim_id()), advisory })
    }

    fn busy(in_doubt: bool) -> Pressed {
        let after = Duration::from_secs(1);
        Pressed::Busy(Busy { code: "overloaded".into(), after, in_doubt, claim_id: None })
    }

    fn answer(said: Said, decided_offset: i64) -> ClaimAnswer {
        let decided_offset = Some(decided_offset);
        ClaimAnswer { claim_id: claim_id(), said, decided_offset, coupon_code: None }
    }

    fn deferred(code: &'static str, decided_offset: i64) -> Asked {
        Asked::Answer(answer(Said::Deferred(code.into()), decided_offset))
    }

    fn pressing_after(step: Step) -> Duration {
        match step {
            Step::Press { after, manner: Manner::Single } => after,
            other => panic!("{other:?} is not one press"),
        }
    }

    fn end(code: &'static str) -> Step {
        Step::End(Ending::Refused(code.into()))
    }

    #[test]
    fn a_claim_in_line_is_followed_as_the_user_likes() {
        let mut streaming = user(Manner::Double, true);
        assert_eq!(streaming.begin(), Step::Press { after: Duration::ZERO, manner: Manner::Double });
        assert_eq!(streaming.pressed(accepted(Some(7)), OPEN), Step::Stream { after: Duration::ZERO });
        assert_eq!((streaming.claim_id(), streaming.stream_token()), (Some(claim_id()), Some("token")));
        let mut asking = user(Manner::Single, false);
        assert_eq!(
            asking.pressed(accepted(Some(7)), OPEN),
            Step::Ask { after: Duration::ZERO, patient: true }
        );
        let granted = Asked::Answer(answer(Said::Granted, 7));
        assert_eq!(asking.asked(granted, OPEN), Step::End(Ending::Granted(claim_id())));
    }

    #[test]
    fn a_200_ends_it_at_once() {
        let granted = Pressed::Decided(answer(Said::Granted, 7));
        assert_eq!(user(Manner::Single, true).pressed(granted, OPEN), Step::End(Ending::Granted(claim_id())));
        let lost = Pressed::Decided(answer(Said::Refused("sold_out".into()), 7));
        assert_eq!(user(Manner::Single, true).pressed(lost, OPEN), end("sold_out"));
    }

    #[test]
    fn not_open_is_pressed_again_at_the_opening() {
        let until_open = Duration::from_secs(3);
        for step in [user(Manner::Single, true).pressed(refused("not_open", false), until_open), {
            let mut user = user(Manner::Single, true);
            user.pressed(accepted(Some(7)), until_open);
            user.asked(deferred("not_open", 7), until_open)
        }] {
            let after = pressing_after(step);
            assert!(after >= until_open && after <= until_open + Duration::from_millis(200), "{after:?}");
        }
        let after = pressing_after(user(Manner::Single, true).pressed(refused("not_open", true), OPEN));
        assert!(after >= Duration::from_millis(50), "open by our clock alone: {after:?}");
    }

    #[test]
    fn paused_is_pressed_again_after_a_second() {
        let after = pressing_after(user(Manner::Single, true).pressed(refused("paused", false), OPEN));
        assert!(after >= Duration::from_secs(1));
    }

    #[test]
    fn a_deferral_from_before_this_press_is_no_answer() {
        let mut asking = user(Manner::Single, false);
        asking.pressed(accepted(Some(7)), OPEN);
        assert!(matches!(asking.asked(deferred("not_open", 6), OPEN), Step::Ask { patient: true, .. }));
        pressing_after(asking.asked(deferred("not_open", 7), OPEN));
        let mut without_ticket = user(Manner::Single, false);
        without_ticket.pressed(accepted(None), OPEN);
        pressing_after(without_ticket.asked(deferred("not_open", 6), OPEN));
    }

    #[test]
    fn a_refusal_ends_it_unless_it_is_only_advice() {
        assert_eq!(user(Manner::Single, true).pressed(refused("sold_out", false), OPEN), end("sold_out"));
        let look = Step::Ask { after: Duration::ZERO, patient: false };
        let mut told = user(Manner::Single, true);
        assert_eq!(told.pressed(refused("sold_out", true), OPEN), look);
        assert_eq!(told.claim_id(), Some(claim_id()));
        let granted = Asked::Answer(answer(Said::Granted, 7));
        assert_eq!(told.asked(granted, OPEN), Step::End(Ending::Granted(claim_id())));
        for nothing in [Asked::Pending, deferred("not_open", 3)] {
            let mut nobody = user(Manner::Single, true);
            assert_eq!(nobody.pressed(refused("closed", true), OPEN), look);
            assert_eq!(nobody.asked(nothing, OPEN), end("closed"));
        }
    }

    #[test]
    fn whoever_may_stand_in_line_presses_until_it_is_certain() {
        for doubt in [Pressed::Lost, busy(true)] {
            let mut user = user(Manner::LosingTheAnswer, true);
            pressing_after(user.pressed(doubt, OPEN));
            let look = Step::Ask { after: Duration::ZERO, patient: false };
            assert_eq!(user.pressed(refused("sold_out", true), OPEN), look);
            assert!(pressing_after(user.asked(Asked::Pending, OPEN)) >= Duration::from_millis(500));
            assert_eq!(user.pressed(refused("sold_out", false), OPEN), end("sold_out"));
        }
    }

    #[test]
    fn whoever_is_only_ever_advised_gives_up_in_the_end() {
        let mut user = user(Manner::LosingTheAnswer, true);
        pressing_after(user.pressed(Pressed::Lost, OPEN));
        for _ in 0..LOOKS_MAX {
            user.pressed(refused("sold_out", true), OPEN);
            pressing_after(user.asked(Asked::Pending, OPEN));
        }
        user.pressed(refused("sold_out", true), OPEN);
        assert_eq!(user.asked(Asked::Pending, OPEN), end("sold_out"));
    }

    #[test]
    fn a_busy_service_is_left_alone_as_long_as_it_asked() {
        let after = pressing_after(user(Manner::Single, true).pressed(busy(false), OPEN));
        assert!(after >= Duration::from_secs(1) && after <= Duration::from_millis(1_500), "{after:?}");
        let mut following = user(Manner::Single, true);
        following.pressed(accepted(None), OPEN);
        let step = following.asked(Asked::Busy(Duration::from_secs(2)), OPEN);
        assert!(matches!(step, Step::Stream { after } if after >= Duration::from_secs(2)));
    }

    #[test]
    fn a_stream_that_keeps_breaking_is_given_up_for_asking() {
        let mut user = user(Manner::Single, true);
        user.pressed(accepted(None), OPEN);
        let hint = Duration::from_millis(2_345);
        assert_eq!(user.asked(Asked::Broken(Some(hint)), OPEN), Step::Stream { after: hint });
        assert!(matches!(user.asked(Asked::Broken(None), OPEN), Step::Stream { .. }));
        assert!(matches!(user.asked(Asked::Broken(None), OPEN), Step::Ask { patient: true, .. }));
        assert!(matches!(user.asked(Asked::Pending, OPEN), Step::Ask { patient: true, .. }));
    }

    #[test]
    fn a_stream_that_has_nothing_to_say_is_given_up_for_asking() {
        let mut user = user(Manner::Single, true);
        user.pressed(accepted(None), OPEN);
        assert_eq!(user.asked(Asked::NoStream, OPEN), Step::Ask { after: Duration::ZERO, patient: true });
    }

    #[test]
    fn what_nobody_can_mend_stays_unresolved() {
        let step = user(Manner::Single, true).pressed(Pressed::Wrong("401 unauthorized".to_owned()), OPEN);
        assert_eq!(step, Step::End(Ending::Unresolved("401 unauthorized".to_owned())));
    }

    #[test]
    fn the_better_answer_to_a_double_click_counts() {
        let granted = || Pressed::Decided(answer(Said::Granted, 7));
        assert_eq!(better(refused("sold_out", false), granted()), granted());
        assert_eq!(better(accepted(None), busy(true)), accepted(None));
        assert_eq!(better(Pressed::Lost, refused("sold_out", true)), Pressed::Lost);
        assert_eq!(better(refused("sold_out", false), busy(true)), refused("sold_out", false));
        assert_eq!(better(refused("paused", false), refused("sold_out", false)), refused("paused", false));
        assert!(is_decisive(&granted()) && is_decisive(&accepted(None)) && !is_decisive(&busy(false)));
    }
}
