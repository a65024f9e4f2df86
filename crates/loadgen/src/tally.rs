//! Adds the users' stories up, and holds what they heard against the promises.

use std::collections::HashMap;
use std::time::Duration;

use coupon_domain::ClaimId;

use crate::answers::CouponView;
use crate::latency::Recorder;
use crate::report::{ByCode, CouponAtEnd, Followed, Latencies, Pressed};
use crate::story::{Channel, Heard, Press, Story, Word, WordKind};
use crate::user::Ending;
use crate::violation::{Check, Violation, Violations};

/// The sum of all stories so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) users: u64,
    pub(crate) granted: u64,
    pub(crate) refused: ByCode,
    pub(crate) unresolved: u64,
    pub(crate) pressed: Pressed,
    pub(crate) followed: Followed,
    client_late: Recorder,
    press_to_answer: Recorder,
    told_by_press: Recorder,
    told_by_stream: Recorder,
    told_by_ask: Recorder,
    arrival_to_told: Recorder,
    /// Whose each shown code is.
    codes: HashMap<String, u32>,
    violations: Violations,
    /// Users whose presses named claims of several rounds: right only if the coupon was restocked meanwhile.
    of_other_rounds: Vec<String>,
}

impl Tally {
    /// Takes in a story.
    pub(crate) fn take(&mut self, story: Story) {
        self.users += 1;
        self.client_late.record(story.late);
        for press in &story.presses {
            self.press(press);
        }
        self.pressed.again += u64::from(story.again);
        self.follow(&story);
        self.check_claim_ids(&story);
        self.check_words(&story);
        match &story.ending {
            Ending::Granted(_) => self.granted += 1,
            Ending::Refused(code) => count(&mut self.refused, code),
            Ending::Unresolved(why) => {
                self.unresolved += 1;
                self.violations.add(Check::Told, || format!("user {}: {why}", story.number));
            }
        }
        if let Some(told) = story.told {
            self.arrival_to_told.record(told.after_arrival);
            let channel = match told.by {
                Channel::Press => &mut self.told_by_press,
                Channel::Stream => &mut self.told_by_stream,
                Channel::Ask => &mut self.told_by_ask,
            };
            channel.record(told.after_press);
        }
        self.check_code(story);
    }

    fn press(&mut self, press: &Press) {
        let pressed = &mut self.pressed;
        pressed.sent += 1;
        if !matches!(press.heard, Heard::Lost | Heard::Aborted) {
            self.press_to_answer.record(press.took);
        }
        match &press.heard {
            Heard::Accepted => pressed.accepted += 1,
            Heard::Decided => pressed.decided += 1,
            Heard::Deferred(code) => count(&mut pressed.deferred, code),
            Heard::Refused { code, advisory } => {
                count(&mut pressed.refused, code);
                pressed.advisory += u64::from(*advisory);
            }
            Heard::Busy(code) => count(&mut pressed.busy, if code.is_empty() { "no_code" } else { code }),
            Heard::Lost => pressed.lost += 1,
            Heard::Aborted => pressed.aborted += 1,
            Heard::Wrong => pressed.wrong += 1,
        }
    }

    fn follow(&mut self, story: &Story) {
        let (all, one) = (&mut self.followed, &story.follow);
        all.streams += u64::from(one.streams);
        all.reconnects += u64::from(one.reconnects);
        all.streams_denied += u64::from(one.streams_denied);
        all.asks += u64::from(one.asks);
        all.advisory_looks += u64::from(one.advisory_looks);
        all.deferred += u64::from(one.deferred);
        all.stale_deferrals += u64::from(one.stale_deferrals);
        all.connection_waits += u64::from(one.connection_waits);
    }

    /// Within a round a user has one claim; a claim of another round is right where it is an earlier one's answer (200), or after a restock.
    fn check_claim_ids(&mut self, story: &Story) {
        let mut first: Option<ClaimId> = None;
        let pressed =
            story.presses.iter().filter_map(|press| Some((press.claim_id?, press.heard == Heard::Decided)));
        let said = story.words.iter().map(|word| (word.claim_id, true));
        for (claim_id, may_be_earlier) in pressed.chain(said) {
            let known = *first.get_or_insert(claim_id);
            if known == claim_id {
                continue;
            }
            let what = || format!("user {} pressed for {known} and for {claim_id}", story.number);
            if known.round == claim_id.round {
                self.violations.add(Check::OneClaim, what);
            } else if !(may_be_earlier && claim_id.round < known.round) {
                self.of_other_rounds.push(what());
            }
        }
    }

