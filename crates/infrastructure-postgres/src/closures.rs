//! Whether redeeming is open: a record that stands until an operator ends it, and what a store says of itself, by which services judge
//! whether it was put back in time ([`coupon_domain::restored`]).

use coupon_domain::restored::StoreStand;
use coupon_domain::{Partition, Timestamp};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Untyped};
use diesel_async::RunQueryDsl;
use time::OffsetDateTime;

use crate::connection::{PooledConnection, PostgresError};
use crate::rows::from_time;
use crate::schema::redemption_closures;
use crate::statement::statement;

/// Redeeming was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    /// When, by PostgreSQL's clock.
    pub closed_at: Timestamp,
    /// Which service noticed.
    pub closed_by: String,
    /// What it noticed.
    pub reason: String,
}

/// A closure that was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedClosure {
    /// What it was.
    pub closure: Closure,
    /// When it ended.
    pub reopened_at: Timestamp,
    /// Who ended it.
    pub reopened_by: String,
}

/// A store at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// What it says of itself.
    pub stand: StoreStand,
    /// The closure that stands.
    pub closure: Option<Closure>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = redemption_closures, check_for_backend(diesel::pg::Pg))]
struct ClosureRow {
    closed_at: OffsetDateTime,
    closed_by: String,
    reason: String,
    reopened_at: Option<OffsetDateTime>,
    reopened_by: Option<String>,
}

impl TryFrom<ClosureRow> for Closure {
    type Error = PostgresError;

    fn try_from(row: ClosureRow) -> Result<Self, Self::Error> {
        Ok(Self { closed_at: from_time(row.closed_at)?, closed_by: row.closed_by, reason: row.reason })
    }
}

#[derive(QueryableByName)]
struct StoreRow {
    #[diesel(sql_type = Text)]
    system_identifier: String,
    #[diesel(sql_type = Array<Integer>)]
    partitions: Vec<i32>,
    #[diesel(sql_type = Array<BigInt>)]
    beats: Vec<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    closed_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<Text>)]
    closed_by: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
}

struct LookAtStore<'a>(std::marker::PhantomData<&'a ()>);

statement!(LookAtStore, "sql/look_at_store.sql", () -> Untyped);

/// What the store says of itself, and the closure that stands, as of one moment.
///
/// # Errors
/// [`PostgresError`].
pub async fn look(connection: &mut PooledConnection) -> Result<Store, PostgresError> {
    let row: StoreRow = LookAtStore(std::marker::PhantomData).get_result(connection).await?;
    let partition = |number| {
        Partition::new(number).map_err(|error| PostgresError::Torn(format!("partition_progress: {error}")))
    };
    let beats = row.partitions.into_iter().zip(row.beats);
    let beats = beats.map(|(number, beat)| Ok::<_, PostgresError>((partition(number)?, beat)));
    let closure = match (row.closed_at, row.closed_by, row.reason) {
        (Some(closed_at), Some(closed_by), Some(reason)) => {
            Some(Closure { closed_at: from_time(closed_at)?, closed_by, reason })
        }
        _ => None,
    };
    Ok(Store {
        stand: StoreStand {
            system_identifier: row.system_identifier,
            beats: beats.collect::<Result<_, _>>()?,
        },
        closure,
    })
}

/// The closure that stands.
///
/// # Errors
/// [`PostgresError`].
pub async fn standing(connection: &mut PooledConnection) -> Result<Option<Closure>, PostgresError> {
    let row: Option<ClosureRow> = redemption_closures::table
        .filter(redemption_closures::reopened_at.is_null())
        .select(ClosureRow::as_select())
        .first(connection)
        .await
        .optional()?;
    row.map(Closure::try_from).transpose()
}

/// The closure that was ended last.
///
/// # Errors
/// [`PostgresError`].
pub async fn last_ended(connection: &mut PooledConnection) -> Result<Option<EndedClosure>, PostgresError> {
    let row: Option<ClosureRow> = redemption_closures::table
        .filter(redemption_closures::reopened_at.is_not_null())
        .order(redemption_closures::closure_no.desc())
        .select(ClosureRow::as_select())
        .first(connection)
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let (Some(reopened_at), Some(reopened_by)) = (row.reopened_at, row.reopened_by.clone()) else {
        return Ok(None);
    };
    Ok(Some(EndedClosure { reopened_at: from_time(reopened_at)?, reopened_by, closure: row.try_into()? }))
}

struct CloseRedemptions<'a> {
    partitions: Vec<i32>,
    beats: Vec<i64>,
    closed_by: &'a str,
    reason: &'a str,
}

statement!(CloseRedemptions, "sql/close_redemptions.sql", (
    partitions: Array<Integer>, beats: Array<BigInt>, closed_by: Text, reason: Text
) -> Untyped);

#[derive(QueryableByName)]
struct ClosedRow {
    #[diesel(sql_type = Bool)]
    is_new: bool,
}

/// Closes redeeming, unless it is closed already, and in the same commit raises the beats above these floors. True where it was open.
///
/// # Errors
/// [`PostgresError`].
pub async fn close(
    connection: &mut PooledConnection,
    closed_by: &str,
    reason: &str,
    floors: &[(Partition, i64)],
) -> Result<bool, PostgresError> {
    let query = CloseRedemptions {
        partitions: floors.iter().map(|(partition, _)| partition.number()).collect(),
        beats: floors.iter().map(|(_, beat)| *beat).collect(),
        closed_by,
        reason,
    };
    let row: ClosedRow = query.get_result(connection).await?;
    Ok(row.is_new)
}

/// Ends the closure that stands; none where none does.
///
/// # Errors
/// [`PostgresError`].
pub async fn reopen(
    connection: &mut PooledConnection,
    reopened_by: &str,
) -> Result<Option<Closure>, PostgresError> {
    use redemption_closures::dsl;

    let row: Option<ClosureRow> = diesel::update(dsl::redemption_closures.filter(dsl::reopened_at.is_null()))
        .set((dsl::reopened_at.eq(diesel::dsl::now), dsl::reopened_by.eq(reopened_by)))
        .returning(ClosureRow::as_returning())
        .get_result(connection)
        .await
        .optional()?;
    row.map(Closure::try_from).transpose()
}
