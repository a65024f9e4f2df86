//! Writing what the log says: a batch of claims' outcomes, or one command's outcome, each in one statement.

use coupon_domain::outcome::{ClaimOutcome, CommandOutcome};
use coupon_domain::resume::RecordIdentity;
use coupon_domain::{
    ClaimCode, ClaimId, CommandCode, CommandKind, CouponId, CouponState, Expiry, Offset, OutcomeWatermark,
    Partition, Timestamp, UserId,
};
use diesel::prelude::*;
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Integer, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid as UuidType,
};
use diesel_async::RunQueryDsl;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connection::{Connection, PostgresError};
use crate::rows::{slot_to_column, to_time};
use crate::statement::statement;

/// How a batch moves a partition's watermark.
#[derive(Clone, Debug)]
pub struct Move {
    /// Which partition.
    pub partition: Partition,
    /// Where it must stand.
    pub from: OutcomeWatermark,
    /// Where it stands afterwards.
    pub to: OutcomeWatermark,
    /// The record before `to.next_src`.
    pub last_record: Option<RecordIdentity>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is committed; the partition's beat is this now.
    Committed {
        /// The new beat.
        beat: i64,
    },
    /// The watermark is not where the batch starts: somebody else is ahead, or the database went back in time. Nothing was written.
    Conflict,
}

/// An issued coupon, as it is written.
#[derive(Clone, Debug)]
pub struct IssuedCoupon {
    /// The limit it is within, copied from the coupon.
    pub per_user_limit: u16,
    /// The code that the winner shows.
    pub code: String,
    /// From when on it can no longer be redeemed.
    pub expires_at: Option<Timestamp>,
}

/// The rows of a batch, column by column, as they are sent.
#[derive(Default)]
pub struct OutcomeRows {
    claims: ClaimColumns,
    issued: IssuedColumns,
    counters: Vec<Counter>,
    parked: ParkedColumns,
}

/// What a batch adds to a coupon.
struct Counter {
    coupon_id: CouponId,
    granted: i32,
    settled: i32,
    last_grant: Option<i64>,
}

#[derive(Default)]
struct ParkedColumns {
    src_offset: Vec<i64>,
    coupon_id: Vec<Uuid>,
    claim_mac: Vec<Uuid>,
}

#[derive(Default)]
struct ClaimColumns {
    src_offset: Vec<i64>,
    coupon_id: Vec<Uuid>,
    claim_mac: Vec<Uuid>,
    round: Vec<i16>,
    slot: Vec<i64>,
    user_id: Vec<UserId>,
    code: Vec<&'static str>,
    is_final: Vec<bool>,
    rank: Vec<Option<i32>>,
    issue_no: Vec<Option<i32>>,
    user_nth: Vec<Option<i16>>,
    granted_mac: Vec<Option<Uuid>>,
    granted_round: Vec<Option<i16>>,
    granted_slot: Vec<Option<i64>>,
    appended_at: Vec<OffsetDateTime>,
}

#[derive(Default)]
struct IssuedColumns {
    claim_mac: Vec<Uuid>,
    coupon_id: Vec<Uuid>,
    round: Vec<i16>,
    slot: Vec<i64>,
    user_id: Vec<UserId>,
    user_nth: Vec<i16>,
    issue_no: Vec<i32>,
    per_user_limit: Vec<i32>,
    code: Vec<String>,
    issued_at: Vec<OffsetDateTime>,
    expires_at: Vec<Option<OffsetDateTime>>,
}

