//! Random lines for any partition: few users, few coupons, short times, so that limits, repeats and collisions of commands and
//! claims are the rule rather than the exception.

use std::sync::Arc;

use coupon_domain::command::Change;
use coupon_domain::coupon::{UncheckedDefinition, Window};
use coupon_domain::ledger::{Body, LogRecord};
use coupon_domain::wire::Input;
use coupon_domain::{
    Claim, ClaimId, Command, CommandId, CommandKind, CouponId, Definition, Expiry, Partition, Round, Slot,
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::shop::{at, offset};

/// A record before it stands in a partition.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Claim { coupon: u8, user: u8, round: u8, slot: u64 },
    Command { coupon: u8, key: u8, change: Change, expected_version: Option<u32> },
    Garbage { names_a_claim: bool },
}

/// A record and how much later than the one before it was appended.
pub(crate) type Line = Vec<(Step, i64)>;

/// The line as it stands in a partition. Ids are different in each, as they are in a database that holds them all.
pub(crate) fn records(line: &Line, partition: Partition) -> Vec<LogRecord> {
    let mut clock = 0i64;
    let mut records = Vec::new();
    for (number, (step, later)) in (0..).zip(line) {
        clock = (clock + later).max(0);
        let body = match step {
            Step::Claim { coupon, user, round, slot } => {
                Body::Readable(Input::Claim(claim(partition, *coupon, *user, *round, *slot)))
            }
            Step::Command { coupon, key, change, expected_version } => {
                Body::Readable(Input::Command(Command {
                    command_id: command_id(partition, *coupon, *key, change.kind()),
                    change: change.clone(),
                    expected_version: *expected_version,
                    reason: (*key > 0).then(|| Arc::from("because")),
                    actor: "operator".parse().unwrap(),
                }))
            }
            Step::Garbage { names_a_claim } => {
                let claim = names_a_claim.then(|| claim(partition, 0, 0, 0, 0).claim_id);
                Body::Undecodable(claim)
            }
        };
        records.push(LogRecord { src_offset: offset(number), appended_at: at(clock), body });
    }
    records
}

fn coupon_id(partition: Partition, coupon: u8) -> CouponId {
    let unique = u128::from(partition.number().unsigned_abs()) << 8 | u128::from(coupon);
    // The last of them belongs to another partition.
    let home = if coupon == 2 { Partition::new(partition.number() + 1).unwrap() } else { partition };
    CouponId::new(home, Uuid::from_u128(unique))
}

fn claim(partition: Partition, coupon: u8, user: u8, round: u8, slot: u64) -> Claim {
    let mut mac = [0; 16];
    mac[..4].copy_from_slice(&partition.number().to_be_bytes());
    mac[4..7].copy_from_slice(&[coupon, user, round]);
    mac[8..].copy_from_slice(&slot.to_be_bytes());
    let claim_id = ClaimId {
        coupon_id: coupon_id(partition, coupon),
        round: Round::new(round).unwrap(),
        slot: Slot(slot),
        mac,
    };
    Claim { claim_id, user_id: format!("user-{user}").parse().unwrap(), received_at: at(0) }
}

fn command_id(partition: Partition, coupon: u8, key: u8, kind: CommandKind) -> CommandId {
    let mut mac = [0; 16];
    mac[..4].copy_from_slice(&partition.number().to_be_bytes());
    let kind = CommandKind::ALL.iter().position(|other| *other == kind).unwrap();
    mac[4..7].copy_from_slice(&[coupon, u8::try_from(kind).unwrap(), key]);
    CommandId { coupon_id: coupon_id(partition, coupon), mac }
}

fn definition(
    quantity: u64,
    per_user_limit: u64,
    opens_at: i64,
    lasts: i64,
    expiry: Option<Expiry>,
) -> Arc<Definition> {
    let raw = UncheckedDefinition {
        name: "Fried chicken".to_owned(),
        quantity,
        per_user_limit,
        opens_at,
        closes_at: opens_at + lasts,
        expiry,
        rules: 1,
        key_id: "k1".parse().unwrap(),
    };
    Arc::new(raw.check().unwrap())
}

fn any_expiry() -> impl Strategy<Value = Option<Expiry>> {
    prop_oneof![
        Just(None),
        (0i64..200).prop_map(|ms| Some(Expiry::At(at(ms)))),
        (1u16..3).prop_map(|days| Some(Expiry::DaysAfterIssue(days))),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (1u64..6, 1u64..4, 0i64..30, 1i64..100, any_expiry()).prop_map(
            |(quantity, limit, opens_at, lasts, expiry)| Change::Publish(definition(quantity, limit, opens_at, lasts, expiry))
        ),
        1 => (0i64..40, 1i64..80)
            .prop_map(|(opens_at, lasts)| Change::Reschedule(Window::new(at(opens_at), at(opens_at + lasts)).unwrap())),
        1 => Just(Change::Pause),
        3 => Just(Change::Resume),
        4 => prop_oneof![-4i32..0, 1i32..4, Just(9_999_999)].prop_map(Change::Restock),
        1 => Just(Change::Close),
        1 => Just(Change::Retire),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let coupon = || prop_oneof![12 => Just(0u8), 4 => Just(1u8), 1 => Just(2u8)];
    let round = prop_oneof![4 => Just(0u8), 1 => 0u8..4];
    let slot = prop_oneof![3 => Just(0u64), 1 => Just(1u64), 1 => Just(u64::MAX)];
    let expected_version = prop_oneof![3 => Just(None), 1 => (0u32..6).prop_map(Some)];
    prop_oneof![
        16 => (coupon(), 0u8..6, round, slot)
            .prop_map(|(coupon, user, round, slot)| Step::Claim { coupon, user, round, slot }),
        5 => (coupon(), 0u8..3, any_change(), expected_version)
            .prop_map(|(coupon, key, change, expected_version)| Step::Command { coupon, key, change, expected_version }),
        1 => any::<bool>().prop_map(|names_a_claim| Step::Garbage { names_a_claim }),
    ]
}

/// A line of up to `longest` records and three more. It mostly begins with a publish command, often has its first coupon closed and
/// retired somewhere (left to chance that is rare), and append times mostly grow.
pub(crate) fn any_line(longest: usize) -> impl Strategy<Value = Line> {
    let later = prop_oneof![5 => 0i64..3, 1 => -2i64..10];
    let steps = proptest::collection::vec((any_step(), later), 0..longest);
    let retired_at = proptest::option::weighted(0.3, any::<prop::sample::Index>());
    (prop::bool::weighted(0.8), steps, retired_at).prop_map(|(published, mut steps, retired_at)| {
        let command = |change| (Step::Command { coupon: 0, key: 250, change, expected_version: None }, 0);
        if let Some(at) = retired_at.map(|at| at.index(steps.len() + 1)) {
            steps.splice(at..at, [command(Change::Close), command(Change::Retire)]);
        }
        let first = command(Change::Publish(definition(4, 1, 3, 90, None)));
        published.then_some(first).into_iter().chain(steps).collect()
    })
}
