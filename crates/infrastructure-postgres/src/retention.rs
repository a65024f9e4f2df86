//! What is deleted of coupons that are over: the answers that won nothing some time after the coupon was retired, issued coupons some time after they were used
//! or expired. In small batches, each noted in the statement that deletes, so that whoever compares the tables with the log knows what is gone.

use coupon_domain::{CouponId, Partition};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Uuid as UuidType};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::connection::{PooledConnection, PostgresError};

/// How long what is over is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// Answers that won nothing: days since their coupon was retired.
    pub claims_days: u16,
    /// Issued coupons, their claims and redemptions: days since they were used or, unused, expired.
    pub coupons_days: u16,
}

/// A retired coupon of which something may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub coupon_id: CouponId,
    /// Its answers that won nothing are.
    pub losing: bool,
    /// Some of its issued coupons may be.
    pub issued: bool,
}

/// Rows that are gone, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Answers that won nothing, and claims that were parked.
    pub losing: u64,
    /// Issued coupons; each with its claim, and its redemption where there was one.
    pub issued: u64,
}

#[derive(QueryableByName)]
struct DueRow {
    #[diesel(sql_type = UuidType)]
    coupon_id: Uuid,
    #[diesel(sql_type = Integer)]
    partition: i32,
    #[diesel(sql_type = Bool)]
    losing: bool,
    #[diesel(sql_type = Bool)]
    issued: bool,
}

#[derive(QueryableByName)]
struct CountRow {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

/// The retired coupons of which something may be due now.
///
/// # Errors
/// [`PostgresError`].
pub async fn due(connection: &mut PooledConnection, periods: Periods) -> Result<Vec<Due>, PostgresError> {
    let rows: Vec<DueRow> = diesel::sql_query(include_str!("sql/retention_due.sql"))
        .bind::<Integer, _>(i32::from(periods.claims_days))
        .bind::<Integer, _>(i32::from(periods.coupons_days))
        .load(connection)
        .await?;
    rows.into_iter()
        .map(|row| {
            let partition = Partition::new(row.partition)
                .map_err(|error| PostgresError::Torn(format!("coupon {}: {error}", row.coupon_id)))?;
            let coupon_id = CouponId::new(partition, row.coupon_id);
            Ok(Due { coupon_id, losing: row.losing, issued: row.issued })
        })
        .collect()
}

/// How much of a coupon is due.
///
/// # Errors
/// [`PostgresError`].
pub async fn count(
    connection: &mut PooledConnection,
    due: Due,
    periods: Periods,
) -> Result<Deleted, PostgresError> {
    let mut counted = Deleted::default();
    if due.losing {
        let sql = "SELECT (SELECT count(*) FROM claims WHERE coupon_id = $1 AND final AND code <> 'granted') \
            + (SELECT count(*) FROM claims WHERE coupon_id = $1 AND NOT final) \
            + (SELECT count(*) FROM parked_claims WHERE coupon_id = $1) AS rows";
        let row: CountRow =
            diesel::sql_query(sql).bind::<UuidType, _>(due.coupon_id.unique()).get_result(connection).await?;
        counted.losing = u64::try_from(row.rows).unwrap_or(0);
    }
    if due.issued {
        let sql = "SELECT count(*) AS rows FROM issued_coupons \
            WHERE coupon_id = $1 AND coalesce(used_at, expires_at) < now() - make_interval(days => $2)";
        let row: CountRow = diesel::sql_query(sql)
            .bind::<UuidType, _>(due.coupon_id.unique())
            .bind::<Integer, _>(i32::from(periods.coupons_days))
            .get_result(connection)
            .await?;
        counted.issued = u64::try_from(row.rows).unwrap_or(0);
    }
    Ok(counted)
}

/// Deletes at most `rows_max` answers of a retired coupon that won nothing (and as many claims that were parked); how many rows went. 0: none is left, and
/// that is noted.
///
/// # Errors
/// [`PostgresError`].
pub async fn delete_losing(
    connection: &mut PooledConnection,
    coupon_id: CouponId,
    rows_max: u32,
) -> Result<u64, PostgresError> {
    let row: CountRow = diesel::sql_query(include_str!("sql/delete_losing.sql"))
        .bind::<UuidType, _>(coupon_id.unique())
        .bind::<BigInt, _>(i64::from(rows_max))
        .get_result(connection)
        .await?;
    Ok(u64::try_from(row.rows).unwrap_or(0))
}

/// Deletes at most `rows_max` issued coupons of a retired coupon that are due, with their claims and redemptions; how many. 0: none is due, and it is noted when the
/// next one can be.
///
/// # Errors
/// [`PostgresError`].
pub async fn delete_issued(
    connection: &mut PooledConnection,
    coupon_id: CouponId,
    coupons_days: u16,
    rows_max: u32,
) -> Result<u64, PostgresError> {
    let row: CountRow = diesel::sql_query(include_str!("sql/delete_issued.sql"))
        .bind::<UuidType, _>(coupon_id.unique())
        .bind::<BigInt, _>(i64::from(rows_max))
        .bind::<Integer, _>(i32::from(coupons_days))
        .get_result(connection)
        .await?;
    Ok(u64::try_from(row.rows).unwrap_or(0))
}