impl OutcomeRows {
    /// How many claims are in the batch.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.claims.src_offset.len()
    }

    /// How many issued coupons are in the batch.
    #[must_use]
    pub fn issued(&self) -> usize {
        self.issued.claim_mac.len()
    }

    /// How many parked claims are in the batch.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.src_offset.len()
    }

    /// Adds a claim whose record could not be read.
    pub fn push_parked(&mut self, src_offset: Offset, claim_id: &ClaimId) {
        self.parked.src_offset.push(src_offset.number());
        self.parked.coupon_id.push(claim_id.coupon_id.unique());
        self.parked.claim_mac.push(Uuid::from_bytes(claim_id.mac));
    }

    /// Adds a new answer to a claim.
    pub fn push_claim(&mut self, src_offset: Offset, appended_at: Timestamp, claim: &ClaimOutcome) {
        let columns = &mut self.claims;
        let granted = claim.granted_claim_id;
        columns.src_offset.push(src_offset.number());
        columns.coupon_id.push(claim.claim_id.coupon_id.unique());
        columns.claim_mac.push(Uuid::from_bytes(claim.claim_id.mac));
        columns.round.push(i16::from(claim.claim_id.round.number()));
        columns.slot.push(slot_to_column(claim.claim_id.slot));
        columns.user_id.push(claim.user_id.clone());
        columns.code.push(claim.code.as_str());
        columns.is_final.push(claim.is_final);
        columns.rank.push(claim.rank.map(small));
        columns.issue_no.push(claim.issue_no.map(small));
        columns.user_nth.push(claim.user_nth.map(|nth| i16::try_from(nth).unwrap_or(i16::MAX)));
        columns.granted_mac.push(granted.map(|granted| Uuid::from_bytes(granted.mac)));
        columns.granted_round.push(granted.map(|granted| i16::from(granted.round.number())));
        columns.granted_slot.push(granted.map(|granted| slot_to_column(granted.slot)));
        columns.appended_at.push(to_time(appended_at));
        if claim.is_final {
            self.counter(claim.claim_id.coupon_id).settled += 1;
        }
    }

    /// Adds the issued coupon of a granted claim, and counts it.
    pub fn push_issued(
        &mut self,
        src_offset: Offset,
        appended_at: Timestamp,
        claim: &ClaimOutcome,
        issued: IssuedCoupon,
    ) {
        let coupon_id = claim.claim_id.coupon_id;
        let columns = &mut self.issued;
        columns.claim_mac.push(Uuid::from_bytes(claim.claim_id.mac));
        columns.coupon_id.push(coupon_id.unique());
        columns.round.push(i16::from(claim.claim_id.round.number()));
        columns.slot.push(slot_to_column(claim.claim_id.slot));
        columns.user_id.push(claim.user_id.clone());
        columns.user_nth.push(claim.user_nth.map_or(0, |nth| i16::try_from(nth).unwrap_or(i16::MAX)));
        columns.issue_no.push(claim.issue_no.map_or(0, small));
        columns.per_user_limit.push(i32::from(issued.per_user_limit));
        columns.code.push(issued.code);
        columns.issued_at.push(to_time(appended_at));
        columns.expires_at.push(issued.expires_at.map(to_time));
        let counter = self.counter(coupon_id);
        counter.granted += 1;
        counter.last_grant = Some(src_offset.number());
    }

    /// A batch speaks of few coupons, and mostly of the same one again.
    fn counter(&mut self, coupon_id: CouponId) -> &mut Counter {
        let known = self.counters.iter().rposition(|counter| counter.coupon_id == coupon_id);
        let index = known.unwrap_or(self.counters.len());
        if known.is_none() {
            self.counters.push(Counter { coupon_id, granted: 0, settled: 0, last_grant: None });
        }
        #[expect(clippy::indexing_slicing, reason = "it was found there, or pushed there")]
        &mut self.counters[index]
    }
}

/// Ranks and issue numbers stay far below 2³¹: a ledger with as many claims would need a hundred gigabytes.
fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

