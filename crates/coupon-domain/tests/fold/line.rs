//! Random lines: few users, few coupons, short times, so that limits, repeats and collisions of commands and claims are
//! the rule rather than the exception.

use std::sync::Arc;

use coupon_domain::command::Change;
use coupon_domain::coupon::{RULES_NEWEST, UncheckedDefinition, Window};
use coupon_domain::ledger::{Body, LogRecord};
use coupon_domain::wire::Input;
use coupon_domain::{
    Claim, ClaimId, Command, CommandId, CommandKind, CouponId, Definition, Offset, Partition, Round, Slot,
    Timestamp, UserId,
};
use proptest::prelude::*;
use uuid::Uuid;

pub(crate) const PARTITION: i32 = 3;

pub(crate) fn partition() -> Partition {
    Partition::new(PARTITION).unwrap()
}

pub(crate) fn offset(number: usize) -> Offset {
    Offset::new(i64::try_from(number).unwrap()).unwrap()
}

pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms).unwrap()
}

pub(crate) fn coupon(number: u8) -> CouponId {
    // The last of them belongs to another partition.
    let home = if number == 2 { PARTITION + 1 } else { PARTITION };
    CouponId::new(Partition::new(home).unwrap(), Uuid::from_u128(u128::from(number)))
}

pub(crate) fn user(number: u8) -> UserId {
    format!("user-{number}").parse().unwrap()
}

/// The mac is a plain copy of what it covers, so equal claims have equal ids.
pub(crate) fn claim(coupon_number: u8, user_number: u8, round: u8, slot: u8) -> Claim {
    let mut mac = [0; 16];
    mac[..4].copy_from_slice(&[coupon_number, user_number, round, slot]);
    let claim_id = ClaimId {
        coupon_id: coupon(coupon_number),
        round: Round::new(round).unwrap(),
        slot: Slot(u64::from(slot)),
        mac,
    };
    Claim { claim_id, user_id: user(user_number), received_at: at(0) }
}

pub(crate) fn command(coupon_number: u8, key: u8, change: Change, expected_version: Option<u32>) -> Command {
    let mut mac = [0; 16];
    let kind = CommandKind::ALL.iter().position(|kind| *kind == change.kind()).unwrap();
    mac[..2].copy_from_slice(&[u8::try_from(kind).unwrap(), key]);
    Command {
        command_id: CommandId { coupon_id: coupon(coupon_number), mac },
        change,
        expected_version,
        reason: None,
        actor: "operator".parse().unwrap(),
    }
}

pub(crate) fn definition(
    quantity: u64,
    per_user_limit: u64,
    (opens_at, closes_at): (i64, i64),
    rules: u16,
) -> Arc<Definition> {
    let raw = UncheckedDefinition {
        name: "Fried chicken".to_owned(),
        quantity,
        per_user_limit,
        opens_at,
        closes_at,
        expiry: None,
        rules,
        key_id: "k1".parse().unwrap(),
    };
    Arc::new(raw.check().unwrap())
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (1u64..6, 1u64..4, 0i64..30, 1i64..100, 1u16..=RULES_NEWEST)
            .prop_map(|(quantity, limit, opens, lasts, rules)| Change::Publish(definition(quantity, limit, (opens, opens + lasts), rules))),
        1 => (prop_oneof![Just(3), 0i64..40], 1i64..80).prop_map(|(opens, lasts)| Change::Reschedule(Window::new(at(opens), at(opens + lasts)).unwrap())),
        1 => Just(Change::Pause),
        3 => Just(Change::Resume),
        4 => prop_oneof![-4i32..0, 1i32..4, Just(9_999_999)].prop_map(Change::Restock),
        1 => Just(Change::Close),
        1 => Just(Change::Retire),
    ]
}

fn any_body() -> impl Strategy<Value = Body> {
    let coupons = || prop_oneof![12 => Just(0u8), 4 => Just(1u8), 1 => Just(2u8)];
    let claims = (
        coupons(),
        0u8..6,
        prop_oneof![4 => Just(0u8), 1 => 0u8..4],
        prop_oneof![3 => Just(0u8), 1 => 0u8..3],
    );
    let commands =
        (coupons(), 0u8..3, any_change(), prop_oneof![3 => Just(None), 1 => (0u32..6).prop_map(Some)]);
    prop_oneof![
        16 => claims.prop_map(|(c, u, r, s)| Body::Readable(Input::Claim(claim(c, u, r, s)))),
        5 => commands.prop_map(|(c, k, change, v)| Body::Readable(Input::Command(command(c, k, change, v)))),
        1 => Just(Body::Undecodable(None)),
        1 => Just(Body::Undecodable(Some(claim(0, 0, 0, 0).claim_id))),
        1 => Just(Body::Undated(Some(claim(0, 0, 0, 0).claim_id))),
    ]
}

/// A line of up to `longest` records. It mostly begins with a publish command, and append times mostly grow.
pub(crate) fn any_line(longest: usize) -> impl Strategy<Value = Vec<LogRecord>> {
    let steps =
        proptest::collection::vec((any_body(), prop_oneof![5 => 0i64..3, 1 => -2i64..10]), 0..longest);
    (proptest::option::of(1..=RULES_NEWEST), steps).prop_map(|(published, steps)| {
        let first = published.map(|rules| {
            let publish = Change::Publish(definition(4, 1, (3, 90), rules));
            (Body::Readable(Input::Command(command(0, 250, publish, None))), 0)
        });
        let mut clock = 0i64;
        first
            .into_iter()
            .chain(steps)
            .enumerate()
            .map(|(number, (body, step))| {
                clock = (clock + step).max(0);
                LogRecord { src_offset: offset(number), appended_at: at(clock), body }
            })
            .collect()
    })
}
