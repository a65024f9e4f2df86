//! Whatever decodes, PostgreSQL accepts, and gives back as it was.

use std::sync::Arc;

use coupon_domain::code::Refusal;
use coupon_domain::command::Change;
use coupon_domain::coupon::{LastCommand, UncheckedDefinition, Window};
use coupon_domain::limits::{
    EXPIRY_DAYS_MAX, NAME_BYTES_MAX, PER_USER_LIMIT_MAX, QUANTITY_MAX, REASON_BYTES_MAX, ROUND_MAX,
    TIMESTAMP_MS_MAX, USER_ID_BYTES_MAX,
};
use coupon_domain::outcome::{ClaimOutcome, CommandOutcome, Outcome, Subject};
use coupon_domain::wire::{Input, decode_claims_record, encode_claim, encode_command};
use coupon_domain::{
    Chain, Claim, ClaimAnswer, ClaimCode, ClaimId, Command, CommandCode, CommandId, CommandKind, CouponId,
    CouponState, CouponStatus, Definition, Expiry, Offset, OutcomeWatermark, Partition, Round, Slot,
    Timestamp, UserId,
};
use infrastructure_postgres::batch::{
    IssuedCoupon, Move, OutcomeRows, Written, write_command, write_outcomes,
};
use infrastructure_postgres::{Connection, Pool, commands, coupons, look_up, progress};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

use crate::database::{Database, text};
use crate::shop::{at, offset};

/// Any text without control characters, up to this many bytes.
fn any_text(bytes_max: usize) -> impl Strategy<Value = String> {
    let any = proptest::collection::vec(any::<char>(), 1..=bytes_max).prop_map(move |characters| {
        let mut text = String::new();
        for character in characters.into_iter().filter(|character| !character.is_control()) {
            if text.len() + character.len_utf8() <= bytes_max {
                text.push(character);
            }
        }
        text
    });
    let edges = ["'", "\\", "{\"a\":1}", "NULL", "\u{fffe}\u{10ffff}", "a\u{202e}b\u{feff}", "%s$1\\x00"];
    let longest = "x".repeat(bytes_max);
    prop_oneof![6 => any, 2 => proptest::sample::select(edges.to_vec()).prop_map(str::to_owned), 1 => Just(longest)]
        .prop_map(|text| if text.trim().is_empty() { "x".to_owned() } else { text })
}

fn any_user() -> impl Strategy<Value = UserId> {
    any_text(USER_ID_BYTES_MAX).prop_map(|text| text.parse().unwrap())
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(999),
        Just(TIMESTAMP_MS_MAX),
        Just(TIMESTAMP_MS_MAX - 1),
        // Where PostgreSQL's own epoch lies.
        946_684_799_998i64..946_684_800_002,
        0..=TIMESTAMP_MS_MAX,
    ]
    .prop_map(at)
}

fn any_window() -> impl Strategy<Value = Window> {
    let late = (any_time(), any_time()).prop_map(|(one, other)| (one.min(other), one.max(other)));
    late.prop_map(|(opens_at, closes_at)| {
        let opens_at = if opens_at == closes_at { opens_at.plus_ms(-1) } else { opens_at };
        let closes_at = if opens_at == closes_at { closes_at.plus_ms(1) } else { closes_at };
        Window::new(opens_at, closes_at).unwrap()
    })
}

fn any_definition() -> impl Strategy<Value = Definition> {
    let quantity = prop_oneof![Just(1), Just(QUANTITY_MAX), 1..=QUANTITY_MAX];
    let limit = prop_oneof![Just(1), Just(PER_USER_LIMIT_MAX), 1..=PER_USER_LIMIT_MAX];
    let expiry = prop_oneof![
        Just(None),
        any_time().prop_map(|moment| Some(Expiry::At(moment))),
        prop_oneof![Just(1), Just(EXPIRY_DAYS_MAX)].prop_map(|days| Some(Expiry::DaysAfterIssue(days))),
    ];
    let key_id = proptest::sample::select(vec!["k", "0", "-", "abcdefghijklmnopqrstuvwxyz-01234"]);
    (any_text(NAME_BYTES_MAX), quantity, limit, any_window(), expiry, key_id).prop_map(
        |(name, quantity, limit, window, expiry, key_id)| {
            let raw = UncheckedDefinition {
                name,
                quantity: quantity.into(),
                per_user_limit: limit.into(),
                opens_at: window.opens_at().ms(),
                closes_at: window.closes_at().ms(),
                expiry,
                rules: 1,
                key_id: key_id.parse().unwrap(),
            };
            raw.check().unwrap()
        },
    )
}