struct WriteOutcomes<'a> {
    to_next_src: i64,
    to_next_outcome_offset: i64,
    to_chain: &'a [u8],
    last_record_id: Option<&'a str>,
    last_appended_at: Option<OffsetDateTime>,
    partition: i32,
    from_next_src: i64,
    from_next_outcome_offset: i64,
    from_chain: &'a [u8],
    src_offset: &'a [i64],
    coupon_id: &'a [Uuid],
    claim_mac: &'a [Uuid],
    round: &'a [i16],
    slot: &'a [i64],
    user_id: Vec<&'a str>,
    code: &'a [&'static str],
    is_final: &'a [bool],
    rank: &'a [Option<i32>],
    issue_no: &'a [Option<i32>],
    user_nth: &'a [Option<i16>],
    granted_mac: &'a [Option<Uuid>],
    granted_round: &'a [Option<i16>],
    granted_slot: &'a [Option<i64>],
    appended_at: &'a [OffsetDateTime],
    issued_claim_mac: &'a [Uuid],
    issued_coupon_id: &'a [Uuid],
    issued_round: &'a [i16],
    issued_slot: &'a [i64],
    issued_user_id: Vec<&'a str>,
    issued_user_nth: &'a [i16],
    issued_issue_no: &'a [i32],
    issued_per_user_limit: &'a [i32],
    issued_code: &'a [String],
    issued_at: &'a [OffsetDateTime],
    issued_expires_at: &'a [Option<OffsetDateTime>],
    counted_coupon_id: Vec<Uuid>,
    counted_granted: Vec<i32>,
    counted_settled: Vec<i32>,
    counted_last_grant: Vec<Option<i64>>,
    parked_src_offset: &'a [i64],
    parked_coupon_id: &'a [Uuid],
    parked_claim_mac: &'a [Uuid],
    counted: i64,
}

statement!(WriteOutcomes, "sql/write_outcomes.sql", (
    to_next_src: BigInt,
    to_next_outcome_offset: BigInt,
    to_chain: Binary,
    last_record_id: Nullable<Text>,
    last_appended_at: Nullable<Timestamptz>,
    partition: Integer,
    from_next_src: BigInt,
    from_next_outcome_offset: BigInt,
    from_chain: Binary,
    src_offset: Array<BigInt>,
    coupon_id: Array<UuidType>,
    claim_mac: Array<UuidType>,
    round: Array<SmallInt>,
    slot: Array<BigInt>,
    user_id: Array<Text>,
    code: Array<Text>,
    is_final: Array<Bool>,
    rank: Array<Nullable<Integer>>,
    issue_no: Array<Nullable<Integer>>,
    user_nth: Array<Nullable<SmallInt>>,
    granted_mac: Array<Nullable<UuidType>>,
    granted_round: Array<Nullable<SmallInt>>,
    granted_slot: Array<Nullable<BigInt>>,
    appended_at: Array<Timestamptz>,
    issued_claim_mac: Array<UuidType>,
    issued_coupon_id: Array<UuidType>,
    issued_round: Array<SmallInt>,
    issued_slot: Array<BigInt>,
    issued_user_id: Array<Text>,
    issued_user_nth: Array<SmallInt>,
    issued_issue_no: Array<Integer>,
    issued_per_user_limit: Array<Integer>,
    issued_code: Array<Text>,
    issued_at: Array<Timestamptz>,
    issued_expires_at: Array<Nullable<Timestamptz>>,
    counted_coupon_id: Array<UuidType>,
    counted_granted: Array<Integer>,
    counted_settled: Array<Integer>,
    counted_last_grant: Array<Nullable<BigInt>>,
    parked_src_offset: Array<BigInt>,
    parked_coupon_id: Array<UuidType>,
    parked_claim_mac: Array<UuidType>,
    counted: BigInt,
) -> (BigInt, Bool, BigInt, BigInt, BigInt));

