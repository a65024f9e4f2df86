//! What of an outcome the chain hashes.
//!
//! A fixed binary layout, never JSON, so that field order, spacing and added fields do not matter. All numbers are
//! big-endian; an optional value is a byte 0, or a byte 1 and the value; a text is its length in two bytes and its
//! UTF-8.

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::chain::Chain;
use crate::claim_id::ClaimId;
use crate::coupon::{CouponState, Expiry};
use crate::coupon_id::CouponId;
use crate::outcome::{ClaimOutcome, CommandOutcome, InvalidOutcome, Outcome, Subject};

/// Raised when the layout changes; part of what is hashed.
const LAYOUT: u8 = 1;

impl Chain {
    /// The link behind `outcome`, whose own `chain` is left out.
    #[must_use]
    pub fn next(&self, outcome: &Outcome) -> Self {
        let mut layout = Layout(SmallVec::new());
        layout.outcome(outcome);
        let mut hash = Sha256::new();
        hash.update(self.as_bytes());
        hash.update(&layout.0);
        Self::from_bytes(hash.finalize().into())
    }
}

/// The bytes that are hashed. A claim's outcome fits the stack.
struct Layout(SmallVec<[u8; 512]>);

impl Layout {
    fn outcome(&mut self, outcome: &Outcome) {
        self.u8(LAYOUT);
        self.i64(outcome.src_offset.number());
        self.i64(outcome.appended_at.ms());
        self.i64(outcome.decided_offset.number());
        self.u16(outcome.rules);
        self.option(outcome.remaining, Self::u32);
        match &outcome.subject {
            Subject::Claim(claim) => {
                self.u8(1);
                self.claim(claim);
            }
            Subject::Command(command) => {
                self.u8(2);
                self.command(command);
            }
            Subject::Invalid(invalid) => {
                self.u8(3);
                self.invalid(invalid);
            }
        }
    }

    fn claim(&mut self, claim: &ClaimOutcome) {
        self.claim_id(&claim.claim_id);
        self.text(claim.user_id.as_str());
        self.u8(claim.code.number());
        self.u8(u8::from(claim.is_final));
        self.option(claim.issue_no, Self::u32);
        self.option(claim.user_nth, Self::u16);
        self.option(claim.rank, Self::u32);
        self.option(claim.granted_claim_id.as_ref(), Self::claim_id);
    }

    fn command(&mut self, command: &CommandOutcome) {
        self.coupon_id(command.command_id.coupon_id);
        self.bytes(&command.command_id.mac);
        self.u8(command.kind.number());
        self.u8(command.code.number());
        self.option(command.refusal.map(|refusal| refusal.number()), Self::u8);
        self.text(command.actor.as_str());
        self.option(command.reason.as_deref(), Self::text);
        self.option(command.state.as_ref(), Self::state);
    }

    fn invalid(&mut self, invalid: &InvalidOutcome) {
        self.u8(invalid.reason.number());
        self.option(invalid.claim_id.as_ref(), Self::claim_id);
    }

    fn state(&mut self, state: &CouponState) {
        let definition = &state.definition;
        self.coupon_id(state.coupon_id);
        self.text(definition.name());
        self.u32(definition.quantity());
        self.u16(definition.per_user_limit());
        self.i64(definition.window().opens_at().ms());
        self.i64(definition.window().closes_at().ms());
        match definition.expiry() {
            None => self.u8(0),
            Some(Expiry::At(moment)) => {
                self.u8(1);
                self.i64(moment.ms());
            }
            Some(Expiry::DaysAfterIssue(days)) => {
                self.u8(2);
                self.u16(days);
            }
        }
        self.u16(definition.rules());
        self.text(definition.key_id().as_str());
        self.u8(state.status.number());
        self.u8(state.round.number());
        self.u32(state.quantity);
        self.u32(state.issued);
        self.u32(state.version);
        self.coupon_id(state.last_command.command_id.coupon_id);
        self.bytes(&state.last_command.command_id.mac);
        self.u8(state.last_command.code.number());
        self.option(state.last_grant_offset.map(|offset| offset.number()), Self::i64);
    }

    fn claim_id(&mut self, claim_id: &ClaimId) {
        self.coupon_id(claim_id.coupon_id);
        self.u8(claim_id.round.number());
        self.bytes(&claim_id.slot.0.to_be_bytes());
        self.bytes(&claim_id.mac);
    }

    fn coupon_id(&mut self, coupon_id: CouponId) {
        self.bytes(&coupon_id.partition().number().to_be_bytes());
        self.bytes(coupon_id.unique().as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                write(self, value);
            }
        }
    }

    fn text(&mut self, text: &str) {
        // Every text of an outcome is bounded far below 64 KiB by its newtype.
        self.u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        self.bytes(text.as_bytes());
    }

    fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    fn u16(&mut self, number: u16) {
        self.bytes(&number.to_be_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    fn i64(&mut self, number: i64) {
        self.bytes(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}