fn any_slot() -> impl Strategy<Value = Slot> {
    let edges = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, u64::MAX - 1].map(Slot).to_vec();
    prop_oneof![proptest::sample::select(edges), any::<u64>().prop_map(Slot)]
}

/// A number from 1 to the largest that the domain lets a ledger count to.
fn any_count(most: u32) -> impl Strategy<Value = u32> {
    prop_oneof![Just(1), Just(most), 1..=most]
}

/// What one partition is told: a coupon is published, claimed in every way, and changed.
#[derive(Clone, Debug)]
struct Story {
    definition: Definition,
    actor: UserId,
    reason: Option<String>,
    users: [UserId; 3],
    slots: [Slot; 3],
    rounds: [u8; 3],
    macs: [[u8; 16]; 3],
    times: [Timestamp; 4],
    first_src: i64,
    issue_no: u32,
    ranks: [u32; 2],
    after: After,
}

/// The coupon behind its last command.
#[derive(Clone, Debug)]
struct After {
    window: Window,
    status: CouponStatus,
    round: u8,
    quantity: u32,
    version: u32,
    kind: CommandKind,
    code: CommandCode,
    refusal: Option<Refusal>,
}

fn any_after() -> impl Strategy<Value = After> {
    use CouponStatus::{Active, Closed, Paused, Retired};

    let status = proptest::sample::select(vec![Active, Paused, Closed, Retired]);
    let kind = proptest::sample::select(CommandKind::ALL[1..].to_vec());
    let code = proptest::sample::select(CommandCode::ALL.to_vec());
    let refusal = proptest::option::of(proptest::sample::select(Refusal::ALL.to_vec()));
    let version = any_count(u32::try_from(i32::MAX).unwrap());
    let numbers = (any_window(), 0..=ROUND_MAX, any_count(QUANTITY_MAX), version);
    (numbers, status, kind, code, refusal).prop_map(
        |((window, round, quantity, version), status, kind, code, refusal)| After {
            window,
            status,
            round,
            quantity,
            version,
            kind,
            code,
            refusal,
        },
    )
}

fn any_story() -> impl Strategy<Value = Story> {
    let rank = || any_count(u32::try_from(i32::MAX).unwrap());
    let who =
        (any_user(), proptest::option::of(any_text(REASON_BYTES_MAX)), [any_user(), any_user(), any_user()]);
    let ids = (
        [any_slot(), any_slot(), any_slot()],
        [0..=ROUND_MAX, 0..=ROUND_MAX, 0..=ROUND_MAX],
        any::<[[u8; 16]; 3]>(),
    );
    let when = (
        [any_time(), any_time(), any_time(), any_time()],
        prop_oneof![Just(0), Just(i64::MAX - 100), 0..i64::MAX - 100],
    );
    let numbers = (any_count(QUANTITY_MAX), [rank(), rank()]);
    (any_definition(), who, ids, when, numbers, any_after()).prop_map(
        |(
            definition,
            (actor, reason, users),
            (slots, rounds, macs),
            (times, first_src),
            (issue_no, ranks),
            after,
        )| {
            Story {
                definition,
                actor,
                reason,
                users,
                slots,
                rounds,
                macs,
                times,
                first_src,
                issue_no,
                ranks,
                after,
            }
        },
    )
}

/// What a gateway appends, as the fold reads it.
fn decoded(bytes: &[u8]) -> Input {
    decode_claims_record(Some(bytes)).unwrap()
}

struct Told {
    connection: Connection,
    pool: Pool,
    watermark: OutcomeWatermark,
    coupon_id: CouponId,
    /// In macs, so that those of different stories are different.
    number: u16,
}

#[test]
fn whatever_decodes_is_stored_and_read_back_as_it_was() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let database = runtime.block_on(Database::migrated());
    let mut runner = TestRunner::new(Config { cases: 96, max_shrink_iters: 300, ..Config::default() });
    let next = std::cell::Cell::new(0u16);
    runner
        .run(&any_story(), |story| {
            let number = next.replace(next.get() + 1);
            runtime.block_on(async {
                let partition = Partition::new(i32::from(number)).unwrap();
                let mut connection = database.connect().await;
                let watermark = progress::load_or_create(&mut connection, partition).await.unwrap().watermark;
                let coupon_id = CouponId::new(partition, Uuid::from_u128(u128::MAX - u128::from(number)));
                let pool = database.pool();
                Told { connection, pool, watermark, coupon_id, number }.live(&story).await;
            });
            Ok(())
        })
        .unwrap();
}

