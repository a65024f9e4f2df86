//! How a coupon's claims stand, counted: each once by its final answer, else by its latest.
//!
//! Rows of claims are only ever added, so what PostgreSQL knew at a watermark can be asked later as well: by the offsets below it.

use std::collections::HashMap;

use coupon_domain::{ClaimCode, CouponId, Offset};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Uuid as UuidType};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::connection::{PooledConnection, PostgresError};
use crate::rows::offset;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds a coupon. Final.
    Granted,
    /// Another final answer.
    Rejected,
    /// A deferral is its latest answer.
    Deferred,
    /// Its latest record could not be read.
    DeadLettered,
}

impl Standing {
    /// What an answer makes of a claim.
    #[must_use]
    pub fn of(code: ClaimCode) -> Self {
        match code {
            ClaimCode::Granted => Self::Granted,
            ClaimCode::NotOpen | ClaimCode::Paused => Self::Deferred,
            ClaimCode::SoldOut | ClaimCode::AlreadyIssued | ClaimCode::Closed | ClaimCode::UnknownCoupon => {
                Self::Rejected
            }
        }
    }

    /// True where no other answer will come.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Granted | Self::Rejected)
    }
}

/// A coupon's claims, up to PostgreSQL's watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimCounts {
    /// The first claims offset that is not counted.
    pub next_src: Offset,
    /// The outcomes offset from which on the rest is told.
    pub next_outcome_offset: Offset,
    /// See [`Standing::Granted`].
    pub granted: i64,
    /// See [`Standing::Rejected`].
    pub rejected: i64,
    /// See [`Standing::Deferred`].
    pub deferred: i64,
    /// See [`Standing::DeadLettered`].
    pub dead_lettered: i64,
}

#[derive(QueryableByName)]
struct CountsRow {
    #[diesel(sql_type = BigInt)]
    next_src: i64,
    #[diesel(sql_type = BigInt)]
    next_outcome_offset: i64,
    #[diesel(sql_type = BigInt)]
    granted: i64,
    #[diesel(sql_type = BigInt)]
    settled: i64,
    #[diesel(sql_type = BigInt)]
    deferred: i64,
    #[diesel(sql_type = BigInt)]
    dead_lettered: i64,
}

/// Counts a coupon's claims.
///
/// # Errors
/// [`PostgresError`].
pub async fn count(
    connection: &mut PooledConnection,
    coupon_id: CouponId,
) -> Result<ClaimCounts, PostgresError> {
    let row: CountsRow = diesel::sql_query(include_str!("sql/claim_counts.sql"))
        .bind::<Integer, _>(coupon_id.partition().number())
        .bind::<UuidType, _>(coupon_id.unique())
        .get_result(connection)
        .await?;
    Ok(ClaimCounts {
        next_src: offset("next_src", row.next_src)?,
        next_outcome_offset: offset("next_outcome_offset", row.next_outcome_offset)?,
        granted: row.granted,
        rejected: row.settled.saturating_sub(row.granted),
        deferred: row.deferred,
        dead_lettered: row.dead_lettered,
    })
}

#[derive(QueryableByName)]
struct StandingRow {
    #[diesel(sql_type = UuidType)]
    claim_mac: Uuid,
    #[diesel(sql_type = Nullable<Text>)]
    final_code: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    deferred_at: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    parked_at: Option<i64>,
}

/// How these claims of a coupon (by the macs of their ids) stood at a watermark; those of which nothing was known are not in it.
///
/// # Errors
/// [`PostgresError`].
pub async fn standings(
    connection: &mut PooledConnection,
    coupon_id: CouponId,
    macs: impl Iterator<Item = [u8; 16]>,
    before: Offset,
) -> Result<HashMap<[u8; 16], Standing>, PostgresError> {
    let macs: Vec<Uuid> = macs.map(Uuid::from_bytes).collect();
    let rows: Vec<StandingRow> = diesel::sql_query(include_str!("sql/claim_standings.sql"))
        .bind::<Array<UuidType>, _>(macs)
        .bind::<UuidType, _>(coupon_id.unique())
        .bind::<Integer, _>(coupon_id.partition().number())
        .bind::<BigInt, _>(before.number())
        .load(connection)
        .await?;
    let standing = |row: &StandingRow| match (&row.final_code, row.deferred_at, row.parked_at) {
        (Some(code), _, _) if code == ClaimCode::Granted.as_str() => Some(Standing::Granted),
        (Some(_), _, _) => Some(Standing::Rejected),
        (None, deferred_at, Some(parked_at)) if deferred_at.is_none_or(|at| at < parked_at) => {
            Some(Standing::DeadLettered)
        }
        (None, Some(_), _) => Some(Standing::Deferred),
        (None, None, _) => None,
    };
    Ok(rows.iter().filter_map(|row| Some((row.claim_mac.into_bytes(), standing(row)?))).collect())
}