    /// Whatever was said for good about one claim is the same.
    fn check_words(&mut self, story: &Story) {
        for (index, one) in story.words.iter().enumerate() {
            for other in story.words.iter().skip(index + 1) {
                if one.claim_id == other.claim_id && contradict(one, other) {
                    self.violations.add(Check::OneOutcome, || {
                        let (one, said, then) = (one.claim_id, spell(&one.kind), spell(&other.kind));
                        format!("user {} was told {said}, then {then} of {one}", story.number)
                    });
                    return;
                }
            }
        }
    }

    fn check_code(&mut self, story: Story) {
        let (Ending::Granted(_), Some(code)) = (&story.ending, story.coupon_code) else { return };
        self.followed.codes_shown += 1;
        if let Some(other) = self.codes.insert(code, story.number) {
            let what = || format!("users {other} and {} have the same code", story.number);
            self.violations.add(Check::DistinctCodes, what);
        }
    }

    /// Holds the sum against the coupon, as it was before and is now.
    pub(crate) fn check_coupon(
        &mut self,
        before: &CouponView,
        after: &CouponView,
        expect: Expect,
    ) -> CouponAtEnd {
        let granted = self.granted;
        let at_end = at_end(before, after);
        if granted > after.quantity {
            let what = || format!("{granted} users were granted one of {}", after.quantity);
            self.violations.add(Check::NoOversell, what);
        }
        if !agrees(granted, at_end, expect) {
            let CouponAtEnd { issued, issued_before, .. } = at_end;
            self.violations.add(Check::Agree, || {
                format!("{granted} users were granted a coupon, {issued} are issued, {issued_before} were before they came")
            });
        }
        let restocked = (before.quantity, before.round) != (after.quantity, after.round);
        let told_sold_out = self.refused.get("sold_out").copied().unwrap_or(0);
        if !restocked && told_sold_out > 0 && after.remaining > 0 {
            self.violations.add(Check::FirstCome, || {
                format!("{told_sold_out} users were told sold_out, but {} are left", after.remaining)
            });
        }
        if expect.sold_out && after.remaining > 0 {
            self.violations.add(Check::SoldOut, || format!("{} are left", after.remaining));
        }
        if before.round == after.round {
            for what in std::mem::take(&mut self.of_other_rounds) {
                self.violations.add(Check::OneClaim, || what);
            }
        }
        at_end
    }

    pub(crate) fn latencies(&self) -> Latencies {
        Latencies {
            client_late: self.client_late.summary(),
            press_to_answer: self.press_to_answer.summary(),
            told_by_press: self.told_by_press.summary(),
            told_by_stream: self.told_by_stream.summary(),
            told_by_ask: self.told_by_ask.summary(),
            arrival_to_told: self.arrival_to_told.summary(),
        }
    }

    pub(crate) fn into_violations(self) -> Vec<Violation> {
        self.violations.into_vec()
    }
}

/// What is expected of the coupon at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect {
    /// Nothing is left.
    pub(crate) sold_out: bool,
    /// All that is issued meanwhile is issued to this crowd, and it had nothing before.
    pub(crate) alone: bool,
}

/// True where the users' grants and the coupon's counter agree.
pub(crate) fn agrees(granted: u64, coupon: CouponAtEnd, expect: Expect) -> bool {
    let CouponAtEnd { issued, issued_before, .. } = coupon;
    if expect.alone { granted == issued.saturating_sub(issued_before) } else { granted <= issued }
}

/// Where the coupon stands.
pub(crate) fn at_end(before: &CouponView, after: &CouponView) -> CouponAtEnd {
    CouponAtEnd {
        quantity: after.quantity,
        issued: after.quantity.saturating_sub(after.remaining),
        issued_before: before.quantity.saturating_sub(before.remaining),
    }
}

