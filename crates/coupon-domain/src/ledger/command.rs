//! The rules of commands.

use std::hash::BuildHasher;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::claim_id::Round;
use crate::code::{CommandCode, Refusal};
use crate::command::{Change, Command};
use crate::coupon::{CouponState, CouponStatus, LastCommand, Window};
use crate::coupon_id::CouponId;
use crate::ledger::settled::SettledClaims;
use crate::ledger::{CommandAnswer, CouponEntry, Moment};
use crate::limits::QUANTITY_MAX;

/// Answers a command and applies it. Every answer about a known coupon is remembered for ever: the same command again
/// gets the same answer and has no second effect.
pub(super) fn answer<S: BuildHasher + Clone>(
    coupons: &mut HashMap<CouponId, CouponEntry<S>, S>,
    hasher: &S,
    moment: Moment,
    command: &Command,
) -> CommandAnswer {
    let coupon_id = command.command_id.coupon_id;
    let entry = match (coupons.entry(coupon_id), &command.change) {
        (Entry::Occupied(entry), _) => entry.into_mut(),
        (Entry::Vacant(vacant), Change::Publish(definition)) => {
            let state = CouponState {
                coupon_id,
                definition: std::sync::Arc::clone(definition),
                status: CouponStatus::Active,
                round: Round::FIRST,
                quantity: definition.quantity(),
                issued: 0,
                version: 1,
                last_command: LastCommand { command_id: command.command_id, code: CommandCode::Applied },
                last_grant_offset: None,
            };
            let entry = vacant.insert(CouponEntry {
                state,
                commands: HashMap::with_hasher(hasher.clone()),
                claims: SettledClaims::with_hasher(hasher.clone()),
            });
            return entry.remember(moment, command, CommandCode::Applied, None);
        }
        (Entry::Vacant(_), _) => {
            return CommandAnswer {
                code: CommandCode::Refused,
                refusal: Some(Refusal::UnknownCoupon),
                decided_offset: moment.src_offset,
            };
        }
    };
    if let Some(given) = entry.commands.get(&command.command_id) {
        return *given;
    }
    match judge(&entry.state, moment, command) {
        Verdict::Apply(next) => {
            entry.state = *next;
            entry.state.version = entry.state.version.saturating_add(1);
            if entry.state.status == CouponStatus::Retired {
                entry.claims = SettledClaims::with_hasher(hasher.clone());
            }
            entry.remember(moment, command, CommandCode::Applied, None)
        }
        Verdict::NoChange => entry.remember(moment, command, CommandCode::NoChange, None),
        Verdict::VersionMismatch => entry.remember(moment, command, CommandCode::VersionMismatch, None),
        Verdict::Refuse(refusal) => entry.remember(moment, command, CommandCode::Refused, Some(refusal)),
    }
}

enum Verdict {
    Apply(Box<CouponState>),
    NoChange,
    VersionMismatch,
    Refuse(Refusal),
}

/// What a command that was not seen before does to a coupon that is known.
fn judge(state: &CouponState, moment: Moment, command: &Command) -> Verdict {
    if state.status == CouponStatus::Retired {
        return match command.change {
            Change::Retire => Verdict::NoChange,
            _ => Verdict::Refuse(Refusal::Retired),
        };
    }
    if command.expected_version.is_some_and(|expected| expected != state.version) {
        return Verdict::VersionMismatch;
    }
    let closed = state.is_closed_at(moment.appended_at);
    let with_status = |status| Verdict::Apply(Box::new(CouponState { status, ..state.clone() }));
    match &command.change {
        Change::Publish(_) => Verdict::Refuse(Refusal::AlreadyPublished),
        Change::Close if state.status == CouponStatus::Closed => Verdict::NoChange,
        Change::Close => with_status(CouponStatus::Closed),
        Change::Retire if closed => with_status(CouponStatus::Retired),
        Change::Retire => Verdict::Refuse(Refusal::NotClosed),
        Change::Pause | Change::Resume | Change::Restock(_) | Change::Reschedule(_) if closed => {
            Verdict::Refuse(Refusal::Closed)
        }
        Change::Pause if state.status == CouponStatus::Paused => Verdict::NoChange,
        Change::Pause => with_status(CouponStatus::Paused),
        Change::Resume if state.status == CouponStatus::Active => Verdict::NoChange,
        Change::Resume => with_status(CouponStatus::Active),
        Change::Reschedule(window) if !may_move(state, *window, moment) => {
            Verdict::Refuse(Refusal::AlreadyOpen)
        }
        Change::Reschedule(window) if *window == state.definition.window() => Verdict::NoChange,
        Change::Reschedule(window) => Verdict::Apply(Box::new(CouponState {
            definition: std::sync::Arc::new(state.definition.rescheduled(*window)),
            ..state.clone()
        })),
        Change::Restock(delta) => restock(state, *delta),
    }
}

/// Before a coupon opens its window may move; while it is open, its end alone, and only by rules that say so.
fn may_move(state: &CouponState, to: Window, moment: Moment) -> bool {
    let opens_at = state.definition.window().opens_at();
    moment.appended_at < opens_at || state.definition.end_moves_while_open() && to.opens_at() == opens_at
}

/// A positive delta starts the next round, so that those who were told `sold_out` may claim again; a negative one takes
/// back only what is not granted.
fn restock(state: &CouponState, delta: i32) -> Verdict {
    let Some(quantity) = state.quantity.checked_add_signed(delta) else {
        return Verdict::Refuse(Refusal::BelowIssued);
    };
    if quantity > QUANTITY_MAX {
        return Verdict::Refuse(Refusal::AboveQuantityMax);
    }
    if quantity < state.issued.max(1) {
        return Verdict::Refuse(Refusal::BelowIssued);
    }
    let round = match (delta > 0, state.round.next()) {
        (false, _) => state.round,
        (true, Some(next)) => next,
        (true, None) => return Verdict::Refuse(Refusal::RoundsExhausted),
    };
    Verdict::Apply(Box::new(CouponState { quantity, round, ..state.clone() }))
}

impl<S: BuildHasher> CouponEntry<S> {
    fn remember(
        &mut self,
        moment: Moment,
        command: &Command,
        code: CommandCode,
        refusal: Option<Refusal>,
    ) -> CommandAnswer {
        let answer = CommandAnswer { code, refusal, decided_offset: moment.src_offset };
        self.commands.insert(command.command_id, answer);
        self.state.last_command = LastCommand { command_id: command.command_id, code };
        answer
    }
}
