//! Rules that short random lines do not reach, and checkpoints that must be refused.

use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::claim_id::{Round, Slot};
use crate::command::Change;
use crate::coupon::{UncheckedDefinition, Window};
use crate::keys::Key;
use crate::limits::{QUANTITY_MAX, ROUND_MAX};
use crate::user_id::UserId;

struct Line {
    ledger: Ledger,
    key: Key,
    coupon_id: CouponId,
    now: i64,
    commands: u32,
}

impl Line {
    fn of(quantity: u64, per_user_limit: u64) -> Self {
        Self::by_rules(1, quantity, per_user_limit)
    }

    fn by_rules(rules: u16, quantity: u64, per_user_limit: u64) -> Self {
        let partition = Partition::new(1).unwrap();
        let mut line = Self {
            ledger: Ledger::new(partition),
            key: Key::from_secret(&[7; 32]).unwrap(),
            coupon_id: CouponId::new(partition, Uuid::from_u128(1)),
            now: 1_000,
            commands: 0,
        };
        let raw = UncheckedDefinition {
            name: "Tea".to_owned(),
            quantity,
            per_user_limit,
            opens_at: 1_000,
            closes_at: 9_000,
            expiry: None,
            rules,
            key_id: "k1".parse().unwrap(),
        };
        line.run(Change::Publish(Arc::new(raw.check().unwrap())));
        line
    }

    fn next(&mut self, input: Input) -> Outcome {
        let appended_at = Timestamp::from_ms(self.now).unwrap();
        let src_offset = self.ledger.next_src();
        self.ledger.fold(LogRecord { src_offset, appended_at, body: Body::Readable(input) }).unwrap()
    }

    fn run(&mut self, change: Change) -> CommandOutcome {
        self.commands += 1;
        let key = format!("command-{}", self.commands).parse().unwrap();
        let command = Command {
            command_id: self.key.command_id(self.coupon_id, change.kind(), &key),
            change,
            expected_version: None,
            reason: None,
            actor: "operator".parse().unwrap(),
        };
        match self.next(Input::Command(command)).subject {
            Subject::Command(outcome) => *outcome,
            other => panic!("{other:?}"),
        }
    }

