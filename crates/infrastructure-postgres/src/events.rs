//! Who changed what, when and why.

use coupon_domain::{CommandId, CouponId, Offset, Timestamp};
use diesel::sql_types::{BigInt, Jsonb, Nullable, Text, Timestamptz, Uuid as UuidType};
use diesel_async::RunQueryDsl;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connection::{PooledConnection, PostgresError};
use crate::rows::{from_time, offset};

/// A command's row in `audit_events`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEvent {
    /// Its place in the line.
    pub src_offset: Offset,
    /// Which command.
    pub command_id: CommandId,
    /// Its kind.
    pub kind: String,
    /// Its answer.
    pub code: String,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// The coupon behind it.
    pub state: serde_json::Value,
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    src_offset: i64,
    #[diesel(sql_type = UuidType)]
    command_mac: Uuid,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    code: String,
    #[diesel(sql_type = Text)]
    actor: String,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    appended_at: OffsetDateTime,
    #[diesel(sql_type = Jsonb)]
    state: serde_json::Value,
}

/// At most `most` of a coupon's events, the newest first, before an offset.
///
/// # Errors
/// [`PostgresError`].
pub async fn list(
    connection: &mut PooledConnection,
    coupon_id: CouponId,
    before: Option<Offset>,
    most: u16,
) -> Result<Vec<AuditEvent>, PostgresError> {
    let sql = "SELECT src_offset, command_mac, kind::text AS kind, code::text AS code, actor, reason, appended_at, state \
        FROM audit_events WHERE coupon_id = $1 AND src_offset < $2 ORDER BY src_offset DESC LIMIT $3";
    let rows: Vec<Row> = diesel::sql_query(sql)
        .bind::<UuidType, _>(coupon_id.unique())
        .bind::<BigInt, _>(before.map_or(i64::MAX, Offset::number))
        .bind::<BigInt, _>(i64::from(most))
        .load(connection)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(AuditEvent {
                src_offset: offset("src_offset", row.src_offset)?,
                command_id: CommandId { coupon_id, mac: row.command_mac.into_bytes() },
                kind: row.kind,
                code: row.code,
                actor: row.actor,
                reason: row.reason,
                appended_at: from_time(row.appended_at)?,
                state: row.state,
            })
        })
        .collect()
}
