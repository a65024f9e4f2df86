//! The naive reference: no state at all. Every answer is worked out from the whole history of records and answers by
//! reading it again from the beginning, rule by rule, as the README has them.

use coupon_domain::code::Refusal;
use coupon_domain::command::Change;
use coupon_domain::ledger::{Body, LogRecord};
use coupon_domain::outcome::Subject;
use coupon_domain::wire::Input;
use coupon_domain::{ClaimCode, ClaimId, CommandCode, CouponId, Ledger, Slot, Timestamp, UserId};
use proptest::prelude::*;

use crate::line;

#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Claim {
        decided: usize,
        code: ClaimCode,
        is_final: bool,
        issue_no: Option<u32>,
        user_nth: Option<u16>,
        rank: Option<u32>,
        winner: Option<ClaimId>,
        remaining: Option<u32>,
    },
    Command {
        decided: usize,
        code: CommandCode,
        refusal: Option<Refusal>,
        /// (status, round, quantity, issued, version)
        state: Option<(&'static str, u8, u32, u32, u32)>,
    },
    Invalid,
}

struct History<'a> {
    line: &'a [LogRecord],
    answers: Vec<Answer>,
}

impl History<'_> {
    /// The commands that changed the coupon, in their order.
    fn applied(&self, coupon: CouponId) -> impl Iterator<Item = (&Change, Timestamp)> {
        self.line.iter().zip(&self.answers).enumerate().filter_map(move |(place, (record, answer))| {
            match (&record.body, answer) {
                (
                    Body::Readable(Input::Command(command)),
                    Answer::Command { decided, code: CommandCode::Applied, .. },
                ) if command.command_id.coupon_id == coupon && *decided == place => {
                    Some((&command.change, record.appended_at))
                }
                _ => None,
            }
        })
    }

    fn published(&self, coupon: CouponId) -> Option<&coupon_domain::Definition> {
        self.applied(coupon).find_map(|(change, _)| match change {
            Change::Publish(definition) => Some(definition.as_ref()),
            _ => None,
        })
    }

    fn window(&self, coupon: CouponId) -> coupon_domain::Window {
        let moved = self.applied(coupon).filter_map(|(change, _)| match change {
            Change::Reschedule(window) => Some(*window),
            _ => None,
        });
        moved.last().unwrap_or_else(|| self.published(coupon).unwrap().window())
    }

    fn status(&self, coupon: CouponId) -> &'static str {
        self.applied(coupon).fold("active", |status, (change, _)| match change {
            Change::Pause => "paused",
            Change::Resume => "active",
            Change::Close => "closed",
            Change::Retire => "retired",
            _ => status,
        })
    }

    fn closed(&self, coupon: CouponId, now: Timestamp) -> bool {
        ["closed", "retired"].contains(&self.status(coupon)) || now >= self.window(coupon).closes_at()
    }

    fn deltas(&self, coupon: CouponId) -> impl Iterator<Item = i64> {
        self.applied(coupon).filter_map(|(change, _)| match change {
            Change::Restock(delta) => Some(i64::from(*delta)),
            _ => None,
        })
    }

    fn quantity(&self, coupon: CouponId) -> i64 {
        i64::from(self.published(coupon).unwrap().quantity()) + self.deltas(coupon).sum::<i64>()
    }

    fn version(&self, coupon: CouponId) -> u32 {
        self.applied(coupon).count().try_into().unwrap()
    }

    /// First answers to claims of the coupon: (claim id, user, code, final).
    fn decided_claims(&self, coupon: CouponId) -> impl Iterator<Item = (ClaimId, &UserId, ClaimCode, bool)> {
        self.line.iter().zip(&self.answers).enumerate().filter_map(move |(place, (record, answer))| {
            match (&record.body, answer) {
                (Body::Readable(Input::Claim(claim)), Answer::Claim { decided, code, is_final, .. })
                    if claim.claim_id.coupon_id == coupon && *decided == place =>
                {
                    Some((claim.claim_id, &claim.user_id, *code, *is_final))
                }
                _ => None,
            }
        })
    }

    fn grants(&self, coupon: CouponId) -> impl Iterator<Item = (ClaimId, &UserId)> {
        self.decided_claims(coupon)
            .filter(|(_, _, code, _)| *code == ClaimCode::Granted)
            .map(|(claim, user, _, _)| (claim, user))
    }

    fn issued(&self, coupon: CouponId) -> usize {
        self.grants(coupon).count()
    }

    fn remaining(&self, coupon: CouponId) -> u32 {
        (self.quantity(coupon) - i64::try_from(self.issued(coupon)).unwrap()).try_into().unwrap()
    }

    fn claim(&self, now: Timestamp, claim: ClaimId, user: &UserId) -> Answer {
        let (here, coupon) = (self.answers.len(), claim.coupon_id);
        let answer = |code, is_final| Answer::Claim {
            decided: here,
            code,
            is_final,
            issue_no: None,
            user_nth: None,
            rank: None,
            winner: None,
            remaining: Some(self.remaining(coupon)),
        };
        if coupon.partition() != line::partition() {
            return Answer::Invalid;
        }
        if self.published(coupon).is_none() {
            return Answer::Claim {
                decided: here,
                code: ClaimCode::UnknownCoupon,
                is_final: false,
                issue_no: None,
                user_nth: None,
                rank: None,
                winner: None,
                remaining: None,
            };
        }
        if self.status(coupon) == "retired" {
            return answer(ClaimCode::Closed, false);
        }
        let earlier =
            self.line.iter().zip(&self.answers).find_map(|(record, given)| match (&record.body, given) {
                (Body::Readable(Input::Claim(other)), Answer::Claim { is_final: true, .. })
                    if (other.claim_id.coupon_id, other.claim_id.mac) == (coupon, claim.mac) =>
                {
                    Some(given.clone())
                }
                _ => None,
            });
        if let Some(mut given) = earlier {
            if let Answer::Claim { remaining, .. } = &mut given {
                *remaining = Some(self.remaining(coupon));
            }
            return given;
        }
        let held: Vec<ClaimId> =
            self.grants(coupon).filter(|(_, holder)| *holder == user).map(|(claim, _)| claim).collect();
        let slot_of = |claim: &ClaimId| -> Slot { claim.slot };
        let definition = self.published(coupon).unwrap();
        let same_slot = held.iter().find(|winner| slot_of(winner) == claim.slot);
        let at_limit = held.len() >= usize::from(definition.per_user_limit());
        let in_the_way = same_slot.or(if at_limit { held.first() } else { None }).copied();
        if definition.rules() == 2 && in_the_way.is_some() {
            return match answer(ClaimCode::AlreadyIssued, false) {
                Answer::Claim { decided, code, is_final, issue_no, user_nth, rank, remaining, .. } => {
                    Answer::Claim {
                        decided,
                        code,
                        is_final,
                        issue_no,
                        user_nth,
                        rank,
                        winner: in_the_way,
                        remaining,
                    }
                }
                other => other,
            };
        }
        if now < self.window(coupon).opens_at() {
            return answer(ClaimCode::NotOpen, false);
        }
        let settled = self.decided_claims(coupon).filter(|(_, _, _, is_final)| *is_final).count();
        let next_rank = u32::try_from(settled + 1).unwrap();
        let settle = |code, winner| match answer(code, true) {
            Answer::Claim { decided, code, is_final, issue_no, user_nth, remaining, .. } => Answer::Claim {
                decided,
                code,
                is_final,
                issue_no,
                user_nth,
                rank: Some(next_rank),
                winner,
                remaining,
            },
            other => other,
        };
        if self.closed(coupon, now) {
            return settle(ClaimCode::Closed, None);
        }
        if self.status(coupon) == "paused" {
            return answer(ClaimCode::Paused, false);
        }
        if in_the_way.is_some() {
            return settle(ClaimCode::AlreadyIssued, in_the_way);
        }
        if self.remaining(coupon) == 0 {
            return settle(ClaimCode::SoldOut, None);
        }
        Answer::Claim {
            decided: here,
            code: ClaimCode::Granted,
            is_final: true,
            issue_no: Some(u32::try_from(self.issued(coupon) + 1).unwrap()),
            user_nth: Some(u16::try_from(held.len() + 1).unwrap()),
            rank: Some(next_rank),
            winner: None,
            remaining: Some(self.remaining(coupon) - 1),
        }
    }

    fn command(&self, now: Timestamp, command: &coupon_domain::Command) -> Answer {
        let (here, coupon) = (self.answers.len(), command.command_id.coupon_id);
        if coupon.partition() != line::partition() {
            return Answer::Invalid;
        }
        let seen =
            self.line.iter().zip(&self.answers).find_map(|(record, given)| match (&record.body, given) {
                (Body::Readable(Input::Command(other)), Answer::Command { decided, code, refusal, .. })
                    if other.command_id == command.command_id && *refusal != Some(Refusal::UnknownCoupon) =>
                {
                    Some((*decided, *code, *refusal))
                }
                _ => None,
            });
        let (decided, code, refusal) = seen.unwrap_or_else(|| {
            let (code, refusal) = self.judge(now, command, coupon);
            (here, code, refusal)
        });
        Answer::Command { decided, code, refusal, state: None }
    }

    fn judge(
        &self,
        now: Timestamp,
        command: &coupon_domain::Command,
        coupon: CouponId,
    ) -> (CommandCode, Option<Refusal>) {
        let applied = (CommandCode::Applied, None);
        let no_change = (CommandCode::NoChange, None);
        let refused = |refusal| (CommandCode::Refused, Some(refusal));
        let publish = matches!(command.change, Change::Publish(_));
        if self.published(coupon).is_none() {
            return if publish { applied } else { refused(Refusal::UnknownCoupon) };
        }
        let (status, closed) = (self.status(coupon), self.closed(coupon, now));
        if status == "retired" {
            return if matches!(command.change, Change::Retire) {
                no_change
            } else {
                refused(Refusal::Retired)
            };
        }
        if command.expected_version.is_some_and(|version| version != self.version(coupon)) {
            return (CommandCode::VersionMismatch, None);
        }
        match &command.change {
            Change::Publish(_) => refused(Refusal::AlreadyPublished),
            Change::Close => {
                if status == "closed" {
                    no_change
                } else {
                    applied
                }
            }
            Change::Retire => {
                if closed {
                    applied
                } else {
                    refused(Refusal::NotClosed)
                }
            }
            _ if closed => refused(Refusal::Closed),
            Change::Pause => {
                if status == "paused" {
                    no_change
                } else {
                    applied
                }
            }
            Change::Resume => {
                if status == "active" {
                    no_change
                } else {
                    applied
                }
            }
            Change::Reschedule(window)
                if now >= self.window(coupon).opens_at()
                    && !(self.published(coupon).unwrap().rules() == 2
                        && window.opens_at() == self.window(coupon).opens_at()) =>
            {
                refused(Refusal::AlreadyOpen)
            }
            Change::Reschedule(window) => {
                if *window == self.window(coupon) {
                    no_change
                } else {
                    applied
                }
            }
            Change::Restock(delta) => {
                let wanted = self.quantity(coupon) + i64::from(*delta);
                if wanted > 10_000_000 {
                    return refused(Refusal::AboveQuantityMax);
                }
                if wanted < 1 || wanted < i64::try_from(self.issued(coupon)).unwrap() {
                    return refused(Refusal::BelowIssued);
                }
                let rounds = self.deltas(coupon).filter(|delta| *delta > 0).count();
                if *delta > 0 && rounds == 31 { refused(Refusal::RoundsExhausted) } else { applied }
            }
        }
    }

    fn state(&self, coupon: CouponId) -> Option<(&'static str, u8, u32, u32, u32)> {
        self.published(coupon)?;
        let rounds = self.deltas(coupon).filter(|delta| *delta > 0).count();
        Some((
            self.status(coupon),
            u8::try_from(rounds).unwrap(),
            u32::try_from(self.quantity(coupon)).unwrap(),
            u32::try_from(self.issued(coupon)).unwrap(),
            self.version(coupon),
        ))
    }

    fn answer(&mut self, record: &LogRecord) {
        let answer = match &record.body {
            Body::Undecodable(_) | Body::Undated(_) => Answer::Invalid,
            Body::Readable(Input::Claim(claim)) => {
                self.claim(record.appended_at, claim.claim_id, &claim.user_id)
            }
            Body::Readable(Input::Command(command)) => self.command(record.appended_at, command),
        };
        self.answers.push(answer);
        // The state that a command leaves includes that command, so it is read once the answer stands in the history.
        if let Body::Readable(Input::Command(command)) = &record.body {
            let after = self.state(command.command_id.coupon_id);
            if let Some(Answer::Command { state, .. }) = self.answers.last_mut() {
                *state = after;
            }
        }
    }
}

