//! The checkpoint: a partition's ledger as PostgreSQL knows it, read in one snapshot, live coupon by live coupon.

use std::collections::HashMap;

use coupon_domain::code::Refusal;
use coupon_domain::ledger::{AnsweredCommand, CheckpointError, DefaultHasher, FinalClaim, Restoring};
use coupon_domain::{
    ClaimCode, CommandCode, CommandId, CouponId, CouponState, CouponStatus, Ledger, OutcomeWatermark,
    Partition,
};
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as UuidType};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::TryStreamExt;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connection::{Connection, PostgresError};
use crate::coupons;
use crate::progress::{Progress, ProgressRow};
use crate::rows::{claim_id, from_time, number, offset};
use crate::schema::partition_progress;

/// What PostgreSQL says about a partition, at one moment.
pub struct StoredLedger {
    /// How far it reflects the partition.
    pub progress: Progress,
    /// Everything that was decided up to there, ready to be folded on.
    pub ledger: Ledger,
}

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// PostgreSQL did not tell.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// It did, and the parts make no ledger.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl From<DieselError> for LoadError {
    fn from(error: DieselError) -> Self {
        Self::Postgres(error.into())
    }
}

/// Loads a partition's ledger, on the primary, in one snapshot: row by row, so that hardly more memory is used than the ledger
/// takes. None: PostgreSQL has never heard of the partition.
///
/// # Errors
/// [`LoadError`].
pub async fn load(
    connection: &mut Connection,
    partition: Partition,
) -> Result<Option<StoredLedger>, LoadError> {
    connection
        .inner
        .build_transaction()
        .repeatable_read()
        .read_only()
        .run(async |inner| load_in_snapshot(inner, partition).await)
        .await
}

pub(crate) async fn load_in_snapshot(
    connection: &mut AsyncPgConnection,
    partition: Partition,
) -> Result<Option<StoredLedger>, LoadError> {
    // Millions of claims take longer than a request may, and without them the line would wait for ever.
    diesel::sql_query("SET LOCAL statement_timeout = 0").execute(connection).await?;
    refuse_standby(connection).await?;
    let row: Option<ProgressRow> = partition_progress::table
        .find(partition.number())
        .select(ProgressRow::as_select())
        .first(connection)
        .await
        .optional()?;
    let Some(progress) = row.map(Progress::try_from).transpose()? else {
        return Ok(None);
    };
    let coupons = coupons::with_settled(connection, partition).await?;
    let mut commands = load_commands(connection, partition).await?;
    let OutcomeWatermark { next_src, chain, .. } = progress.watermark;
    let mut restoring = Restoring::begin(partition, next_src, chain, DefaultHasher::default());
    for (state, settled) in coupons {
        let coupon_id = state.coupon_id;
        let commands = commands.remove(&coupon_id).unwrap_or_default();
        every_version_has_its_command(&state, &commands)?;
        if state.status == CouponStatus::Retired {
            restoring.coupon(state, commands, 0)?;
        } else {
            restoring.coupon(state, commands, settled)?;
            load_claims(connection, coupon_id, &mut restoring).await?;
        }
    }
    if let Some(coupon_id) = commands.keys().next() {
        return Err(PostgresError::Torn(format!("commands of coupon {coupon_id}, and no coupon")).into());
    }
    Ok(Some(StoredLedger { progress, ledger: restoring.finish()? }))
}

/// Each applied command raised the version by one: a row too few would let that command apply a second time.
fn every_version_has_its_command(
    state: &CouponState,
    commands: &[AnsweredCommand],
) -> Result<(), PostgresError> {
    let applied = commands.iter().filter(|command| command.code == CommandCode::Applied).count();
    if u32::try_from(applied) == Ok(state.version) {
        return Ok(());
    }
    let (coupon_id, version) = (state.coupon_id, state.version);
    Err(PostgresError::Torn(format!("coupon {coupon_id}: version {version}, but {applied} commands applied")))
}

/// A standby may lag behind what was acknowledged: folding on from it would be right, but waiting for it is not our business.
async fn refuse_standby(connection: &mut AsyncPgConnection) -> Result<(), PostgresError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        standby: bool,
    }

    let row: Row = diesel::sql_query("SELECT pg_is_in_recovery() AS standby").get_result(connection).await?;
    if row.standby {
        return Err(PostgresError::Unreachable(
            "this is a standby, the checkpoint is read on the primary".to_owned(),
        ));
    }
    Ok(())
}

