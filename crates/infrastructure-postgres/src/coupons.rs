//! Published coupons as PostgreSQL knows them, behind its watermark.

use std::sync::Arc;

use coupon_domain::coupon::{LastCommand, UncheckedDefinition, Window};
use coupon_domain::{CommandCode, CommandId, CouponId, CouponState, CouponStatus, Expiry, Partition, Round};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as UuidType};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connection::{Connection, PooledConnection, PostgresError};
use crate::rows::{from_time, number, offset};

const COLUMNS: &str = "coupon_id, partition, name, initial_quantity, per_user_limit, opens_at, closes_at, expires_at, \
    expires_after_days, rules, key_id, status::text AS status, round, quantity, issued, settled, version, last_command_mac, \
    last_command_code::text AS last_command_code, last_grant_offset";

#[derive(QueryableByName)]
pub(crate) struct CouponRow {
    #[diesel(sql_type = UuidType)]
    coupon_id: Uuid,
    #[diesel(sql_type = Integer)]
    partition: i32,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Integer)]
    initial_quantity: i32,
    #[diesel(sql_type = Integer)]
    per_user_limit: i32,
    #[diesel(sql_type = Timestamptz)]
    opens_at: OffsetDateTime,
    #[diesel(sql_type = Timestamptz)]
    closes_at: OffsetDateTime,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<Integer>)]
    expires_after_days: Option<i32>,
    #[diesel(sql_type = Integer)]
    rules: i32,
    #[diesel(sql_type = Text)]
    key_id: String,
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = SmallInt)]
    round: i16,
    #[diesel(sql_type = Integer)]
    quantity: i32,
    #[diesel(sql_type = Integer)]
    issued: i32,
    #[diesel(sql_type = Integer)]
    settled: i32,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = UuidType)]
    last_command_mac: Uuid,
    #[diesel(sql_type = Text)]
    last_command_code: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    last_grant_offset: Option<i64>,
}

impl CouponRow {
    fn with_settled(self) -> Result<(CouponState, u32), PostgresError> {
        let settled = number("settled", self.settled)?;
        Ok((CouponState::try_from(self)?, settled))
    }
}

impl TryFrom<CouponRow> for CouponState {
    type Error = PostgresError;

    fn try_from(row: CouponRow) -> Result<Self, Self::Error> {
        let torn = |what: String| PostgresError::Torn(format!("coupon {}: {what}", row.coupon_id));
        let partition = Partition::new(row.partition).map_err(|error| torn(error.to_string()))?;
        let coupon_id = CouponId::new(partition, row.coupon_id);
        let expiry = match (row.expires_at, row.expires_after_days) {
            (Some(time), None) => Some(Expiry::At(from_time(time)?)),
            (None, Some(days)) => Some(Expiry::DaysAfterIssue(number("expires_after_days", days)?)),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(torn("expires in two ways".to_owned())),
        };
        let window = Window::new(from_time(row.opens_at)?, from_time(row.closes_at)?)
            .map_err(|error| torn(error.to_string()))?;
        let definition = UncheckedDefinition {
            name: row.name,
            quantity: number("initial_quantity", row.initial_quantity)?,
            per_user_limit: number("per_user_limit", row.per_user_limit)?,
            opens_at: window.opens_at().ms(),
            closes_at: window.closes_at().ms(),
            expiry,
            rules: number("rules", row.rules)?,
            key_id: row.key_id.parse().map_err(|_| torn("key_id is malformed".to_owned()))?,
        };
        let definition = definition.check().map_err(|errors| torn(format!("{errors:?}")))?;
        let round = Round::new(number("round", row.round)?).map_err(|error| torn(error.to_string()))?;
        let code = CommandCode::from_name(&row.last_command_code)
            .ok_or_else(|| torn("last_command_code is unknown".to_owned()))?;
        Ok(Self {
            coupon_id,
            definition: Arc::new(definition),
            status: status(&row.status).ok_or_else(|| torn("status is unknown".to_owned()))?,
            round,
            quantity: number("quantity", row.quantity)?,
            issued: number("issued", row.issued)?,
            version: number("version", row.version)?,
            last_command: LastCommand {
                command_id: CommandId { coupon_id, mac: row.last_command_mac.into_bytes() },
                code,
            },
            last_grant_offset: row.last_grant_offset.map(|at| offset("last_grant_offset", at)).transpose()?,
        })
    }
}

fn status(name: &str) -> Option<CouponStatus> {
    [CouponStatus::Active, CouponStatus::Paused, CouponStatus::Closed, CouponStatus::Retired]
        .into_iter()
        .find(|status| status.as_str() == name)
}

/// All coupons of a partition, retired ones included, each with the number of its claims that have a final answer.
pub(crate) async fn with_settled(
    connection: &mut AsyncPgConnection,
    partition: Partition,
) -> Result<Vec<(CouponState, u32)>, PostgresError> {
    let sql = format!("SELECT {COLUMNS} FROM coupons WHERE partition = $1");
    let rows: Vec<CouponRow> =
        diesel::sql_query(sql).bind::<Integer, _>(partition.number()).load(connection).await?;
    rows.into_iter().map(CouponRow::with_settled).collect()
}

/// Those of these coupons that are published, each with the number of its claims that have a final answer.
pub(crate) async fn find_with_settled(
    connection: &mut AsyncPgConnection,
    unique: &[Uuid],
) -> Result<Vec<(CouponState, u32)>, PostgresError> {
    let sql = format!("SELECT {COLUMNS} FROM coupons WHERE coupon_id = ANY($1)");
    let rows: Vec<CouponRow> =
        diesel::sql_query(sql).bind::<Array<UuidType>, _>(unique).load(connection).await?;
    rows.into_iter().map(CouponRow::with_settled).collect()
}

/// All coupons of a partition, retired ones included.
///
/// # Errors
/// [`PostgresError`].
pub async fn in_partition(
    connection: &mut Connection,
    partition: Partition,
) -> Result<Vec<CouponState>, PostgresError> {
    let coupons = with_settled(&mut connection.inner, partition).await?;
    Ok(coupons.into_iter().map(|(state, _)| state).collect())
}

/// Those of these coupons that are published, in no order.
///
/// # Errors
/// [`PostgresError`].
pub async fn find_many(
    connection: &mut PooledConnection,
    coupon_ids: &[CouponId],
) -> Result<Vec<CouponState>, PostgresError> {
    if coupon_ids.is_empty() {
        return Ok(Vec::new());
    }
    let unique: Vec<Uuid> = coupon_ids.iter().map(|coupon_id| coupon_id.unique()).collect();
    let coupons = find_with_settled(connection, &unique).await?;
    Ok(coupons.into_iter().map(|(state, _)| state).collect())
}
