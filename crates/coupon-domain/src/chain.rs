//! The chain: SHA-256 over the previous link and this outcome. Whoever reads along notices at the next record that an
//! outcome was lost, torn, or decided differently.
//!
//! It is computed over a fixed binary layout, never over JSON, so that field order, spacing and added fields do not
//! matter. All numbers are big-endian; an optional value is a byte 0, or a byte 1 and the value; a text is its length
//! in two bytes and its UTF-8.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::claim_id::{ClaimId, write_hex};
use crate::coupon::{CouponState, Expiry};
use crate::coupon_id::{CouponId, is_lower_hex};
use crate::outcome::{ClaimOutcome, CommandOutcome, InvalidOutcome, Outcome, Subject};
use crate::position::Partition;

/// Raised when the layout changes; part of what is hashed.
const LAYOUT: u8 = 1;

/// One link: what all outcomes up to here hash to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain([u8; 32]);

impl Chain {
    /// The link before the first outcome of a partition.
    #[must_use]
    pub fn genesis(partition: Partition) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"firstcome chain v1");
        hash.update(partition.number().to_be_bytes());
        Self(hash.finalize().into())
    }

    /// The link behind `outcome`, whose own `chain` is left out.
    #[must_use]
    pub fn next(&self, outcome: &Outcome) -> Self {
        let mut layout = Layout(SmallVec::new());
        layout.outcome(outcome);
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(&layout.0);
        Self(hash.finalize().into())
    }

    /// The link with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn hex(&self) -> SmallVec<[u8; 128]> {
        let mut text = SmallVec::new();
        write_hex(&self.0, &mut text);
        text
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chain link reads 64 lower-case hex digits")]
pub struct MalformedChain;

impl FromStr for Chain {
    type Err = MalformedChain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_lower_hex(text) {
            return Err(MalformedChain);
        }
        let mut bytes = [0; 32];
        match data_encoding::HEXLOWER.decode_mut(text.as_bytes(), &mut bytes) {
            Ok(32) if text.len() == 64 => Ok(Self(bytes)),
            _ => Err(MalformedChain),
        }
    }
}

impl Serialize for Chain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::wire::parse_str(deserializer)
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