impl Told {
    async fn live(mut self, story: &Story) {
        let published = self.publish(story).await;
        self.claim(story).await;
        self.change(story, published).await;
    }

    fn step(&mut self, next_src: Offset) -> Move {
        let from = self.watermark;
        let next_outcome_offset = offset(from.next_outcome_offset.number().max(next_src.number()));
        self.watermark =
            OutcomeWatermark { next_src, next_outcome_offset, chain: Chain::from_bytes([0xff; 32]) };
        Move { partition: self.coupon_id.partition(), from, to: self.watermark, last_record: None }
    }

    fn unique(&self, mut mac: [u8; 16]) -> [u8; 16] {
        mac[..2].copy_from_slice(&self.number.to_be_bytes());
        mac
    }

    fn claim_id(&self, story: &Story, which: usize) -> ClaimId {
        let mut mac = self.unique(story.macs[which]);
        mac[2] = u8::try_from(which).unwrap();
        let round = Round::new(story.rounds[which]).unwrap();
        ClaimId { coupon_id: self.coupon_id, round, slot: story.slots[which], mac }
    }

    fn command(&self, story: &Story, which: u8, change: Change) -> Command {
        let mut mac = self.unique(story.macs[0]);
        mac[2] = which;
        let command = Command {
            command_id: CommandId { coupon_id: self.coupon_id, mac },
            change,
            expected_version: None,
            reason: story.reason.as_deref().map(Arc::from),
            actor: story.actor.clone(),
        };
        match decoded(&encode_command(&command)) {
            Input::Command(read) => read,
            Input::Claim(_) => panic!("a command was read as a claim"),
        }
    }

    async fn publish(&mut self, story: &Story) -> CouponState {
        let change = Change::Publish(Arc::new(story.definition.clone()));
        let command = self.command(story, 0, change);
        let Change::Publish(definition) = &command.change else { panic!("it was a publish command") };
        let state = CouponState {
            coupon_id: self.coupon_id,
            definition: Arc::clone(definition),
            status: CouponStatus::Active,
            round: Round::FIRST,
            quantity: definition.quantity(),
            issued: 0,
            version: 1,
            last_command: LastCommand { command_id: command.command_id, code: CommandCode::Applied },
            last_grant_offset: None,
        };
        self.write_command(story, 0, &command, (CommandCode::Applied, None), &state).await;
        state
    }

    async fn write_command(
        &mut self,
        story: &Story,
        later: i64,
        command: &Command,
        (code, refusal): (CommandCode, Option<Refusal>),
        state: &CouponState,
    ) {
        let outcome = CommandOutcome {
            command_id: command.command_id,
            kind: command.change.kind(),
            code,
            refusal,
            actor: command.actor.clone(),
            reason: command.reason.clone(),
            state: None,
        };
        let src_offset = offset(story.first_src + later);
        let step = self.step(src_offset.next());
        let written = write_command(&mut self.connection, &step, src_offset, story.times[0], &outcome, state);
        assert!(matches!(written.await.unwrap(), Written::Committed { .. }));

        let read = self.pool.run(async |connection| {
            let coupon = coupons::find_many(connection, &[self.coupon_id]).await?;
            Ok((coupon, commands::find(connection, command.command_id).await?.unwrap()))
        });
        let (coupon, answer) = read.await.unwrap();
        assert_eq!(coupon, std::slice::from_ref(state));
        assert_eq!((answer.code, answer.refusal, answer.version), (code, refusal, state.version));
        let noted = self
            .row(&format!(
                "SELECT json_build_object('actor', actor, 'reason', reason, 'state', state) FROM audit_events
                 WHERE src_offset = {src_offset}"
            ))
            .await;
        assert_eq!(noted["actor"], story.actor.as_str());
        assert_eq!(noted["reason"].as_str(), story.reason.as_deref());
        assert_eq!(serde_json::from_value::<CouponState>(noted["state"].clone()).unwrap(), *state);
    }