fn reference(line: &[LogRecord]) -> Vec<Answer> {
    let mut history = History { line, answers: Vec::new() };
    for record in line {
        history.answer(record);
    }
    history.answers
}

fn fold(line: &[LogRecord]) -> Vec<Answer> {
    let mut ledger = Ledger::new(line::partition());
    line.iter()
        .map(|record| {
            let outcome = ledger.fold(record.clone()).unwrap();
            let decided = usize::try_from(outcome.decided_offset.number()).unwrap();
            match outcome.subject {
                Subject::Invalid(_) => Answer::Invalid,
                Subject::Claim(claim) => Answer::Claim {
                    decided,
                    code: claim.code,
                    is_final: claim.is_final,
                    issue_no: claim.issue_no,
                    user_nth: claim.user_nth,
                    rank: claim.rank,
                    winner: claim.granted_claim_id,
                    remaining: outcome.remaining,
                },
                Subject::Command(command) => Answer::Command {
                    decided,
                    code: command.code,
                    refusal: command.refusal,
                    state: command.state.map(|state| {
                        (
                            state.status.as_str(),
                            state.round.number(),
                            state.quantity,
                            state.issued,
                            state.version,
                        )
                    }),
                },
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_ledger_answers_as_the_naive_reference(line in line::any_line(120)) {
        let (expected, found) = (reference(&line), fold(&line));
        for (place, (expected, found)) in expected.iter().zip(&found).enumerate() {
            prop_assert_eq!(expected, found, "at offset {} of {:#?}", place, &line[..=place]);
        }
    }
}

/// The generator must reach every answer, or agreement means little.
#[test]
fn random_lines_reach_every_answer() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..600 {
        let line = line::any_line(120).new_tree(&mut runner).unwrap().current();
        for (place, answer) in fold(&line).into_iter().enumerate() {
            seen.insert(match answer {
                Answer::Invalid => "invalid".to_owned(),
                Answer::Claim { code, decided, .. } => {
                    format!("{}{}", code.as_str(), if decided == place { "" } else { " again" })
                }
                Answer::Command { code, refusal, decided, .. } => format!(
                    "{} {}{}",
                    code.as_str(),
                    refusal.map_or("", Refusal::as_str),
                    if decided == place { "" } else { " again" }
                ),
            });
        }
    }
    for claim in ["granted", "sold_out", "already_issued", "closed"] {
        assert!(seen.contains(claim) && seen.contains(&format!("{claim} again")), "{claim}: {seen:?}");
    }
    for once in
        ["not_open", "paused", "unknown_coupon", "invalid", "applied ", "no_change ", "version_mismatch "]
    {
        assert!(seen.contains(once), "{once}: {seen:?}");
    }
    // More than 31 restocks of one coupon are rare in short lines: the ledger's own tests have them.
    for refusal in Refusal::ALL.into_iter().filter(|refusal| *refusal != Refusal::RoundsExhausted) {
        assert!(seen.contains(&format!("refused {}", refusal.as_str())), "{refusal:?}: {seen:?}");
    }
}