    fn claim(&mut self, user: &str, round: u8, slot: u64) -> ClaimOutcome {
        let user_id: UserId = user.parse().unwrap();
        let claim_id = self.key.claim_id(self.coupon_id, &user_id, Round::new(round).unwrap(), Slot(slot));
        let claim = Claim { claim_id, user_id, received_at: Timestamp::EPOCH };
        match self.next(Input::Claim(claim)).subject {
            Subject::Claim(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn there_are_thirty_one_restocks_and_no_more() {
    let mut line = Line::of(1, 1);
    for round in 1..=ROUND_MAX {
        let outcome = line.run(Change::Restock(1));
        assert_eq!(outcome.state.unwrap().round.number(), round);
    }
    assert_eq!(line.run(Change::Restock(1)).refusal, Some(Refusal::RoundsExhausted));
    assert_eq!(line.run(Change::Restock(-1)).code, CommandCode::Applied);
}

#[test]
fn the_largest_quantity_is_a_limit_for_restocks_too() {
    let mut line = Line::of(u64::from(QUANTITY_MAX) - 1, 1);
    assert_eq!(line.run(Change::Restock(2)).refusal, Some(Refusal::AboveQuantityMax));
    assert_eq!(line.run(Change::Restock(1)).code, CommandCode::Applied);
    let all = i32::try_from(QUANTITY_MAX).unwrap();
    assert_eq!(line.run(Change::Restock(-all)).refusal, Some(Refusal::BelowIssued));
}

#[test]
fn within_a_coupon_the_mac_alone_says_which_claim_it_is() {
    let mut line = Line::of(5, 5);
    let granted = line.claim("ann", 0, 0);
    let forged = ClaimId { round: Round::new(3).unwrap(), slot: Slot(9), ..granted.claim_id };
    let claim = Claim { claim_id: forged, user_id: granted.user_id.clone(), received_at: Timestamp::EPOCH };
    let Subject::Claim(outcome) = line.next(Input::Claim(claim)).subject else {
        panic!("a claim was put in")
    };
    assert_eq!(outcome, ClaimOutcome { claim_id: forged, ..granted });
}

#[test]
fn a_loser_stays_a_loser_under_the_same_claim_after_a_restock() {
    let mut line = Line::of(1, 1);
    line.claim("ann", 0, 0);
    assert_eq!(line.claim("bob", 0, 0).code, ClaimCode::SoldOut);
    line.run(Change::Restock(1));
    assert_eq!(line.claim("bob", 0, 0).code, ClaimCode::SoldOut);
    assert_eq!(line.claim("bob", 1, 0).code, ClaimCode::Granted);
}

#[test]
fn the_same_key_wins_once_across_rounds_and_the_limit_holds() {
    let mut line = Line::of(5, 2);
    assert_eq!(line.claim("ann", 0, 7).user_nth, Some(1));
    line.run(Change::Restock(1));
    let again = line.claim("ann", 1, 7);
    assert_eq!(again.code, ClaimCode::AlreadyIssued);
    assert_eq!(again.granted_claim_id.unwrap().round, Round::FIRST);
    assert_eq!(line.claim("ann", 1, 8).user_nth, Some(2));
    assert_eq!(line.claim("ann", 1, 9).code, ClaimCode::AlreadyIssued);
}

#[test]
fn by_rules_2_a_thousand_keys_of_one_user_leave_nothing_behind() {
    let mut line = Line::by_rules(2, 5, 2);
    let first = line.claim("ann", 0, 1).claim_id;
    line.claim("ann", 0, 2);
    line.claim("bob", 0, 1);
    let before = format!("{:?}", line.ledger.checkpoint().coupons[0].claims);
    for key in 3..1_000 {
        let refused = line.claim("ann", 0, key);
        assert_eq!((refused.code, refused.is_final, refused.rank), (ClaimCode::AlreadyIssued, false, None));
        assert_eq!(refused.granted_claim_id, Some(first));
    }
    assert_eq!(format!("{:?}", line.ledger.checkpoint().coupons[0].claims), before);
    // It never changes, whatever becomes of the coupon meanwhile; what is remembered is told again before it.
    line.run(Change::Pause);
    assert_eq!(line.claim("ann", 0, 3).code, ClaimCode::AlreadyIssued);
    assert_eq!(line.claim("bob", 0, 2).code, ClaimCode::Paused);
    line.now = 9_000;
    assert_eq!(line.claim("ann", 0, 3).code, ClaimCode::AlreadyIssued);
    assert_eq!(line.claim("ann", 0, 1).code, ClaimCode::Granted);
    assert_eq!(line.claim("bob", 0, 2).code, ClaimCode::Closed);
}

#[test]
fn the_end_of_an_open_coupon_may_move_by_rules_2_but_not_its_opening() {
    let window = |opens_at, closes_at| {
        let at = |ms| Timestamp::from_ms(ms).unwrap();
        Change::Reschedule(Window::new(at(opens_at), at(closes_at)).unwrap())
    };
    let mut old = Line::by_rules(1, 1, 1);
    assert_eq!(old.run(window(1_000, 9_500)).refusal, Some(Refusal::AlreadyOpen));
    let mut line = Line::by_rules(2, 1, 1);
    assert_eq!(line.run(window(999, 9_500)).refusal, Some(Refusal::AlreadyOpen));
    assert_eq!(line.run(window(1_000, 9_500)).code, CommandCode::Applied);
    line.now = 9_400;
    assert_eq!(line.claim("ann", 0, 0).code, ClaimCode::Granted);
    // A shorter one too; what is over stays over.
    assert_eq!(line.run(window(1_000, 9_450)).code, CommandCode::Applied);
    line.now = 9_450;
    assert_eq!(line.claim("bob", 0, 0).code, ClaimCode::Closed);
    assert_eq!(line.run(window(1_000, 9_500)).refusal, Some(Refusal::Closed));
}

#[test]
fn a_retired_coupon_forgets_its_claims_and_remembers_its_commands() {
    let mut line = Line::of(2, 1);
    line.claim("ann", 0, 0);
    assert_eq!(line.run(Change::Retire).refusal, Some(Refusal::NotClosed));
    line.now = 9_000;
    assert_eq!(line.run(Change::Retire).code, CommandCode::Applied);
    assert_eq!(line.ledger.settled_count(line.coupon_id), 0);
    let late = line.claim("ann", 0, 0);
    assert_eq!((late.code, late.is_final), (ClaimCode::Closed, false));
    assert_eq!(line.run(Change::Retire).code, CommandCode::NoChange);
    line.commands = 0;
    let again = line.run(Change::Publish(line.ledger.coupon(line.coupon_id).unwrap().definition.clone()));
    assert_eq!((again.code, again.refusal), (CommandCode::Applied, None));
    assert_eq!(line.ledger.coupon(line.coupon_id).unwrap().status, CouponStatus::Retired);
    line.commands = 100;
    assert_eq!(line.run(Change::Restock(1)).refusal, Some(Refusal::Retired));
}

#[test]
fn a_settled_claim_is_as_small_as_the_documentation_says() {
    assert_eq!(size_of::<SettledClaim>(), 48);
}

#[test]
fn torn_checkpoints_are_refused() {
    let mut line = Line::of(2, 2);
    line.claim("ann", 0, 1);
    line.claim("ann", 0, 2);
    line.claim("bob", 0, 3);
    line.claim("ann", 0, 4);
    let whole = line.ledger.checkpoint();
    assert!(Ledger::restore(whole.clone(), DefaultHasher::default()).is_ok());
    let torn = |change: fn(&mut CouponCheckpoint)| {
        let mut checkpoint = whole.clone();
        change(&mut checkpoint.coupons[0]);
        Ledger::restore(checkpoint, DefaultHasher::default()).unwrap_err().problem
    };
    type Tear = fn(&mut CouponCheckpoint);
    let cases: [(Tear, &str); 13] = [
        (|coupon| drop(coupon.claims.remove(1)), "rank is beyond the number of settled claims"),
        (
            |coupon| coupon.claims[1] = FinalClaim { rank: 2, ..coupon.claims[0].clone() },
            "two final outcomes",
        ),
        (|coupon| coupon.claims[1].rank = 1, "rank is another claim's"),
        (|coupon| coupon.claims[0].issue_no = Some(2), "issue number is another claim's"),
        (
            |coupon| {
                (coupon.claims[0].issue_no, coupon.claims[1].issue_no) = (Some(2), Some(1));
            },
            "out of order",
        ),
        (|coupon| coupon.claims[1].user_nth = Some(3), "user_nth"),
        (|coupon| coupon.claims[0].user_id = None, "granted to nobody"),
        (|coupon| coupon.claims[0].code = ClaimCode::SoldOut, "do not fit its code"),
        (|coupon| coupon.claims[3].granted_claim_id = Some(coupon.claims[2].claim_id), "winner that is none"),
        (|coupon| coupon.claims[3].code = ClaimCode::Paused, "do not fit its code"),
        (|coupon| coupon.state.issued = 1, "beyond the number of grants"),
        (|coupon| coupon.state.issued = 3, "leaves a gap"),
        (|coupon| coupon.commands.clear(), "last command has no answer"),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let problem = torn(change);
        assert!(problem.contains(expected), "case {number}: {problem}");
    }
    let mut shuffled = whole.clone();
    shuffled.coupons[0].claims.reverse();
    let restored = Ledger::restore(shuffled, DefaultHasher::default()).unwrap().checkpoint();
    assert_eq!(format!("{restored:?}"), format!("{whole:?}"), "claims may come in any order");
    let mut restoring =
        Restoring::begin(whole.partition, whole.next_src, whole.chain, DefaultHasher::default());
    let coupon = whole.coupons[0].clone();
    restoring.coupon(coupon.state, coupon.commands, 4).unwrap();
    for claim in &coupon.claims[..3] {
        restoring.claim(claim).unwrap();
    }
    assert!(restoring.finish().unwrap_err().problem.contains("4 claims are settled, but 3 are there"));
    let mut newer = whole.clone();
    let mut unchecked = UncheckedDefinition::from(newer.coupons[0].state.definition.as_ref().clone());
    unchecked.rules = crate::coupon::RULES_NEWEST + 1;
    newer.coupons[0].state.definition = Arc::new(unchecked.check().unwrap());
    let refused = Ledger::restore(newer, DefaultHasher::default()).unwrap_err();
    assert_eq!(refused.reason, crate::HaltReason::NewerVersion, "old rules must not decide it: {refused}");
    let mut twice = whole.clone();
    twice.coupons.push(twice.coupons[0].clone());
    assert!(Ledger::restore(twice, DefaultHasher::default()).unwrap_err().problem.contains("twice"));
}

#[test]
fn a_record_that_the_broker_did_not_date_is_answered_whatever_it_says() {
    let mut line = Line::of(2, 2);
    line.claim("ann", 0, 1);
    let record = |body| LogRecord::new(line.ledger.next_src(), None, body);
    let claim = Claim {
        claim_id: line.ledger.settled(line.coupon_id, 0, 1)[0].claim_id(line.coupon_id),
        user_id: "ann".parse().unwrap(),
        received_at: Timestamp::EPOCH,
    };
    let undated = record(Body::Readable(Input::Claim(claim.clone())));
    assert_eq!(undated.appended_at, UNDATED);
    let outcome = line.ledger.clone().fold(undated).unwrap();
    let invalid = InvalidOutcome { reason: InvalidReason::Undated, claim_id: Some(claim.claim_id) };
    assert_eq!(outcome.subject, Subject::Invalid(invalid), "even where the claim has its answer");
    let outcome = line.ledger.clone().fold(record(Body::Undecodable(None))).unwrap();
    assert!(matches!(
        outcome.subject,
        Subject::Invalid(InvalidOutcome { reason: InvalidReason::Undated, .. })
    ));
}

#[test]
fn a_ledger_that_lets_refusals_go_decides_new_claims_as_one_that_keeps_them() {
    let (mut keeps, mut forgets) = (Line::of(3, 2), Line::of(3, 2));
    for number in 0..200 {
        if number == 120 {
            assert_eq!(keeps.run(Change::Restock(2)), forgets.run(Change::Restock(2)));
        }
        let (user, round, slot) = (format!("user-{}", number % 60), u8::from(number >= 120), number / 60);
        let kept = keeps.claim(&user, round, slot);
        let decided = forgets.claim(&user, round, slot);
        assert_eq!(decided, kept, "{number}");
        forgets.ledger.forget_refusal(&decided.claim_id);
        assert_eq!(
            forgets.ledger.settled_count(forgets.coupon_id),
            keeps.ledger.settled_count(keeps.coupon_id)
        );
    }
    let grants = usize::try_from(keeps.ledger.coupon(keeps.coupon_id).unwrap().issued).unwrap();
    assert_eq!(grants, 5);
    assert_eq!(forgets.ledger.settled(forgets.coupon_id, 0, u32::MAX).len(), grants);
    // A repeat is stepped over.
    let repeat = keeps.claim("user-0", 0, 0);
    assert_eq!(repeat.rank, Some(1));
    forgets.ledger.step_over(keeps.ledger.chain());
    assert_eq!(
        (forgets.ledger.next_src(), forgets.ledger.chain()),
        (keeps.ledger.next_src(), keeps.ledger.chain())
    );
    assert_eq!(keeps.claim("cleo", 1, 0), forgets.claim("cleo", 1, 0));
}