fn contradict(one: &Word, other: &Word) -> bool {
    match (&one.kind, &other.kind) {
        (WordKind::Final(one), WordKind::Final(other)) => one != other,
        // A gateway's refusal may be of another kind than what the log says later (sold out, then closed), but never hides a grant.
        (WordKind::Final(None), WordKind::Refusal(_)) | (WordKind::Refusal(_), WordKind::Final(None)) => true,
        _ => false,
    }
}

fn spell(kind: &WordKind) -> String {
    match kind {
        WordKind::Final(None) => "granted".to_owned(),
        WordKind::Final(Some(code)) => code.to_string(),
        WordKind::Refusal(code) => format!("{code} (by the gateway)"),
    }
}

fn count(codes: &mut ByCode, code: &str) {
    if let Some(count) = codes.get_mut(code) {
        *count += 1;
    } else {
        codes.insert(code.to_owned(), 1);
    }
}

/// From the first arrival to the last, per second.
pub(crate) fn rate(users: u64, took: Duration) -> f64 {
    let users = u32::try_from(users).map_or(f64::INFINITY, f64::from);
    let seconds = took.as_secs_f64();
    if seconds > 0.0 { users / seconds } else { users }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::answers::Code;
    use crate::story::ToldAt;

    fn claim_id(round: u8, mac: char) -> ClaimId {
        let (unique, mac) = ("1".repeat(32), mac.to_string().repeat(32));
        format!("c0-{unique}.{round}.0.{mac}").parse().unwrap()
    }

    fn press(heard: Heard, claim_id: Option<ClaimId>) -> Press {
        Press { took: Duration::from_millis(3), heard, claim_id }
    }

    fn story(number: u32, ending: Ending) -> Story {
        let told = ToldAt {
            by: Channel::Stream,
            at: Instant::now(),
            after_press: Duration::from_millis(5),
            after_arrival: Duration::from_millis(9),
        };
        Story { ending, told: Some(told), ..Story::new(number) }
    }

    fn granted(number: u32) -> Story {
        let claim_id = claim_id(0, '2');
        let mut story = story(number, Ending::Granted(claim_id));
        story.presses.push(press(Heard::Accepted, Some(claim_id)));
        story.words.push(Word { claim_id, kind: WordKind::Final(None) });
        story.coupon_code = Some(format!("CODE-{number}"));
        story
    }

    fn sold_out(number: u32) -> Story {
        let mut story = story(number, Ending::Refused("sold_out".into()));
        let refused = Heard::Refused { code: "sold_out".into(), advisory: false };
        story.presses.push(press(refused, Some(claim_id(0, '2'))));
        story
    }

    fn coupon(quantity: u64, remaining: u64, round: u8) -> CouponView {
        CouponView { quantity, remaining, round, per_user_limit: 1, opens_at: String::new() }
    }

    const ALONE: Expect = Expect { sold_out: true, alone: true };

    /// The checks that fail for these stories and a coupon of two that is sold out.
    fn failed(stories: Vec<Story>, issued: u64) -> Vec<Check> {
        failed_of(stories, &coupon(2, 2, 0), &coupon(2, 2 - issued, 0), ALONE)
    }

    fn failed_of(stories: Vec<Story>, before: &CouponView, after: &CouponView, expect: Expect) -> Vec<Check> {
        let mut tally = Tally::default();
        for story in stories {
            tally.take(story);
        }
        tally.check_coupon(before, after, expect);
        tally.into_violations().into_iter().map(|violation| violation.check).collect()
    }

    #[test]
    fn a_clean_crowd_is_clean_and_adds_up() {
        let mut tally = Tally::default();
        for story in [granted(0), granted(1), sold_out(2)] {
            tally.take(story);
        }
        assert_eq!((tally.users, tally.granted, tally.unresolved), (3, 2, 0));
        assert_eq!(tally.refused.get("sold_out"), Some(&1));
        assert_eq!((tally.pressed.sent, tally.pressed.accepted, tally.followed.codes_shown), (3, 2, 2));
        assert_eq!(tally.latencies().told_by_stream.count, 3);
        assert_eq!(failed(vec![granted(0), granted(1), sold_out(2)], 2), []);
    }

    #[test]
    fn one_too_many_is_an_oversell() {
        let checks = failed(vec![granted(0), granted(1), granted(2)], 2);
        assert_eq!(checks, [Check::NoOversell, Check::Agree]);
    }

    #[test]
    fn grants_that_nobody_was_told_of_are_missed() {
        assert_eq!(failed(vec![granted(0), sold_out(1)], 2), [Check::Agree]);
        let shared = Expect { alone: false, ..ALONE };
        assert_eq!(failed_of(vec![granted(0)], &coupon(2, 2, 0), &coupon(2, 0, 0), shared), []);
    }

    #[test]
    fn sold_out_with_something_left_is_a_leak_unless_restocked() {
        let patient = Expect { sold_out: false, alone: true };
        let stories = || vec![granted(0), sold_out(1)];
        let checks = failed_of(stories(), &coupon(2, 2, 0), &coupon(2, 1, 0), patient);
        assert_eq!(checks, [Check::FirstCome]);
        assert_eq!(failed_of(stories(), &coupon(1, 1, 0), &coupon(2, 1, 1), patient), []);
        assert_eq!(failed(vec![granted(0)], 1), [Check::SoldOut]);
    }

    #[test]
    fn whoever_was_told_nothing_breaks_a_promise() {
        let nobody = story(7, Ending::Unresolved("pressing when the deadline came".to_owned()));
        assert_eq!(failed(vec![granted(0), granted(1), nobody], 2), [Check::Told]);
    }

    #[test]
    fn two_claims_of_one_user_break_a_promise() {
        let mut two = granted(0);
        two.presses.push(press(Heard::Accepted, Some(claim_id(0, '3'))));
        assert_eq!(failed(vec![two, granted(1)], 2), [Check::OneClaim]);
    }

    #[test]
    fn a_claim_of_an_earlier_round_is_right_as_an_answer_only() {
        let in_round = |round, heard| {
            let mut story = granted(0);
            story.presses.push(press(heard, Some(claim_id(round, '3'))));
            story
        };
        let (before, after) = (coupon(2, 2, 1), coupon(2, 1, 1));
        let check = |story: Story, after: &CouponView| {
            failed_of(vec![story], &before, after, Expect { sold_out: false, alone: true })
        };
        let mut earlier = in_round(0, Heard::Decided);
        earlier.presses[0].claim_id = Some(claim_id(1, '2'));
        earlier.words.clear();
        assert_eq!(check(earlier, &after), []);
        assert_eq!(check(in_round(1, Heard::Accepted), &after), [Check::OneClaim]);
        assert_eq!(check(in_round(1, Heard::Accepted), &coupon(3, 2, 2)), [], "restocked meanwhile");
    }

    #[test]
    fn granted_and_refused_of_one_claim_contradict() {
        let (same, other) = (claim_id(0, '2'), claim_id(1, '3'));
        let with = |claim_id, kind| {
            let mut story = granted(0);
            story.words.push(Word { claim_id, kind });
            failed_of(
                vec![story],
                &coupon(2, 2, 0),
                &coupon(2, 1, 1),
                Expect { sold_out: false, alone: true },
            )
        };
        let sold_out = || Code::from("sold_out");
        assert_eq!(with(same, WordKind::Refusal(sold_out())), [Check::OneOutcome]);
        assert_eq!(with(same, WordKind::Final(Some(sold_out()))), [Check::OneOutcome]);
        assert_eq!(with(same, WordKind::Final(None)), []);
        assert_eq!(with(other, WordKind::Refusal(sold_out())), [], "another round's claim is another");
    }

    #[test]
    fn two_users_with_one_code_break_a_promise() {
        let mut copy = granted(1);
        copy.coupon_code = Some("CODE-0".to_owned());
        assert_eq!(failed(vec![granted(0), copy], 2), [Check::DistinctCodes]);
    }

    #[test]
    fn a_rate_is_per_second() {
        assert!((rate(10_000, Duration::from_secs(2)) - 5_000.0).abs() < f64::EPSILON);
        assert!(rate(1, Duration::ZERO).is_finite());
    }
}