    /// One row of this partition, as JSON. (psql would not do: it prints some characters as nothing.)
    async fn row(&self, select: &str) -> serde_json::Value {
        let partition = self.coupon_id.partition();
        let sql = format!("SELECT ({select} AND src_partition = {partition})::text");
        let text = self.pool.run(async |connection| text(connection, &sql).await).await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    async fn claim(&mut self, story: &Story) {
        let winner = self.claim_id(story, 0);
        let outcomes: Vec<ClaimOutcome> = (0..3)
            .map(|which| {
                let claim = Claim {
                    claim_id: self.claim_id(story, which),
                    user_id: story.users[which].clone(),
                    received_at: story.times[which],
                };
                let Input::Claim(read) = decoded(&encode_claim(&claim)) else {
                    panic!("a claim was read as a command")
                };
                assert_eq!(read, claim);
                let granted = which == 0;
                ClaimOutcome {
                    claim_id: read.claim_id,
                    user_id: read.user_id,
                    code: [ClaimCode::Granted, ClaimCode::AlreadyIssued, ClaimCode::NotOpen][which],
                    is_final: which < 2,
                    issue_no: granted.then_some(story.issue_no),
                    user_nth: granted.then_some(story.definition.per_user_limit()),
                    rank: story.ranks.get(which).copied(),
                    granted_claim_id: (which == 1).then_some(winner),
                }
            })
            .collect();
        let mut rows = OutcomeRows::default();
        let issued = IssuedCoupon {
            per_user_limit: story.definition.per_user_limit(),
            code: "5Y9X-YQS9-3ZM5-28S1-J".to_owned(),
            expires_at: story.definition.expiry().map(|expiry| expiry.of(story.times[1])),
        };
        let src_offsets = [1, 2, 3].map(|later| offset(story.first_src + later));
        rows.push_issued(src_offsets[0], story.times[1], &outcomes[0], issued.clone());
        for (which, outcome) in outcomes.iter().enumerate() {
            rows.push_claim(src_offsets[which], story.times[which + 1], outcome);
        }
        let step = self.step(src_offsets[2].next());
        let written = write_outcomes(&mut self.connection, &step, &rows).await.unwrap();
        assert!(matches!(written, Written::Committed { .. }));

        for (which, outcome) in outcomes.iter().enumerate() {
            let expected = ClaimAnswer::of(&Outcome {
                src_offset: src_offsets[which],
                appended_at: story.times[which + 1],
                decided_offset: src_offsets[which],
                rules: 1,
                remaining: None,
                subject: Subject::Claim(outcome.clone()),
                chain: Chain::from_bytes([0; 32]),
            });
            let claim_id = outcome.claim_id;
            let found = self.pool.run(async |connection| look_up::claim(connection, &claim_id, None).await);
            let found = found.await.unwrap();
            assert_eq!(found.answer, expected);
            assert_eq!(found.next_outcome_offset, step.to.next_outcome_offset);
            let code = found.issued.as_ref().map(|issued| issued.code.as_str());
            assert_eq!(code, (which == 0).then_some(issued.code.as_str()));
            if which == 0 {
                assert_eq!(found.issued.unwrap().expires_at, issued.expires_at);
            }
            let spelled = self
                .row(&format!(
                    "SELECT json_build_object('id', claim_id, 'user', user_id) FROM claims_spelled
                     WHERE src_offset = {}",
                    src_offsets[which]
                ))
                .await;
            assert_eq!(spelled["id"], claim_id.to_string());
            assert_eq!(spelled["user"], story.users[which].as_str());
        }
    }

    async fn change(&mut self, story: &Story, published: CouponState) {
        let after = &story.after;
        let change = match after.kind {
            CommandKind::Reschedule => Change::Reschedule(after.window),
            CommandKind::Restock => Change::Restock(-i32::try_from(QUANTITY_MAX).unwrap()),
            CommandKind::Pause => Change::Pause,
            CommandKind::Resume => Change::Resume,
            CommandKind::Close => Change::Close,
            CommandKind::Publish | CommandKind::Retire => Change::Retire,
        };
        let command = self.command(story, 1, change);
        let state = CouponState {
            definition: Arc::new(published.definition.rescheduled(after.window)),
            status: after.status,
            round: Round::new(after.round).unwrap(),
            quantity: after.quantity,
            issued: 1,
            version: after.version,
            last_command: LastCommand { command_id: command.command_id, code: after.code },
            last_grant_offset: Some(offset(story.first_src + 1)),
            ..published
        };
        self.write_command(story, 4, &command, (after.code, after.refusal), &state).await;
    }
}
