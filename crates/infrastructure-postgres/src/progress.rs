//! The watermark of a partition: how far PostgreSQL reflects it.

use coupon_domain::resume::RecordIdentity;
use coupon_domain::{Chain, OutcomeWatermark, Partition};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use time::OffsetDateTime;

use crate::connection::{Connection, PooledConnection, PostgresError};
use crate::rows;
use crate::schema::partition_progress;

/// A row of `partition_progress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How far the partition is reflected.
    pub watermark: OutcomeWatermark,
    /// Only ever grows; lower than what was published means a database put back in time.
    pub beat: i64,
    /// The record before `watermark.next_src`; absent before the first.
    pub last_record: Option<RecordIdentity>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = partition_progress, check_for_backend(diesel::pg::Pg))]
pub(crate) struct ProgressRow {
    next_src: i64,
    next_outcome_offset: i64,
    chain: Vec<u8>,
    beat: i64,
    last_record_id: Option<String>,
    last_appended_at: Option<OffsetDateTime>,
}

impl TryFrom<ProgressRow> for Progress {
    type Error = PostgresError;

    fn try_from(row: ProgressRow) -> Result<Self, Self::Error> {
        let chain: [u8; 32] = row
            .chain
            .try_into()
            .map_err(|_| PostgresError::Torn("a chain is not 32 bytes long".to_owned()))?;
        let last_record = match row.last_appended_at {
            None => None,
            Some(time) => {
                Some(RecordIdentity { id: row.last_record_id, appended_at: rows::from_time(time)? })
            }
        };
        Ok(Self {
            watermark: OutcomeWatermark {
                next_src: rows::offset("next_src", row.next_src)?,
                next_outcome_offset: rows::offset("next_outcome_offset", row.next_outcome_offset)?,
                chain: Chain::from_bytes(chain),
            },
            beat: row.beat,
            last_record,
        })
    }
}

/// The partition's progress, if it has a row.
///
/// # Errors
/// [`PostgresError`].
pub async fn load(
    connection: &mut Connection,
    partition: Partition,
) -> Result<Option<Progress>, PostgresError> {
    let row: Option<ProgressRow> = partition_progress::table
        .find(partition.number())
        .select(ProgressRow::as_select())
        .first(&mut connection.inner)
        .await
        .optional()?;
    row.map(Progress::try_from).transpose()
}

/// The partition's progress; its row is made where it has none.
///
/// # Errors
/// [`PostgresError`].
pub async fn load_or_create(
    connection: &mut Connection,
    partition: Partition,
) -> Result<Progress, PostgresError> {
    use partition_progress::dsl;

    let genesis = OutcomeWatermark::genesis(partition);
    diesel::insert_into(partition_progress::table)
        .values((
            dsl::partition.eq(partition.number()),
            dsl::next_src.eq(genesis.next_src.number()),
            dsl::next_outcome_offset.eq(genesis.next_outcome_offset.number()),
            dsl::chain.eq(genesis.chain.as_bytes().as_slice()),
            dsl::beat.eq(0),
        ))
        .on_conflict(dsl::partition)
        .do_nothing()
        .execute(&mut connection.inner)
        .await?;
    load(connection, partition)
        .await?
        .ok_or_else(|| PostgresError::Torn(format!("the progress of partition {partition} vanished")))
}

/// Raises the beat of a partition that stands still, if it is still where we think. None: it is not.
///
/// # Errors
/// [`PostgresError`].
pub async fn beat(
    connection: &mut Connection,
    partition: Partition,
    watermark: &OutcomeWatermark,
) -> Result<Option<i64>, PostgresError> {
    use partition_progress::dsl;

    let beat = diesel::update(partition_progress::table.find(partition.number()))
        .filter(dsl::next_src.eq(watermark.next_src.number()))
        .filter(dsl::next_outcome_offset.eq(watermark.next_outcome_offset.number()))
        .filter(dsl::chain.eq(watermark.chain.as_bytes().as_slice()))
        .set(dsl::beat.eq(dsl::beat + 1))
        .returning(dsl::beat)
        .get_result(&mut connection.inner)
        .await
        .optional()?;
    Ok(beat)
}

/// Raises the beat of a partition, wherever its writer stands: for whoever redeems while that is silent. None: the partition has no row.
///
/// # Errors
/// [`PostgresError`].
pub async fn raise_beat(
    connection: &mut PooledConnection,
    partition: Partition,
) -> Result<Option<Progress>, PostgresError> {
    use partition_progress::dsl;

    let row: Option<ProgressRow> = diesel::update(partition_progress::table.find(partition.number()))
        .set(dsl::beat.eq(dsl::beat + 1))
        .returning(ProgressRow::as_returning())
        .get_result(connection)
        .await
        .optional()?;
    row.map(Progress::try_from).transpose()
}