/// Writes a batch of claims' outcomes (or, without rows, moves the watermark alone).
///
/// # Errors
/// [`PostgresError::Constraint`]: the log and the tables disagree, and nothing was written.
pub async fn write_outcomes(
    connection: &mut Connection,
    step: &Move,
    rows: &OutcomeRows,
) -> Result<Written, PostgresError> {
    let (claims, issued) = (&rows.claims, &rows.issued);
    let statement = WriteOutcomes {
        to_next_src: step.to.next_src.number(),
        to_next_outcome_offset: step.to.next_outcome_offset.number(),
        to_chain: step.to.chain.as_bytes(),
        last_record_id: step.last_record.as_ref().and_then(|record| record.id.as_deref()),
        last_appended_at: step.last_record.as_ref().map(|record| to_time(record.appended_at)),
        partition: step.partition.number(),
        from_next_src: step.from.next_src.number(),
        from_next_outcome_offset: step.from.next_outcome_offset.number(),
        from_chain: step.from.chain.as_bytes(),
        src_offset: &claims.src_offset,
        coupon_id: &claims.coupon_id,
        claim_mac: &claims.claim_mac,
        round: &claims.round,
        slot: &claims.slot,
        user_id: claims.user_id.iter().map(UserId::as_str).collect(),
        code: &claims.code,
        is_final: &claims.is_final,
        rank: &claims.rank,
        issue_no: &claims.issue_no,
        user_nth: &claims.user_nth,
        granted_mac: &claims.granted_mac,
        granted_round: &claims.granted_round,
        granted_slot: &claims.granted_slot,
        appended_at: &claims.appended_at,
        issued_claim_mac: &issued.claim_mac,
        issued_coupon_id: &issued.coupon_id,
        issued_round: &issued.round,
        issued_slot: &issued.slot,
        issued_user_id: issued.user_id.iter().map(UserId::as_str).collect(),
        issued_user_nth: &issued.user_nth,
        issued_issue_no: &issued.issue_no,
        issued_per_user_limit: &issued.per_user_limit,
        issued_code: &issued.code,
        issued_at: &issued.issued_at,
        issued_expires_at: &issued.expires_at,
        counted_coupon_id: rows.counters.iter().map(|counter| counter.coupon_id.unique()).collect(),
        counted_granted: rows.counters.iter().map(|counter| counter.granted).collect(),
        counted_settled: rows.counters.iter().map(|counter| counter.settled).collect(),
        counted_last_grant: rows.counters.iter().map(|counter| counter.last_grant).collect(),
        parked_src_offset: &rows.parked.src_offset,
        parked_coupon_id: &rows.parked.coupon_id,
        parked_claim_mac: &rows.parked.claim_mac,
        counted: i64::try_from(rows.counters.len()).unwrap_or(i64::MAX),
    };
    let row: Option<(i64, bool, i64, i64, i64)> =
        statement.get_result(&mut connection.inner).await.optional()?;
    let Some((beat, _, claims, issued, parked)) = row else {
        return Ok(Written::Conflict);
    };
    let written = [claims, issued, parked].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let expected = [rows.claims(), rows.issued(), rows.parked()];
    if written != expected {
        return Err(PostgresError::Torn(format!(
            "claims, issued coupons and parked claims: {written:?} rows were written of {expected:?}"
        )));
    }
    Ok(Written::Committed { beat })
}

struct WriteCommand<'a> {
    to_next_src: i64,
    to_next_outcome_offset: i64,
    to_chain: &'a [u8],
    last_record_id: Option<&'a str>,
    last_appended_at: Option<OffsetDateTime>,
    partition: i32,
    from_next_src: i64,
    from_next_outcome_offset: i64,
    from_chain: &'a [u8],
    coupon_id: Uuid,
    name: &'a str,
    initial_quantity: i32,
    per_user_limit: i32,
    opens_at: OffsetDateTime,
    closes_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    expires_after_days: Option<i32>,
    rules: i32,
    key_id: &'a str,
    status: &'static str,
    round: i16,
    quantity: i32,
    issued: i32,
    version: i32,
    last_command_mac: Uuid,
    last_command_code: &'static str,
    command_mac: Uuid,
    src_offset: i64,
    kind: &'static str,
    code: &'static str,
    refusal: Option<&'static str>,
    actor: &'a str,
    reason: Option<&'a str>,
    state: serde_json::Value,
    appended_at: OffsetDateTime,
    publishes: bool,
}

