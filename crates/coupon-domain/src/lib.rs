//! The rules of Firstcome, apart from every clock, socket and store.
//!
//! A *coupon* is what is on offer; a *claim* is one user's request for it; a *command* is an operator's change to it.
//! Claims and commands of one coupon stand in one line, a Kafka partition. The [`ledger`] folds that line: every
//! record gets one [`outcome`], and the same line always gives the same outcomes, bit for bit. What a service does when
//! it starts, when it meets a copy, a gap, a break or a store of another time is decided here too ([`resume`], [`accept`],
//! [`view_sync`], [`restored`]) and only carried out elsewhere.

pub mod accept;
pub mod answer;
pub mod brake;
pub mod chain;
mod chain_layout;
pub mod claim;
pub mod claim_id;
pub mod code;
pub mod command;
pub mod command_id;
pub mod command_kind;
pub mod coupon;
pub mod coupon_code;
pub mod coupon_id;
pub mod halt;
pub mod idempotency_key;
pub mod invariant;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod order_ref;
pub mod outcome;
pub mod position;
pub mod restored;
pub mod resume;
pub mod stream_token;
pub mod timestamp;
pub mod user_id;
pub mod view_buckets;
pub mod view_sync;
pub mod wire;

pub use accept::OutcomeWatermark;
pub use answer::ClaimAnswer;
pub use chain::Chain;
pub use claim::Claim;
pub use claim_id::{ClaimId, Round, Slot};
pub use code::{ClaimCode, CommandCode};
pub use command::Command;
pub use command_id::CommandId;
pub use command_kind::CommandKind;
pub use coupon::{CouponState, CouponStatus, Definition, Expiry, Window};
pub use coupon_id::CouponId;
pub use halt::HaltReason;
pub use idempotency_key::IdempotencyKey;
pub use keys::{Key, KeyId, KeyRing};
pub use ledger::Ledger;
pub use order_ref::OrderRef;
pub use outcome::Outcome;
pub use position::{Offset, Partition};
pub use timestamp::Timestamp;
pub use user_id::UserId;