#[derive(QueryableByName)]
struct CommandRow {
    #[diesel(sql_type = UuidType)]
    command_mac: Uuid,
    #[diesel(sql_type = UuidType)]
    coupon_id: Uuid,
    #[diesel(sql_type = BigInt)]
    src_offset: i64,
    #[diesel(sql_type = Text)]
    code: String,
    #[diesel(sql_type = Nullable<Text>)]
    refusal: Option<String>,
}

async fn load_commands(
    connection: &mut AsyncPgConnection,
    partition: Partition,
) -> Result<HashMap<CouponId, Vec<AnsweredCommand>>, PostgresError> {
    let sql = "SELECT command_mac, coupon_id, src_offset, code::text AS code, refusal FROM commands WHERE src_partition = $1";
    let rows: Vec<CommandRow> =
        diesel::sql_query(sql).bind::<Integer, _>(partition.number()).load(connection).await?;
    let mut commands: HashMap<_, Vec<_>> = HashMap::new();
    for row in rows {
        let coupon_id = CouponId::new(partition, row.coupon_id);
        let torn = |what: &str| PostgresError::Torn(format!("a command of coupon {coupon_id}: {what}"));
        let refusal = match row.refusal {
            None => None,
            Some(name) => Some(Refusal::from_name(&name).ok_or_else(|| torn("refusal is unknown"))?),
        };
        commands.entry(coupon_id).or_default().push(AnsweredCommand {
            command_id: CommandId { coupon_id, mac: row.command_mac.into_bytes() },
            code: CommandCode::from_name(&row.code).ok_or_else(|| torn("code is unknown"))?,
            refusal,
            decided_offset: offset("src_offset", row.src_offset)?,
        });
    }
    Ok(commands)
}

#[derive(QueryableByName)]
struct ClaimRow {
    #[diesel(sql_type = UuidType)]
    claim_mac: Uuid,
    #[diesel(sql_type = SmallInt)]
    round: i16,
    #[diesel(sql_type = BigInt)]
    slot: i64,
    #[diesel(sql_type = Nullable<Text>)]
    granted_to: Option<String>,
    #[diesel(sql_type = Text)]
    code: String,
    #[diesel(sql_type = BigInt)]
    src_offset: i64,
    #[diesel(sql_type = Timestamptz)]
    appended_at: OffsetDateTime,
    #[diesel(sql_type = Nullable<Integer>)]
    rank: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    issue_no: Option<i32>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    user_nth: Option<i16>,
    #[diesel(sql_type = Nullable<UuidType>)]
    granted_claim_mac: Option<Uuid>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    granted_round: Option<i16>,
    #[diesel(sql_type = Nullable<BigInt>)]
    granted_slot: Option<i64>,
}

impl ClaimRow {
    fn read(self, coupon_id: CouponId) -> Result<FinalClaim, PostgresError> {
        let torn =
            |what: &str| PostgresError::Torn(format!("the claim at offset {}: {what}", self.src_offset));
        let granted_claim_id = match (self.granted_round, self.granted_slot, self.granted_claim_mac) {
            (Some(round), Some(slot), Some(mac)) => {
                Some(claim_id(coupon_id, ("granted_round", round), slot, mac)?)
            }
            _ => None,
        };
        let user_id = match &self.granted_to {
            None => None,
            Some(user) => Some(user.parse().map_err(|_| torn("user_id is malformed"))?),
        };
        Ok(FinalClaim {
            claim_id: claim_id(coupon_id, ("round", self.round), self.slot, self.claim_mac)?,
            user_id,
            code: ClaimCode::from_name(&self.code).ok_or_else(|| torn("code is unknown"))?,
            decided_offset: offset("src_offset", self.src_offset)?,
            appended_at: from_time(self.appended_at)?,
            rank: number("rank", self.rank.ok_or_else(|| torn("a final claim has no rank"))?)?,
            issue_no: self.issue_no.map(|issue_no| number("issue_no", issue_no)).transpose()?,
            user_nth: self.user_nth.map(|nth| number("user_nth", nth)).transpose()?,
            granted_claim_id,
        })
    }
}

async fn load_claims(
    connection: &mut AsyncPgConnection,
    coupon_id: CouponId,
    restoring: &mut Restoring,
) -> Result<(), LoadError> {
    let rows = diesel::sql_query(include_str!("sql/final_claims.sql"))
        .bind::<UuidType, _>(coupon_id.unique())
        .load_stream::<ClaimRow>(connection)
        .await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await? {
        restoring.claim(&row.read(coupon_id)?)?;
    }
    Ok(())
}