statement!(WriteCommand, "sql/write_command.sql", (
    to_next_src: BigInt,
    to_next_outcome_offset: BigInt,
    to_chain: Binary,
    last_record_id: Nullable<Text>,
    last_appended_at: Nullable<Timestamptz>,
    partition: Integer,
    from_next_src: BigInt,
    from_next_outcome_offset: BigInt,
    from_chain: Binary,
    coupon_id: UuidType,
    name: Text,
    initial_quantity: Integer,
    per_user_limit: Integer,
    opens_at: Timestamptz,
    closes_at: Timestamptz,
    expires_at: Nullable<Timestamptz>,
    expires_after_days: Nullable<Integer>,
    rules: Integer,
    key_id: Text,
    status: Text,
    round: SmallInt,
    quantity: Integer,
    issued: Integer,
    version: Integer,
    last_command_mac: UuidType,
    last_command_code: Text,
    command_mac: UuidType,
    src_offset: BigInt,
    kind: Text,
    code: Text,
    refusal: Nullable<Text>,
    actor: Text,
    reason: Nullable<Text>,
    state: Jsonb,
    appended_at: Timestamptz,
    publishes: Bool,
) -> (BigInt, Bool, BigInt));

/// Writes a command's outcome and the state that it left.
///
/// # Errors
/// [`PostgresError::Constraint`]: the log and the tables disagree, and nothing was written.
pub async fn write_command(
    connection: &mut Connection,
    step: &Move,
    src_offset: Offset,
    appended_at: Timestamp,
    command: &CommandOutcome,
    state: &CouponState,
) -> Result<Written, PostgresError> {
    let definition = &state.definition;
    let (expires_at, expires_after_days) = match definition.expiry() {
        None => (None, None),
        Some(Expiry::At(moment)) => (Some(to_time(moment)), None),
        Some(Expiry::DaysAfterIssue(days)) => (None, Some(i32::from(days))),
    };
    let statement = WriteCommand {
        to_next_src: step.to.next_src.number(),
        to_next_outcome_offset: step.to.next_outcome_offset.number(),
        to_chain: step.to.chain.as_bytes(),
        last_record_id: step.last_record.as_ref().and_then(|record| record.id.as_deref()),
        last_appended_at: step.last_record.as_ref().map(|record| to_time(record.appended_at)),
        partition: step.partition.number(),
        from_next_src: step.from.next_src.number(),
        from_next_outcome_offset: step.from.next_outcome_offset.number(),
        from_chain: step.from.chain.as_bytes(),
        coupon_id: state.coupon_id.unique(),
        name: definition.name(),
        initial_quantity: small(definition.quantity()),
        per_user_limit: i32::from(definition.per_user_limit()),
        opens_at: to_time(definition.window().opens_at()),
        closes_at: to_time(definition.window().closes_at()),
        expires_at,
        expires_after_days,
        rules: i32::from(definition.rules()),
        key_id: definition.key_id().as_str(),
        status: state.status.as_str(),
        round: i16::from(state.round.number()),
        quantity: small(state.quantity),
        issued: small(state.issued),
        version: small(state.version),
        last_command_mac: Uuid::from_bytes(state.last_command.command_id.mac),
        last_command_code: state.last_command.code.as_str(),
        command_mac: Uuid::from_bytes(command.command_id.mac),
        src_offset: src_offset.number(),
        kind: command.kind.as_str(),
        code: command.code.as_str(),
        refusal: command.refusal.map(|refusal| refusal.as_str()),
        actor: command.actor.as_str(),
        reason: command.reason.as_deref(),
        state: serde_json::to_value(state).map_err(|error| PostgresError::Torn(error.to_string()))?,
        appended_at: to_time(appended_at),
        publishes: command.kind == CommandKind::Publish && command.code == CommandCode::Applied,
    };
    let row: Option<(i64, bool, i64)> = statement.get_result(&mut connection.inner).await.optional()?;
    match row {
        None => Ok(Written::Conflict),
        Some((beat, _, 2)) => Ok(Written::Committed { beat }),
        Some((_, _, rows)) => Err(PostgresError::Torn(format!("a command wrote {rows} rows"))),
    }
}

/// True for answers that have a row in `claims`: all but those that are remembered nowhere.
#[must_use]
pub fn has_row(claim: &ClaimOutcome) -> bool {
    match claim.code {
        ClaimCode::UnknownCoupon => false,
        ClaimCode::Closed | ClaimCode::AlreadyIssued => claim.is_final,
        _ => true,
    }
}
