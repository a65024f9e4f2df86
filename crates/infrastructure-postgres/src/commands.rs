//! The answers to commands.

use coupon_domain::code::Refusal;
use coupon_domain::{CommandCode, CommandId};
use diesel::prelude::*;
use diesel::sql_types::{Binary, Integer, Nullable, Text, Uuid as UuidType};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::connection::{PooledConnection, PostgresError};
use crate::rows::number;

/// A command's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The answer.
    pub code: CommandCode,
    /// Refused: why.
    pub refusal: Option<Refusal>,
    /// The coupon's version behind it.
    pub version: u32,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    code: String,
    #[diesel(sql_type = Nullable<Text>)]
    refusal: Option<String>,
    #[diesel(sql_type = Integer)]
    version: i32,
}

/// Notes what a command asks for, unless something is noted of it already; what is noted then. Born here, so a database that was put back in time
/// may have forgotten it.
///
/// # Errors
/// [`PostgresError`].
pub async fn note_request(
    connection: &mut PooledConnection,
    command_id: CommandId,
    fingerprint: [u8; 32],
) -> Result<[u8; 32], PostgresError> {
    #[derive(QueryableByName)]
    struct Noted {
        #[diesel(sql_type = Binary)]
        fingerprint: Vec<u8>,
    }

    // The update changes nothing: it makes the statement see the row that was there, whoever wrote it just now.
    let sql = "INSERT INTO command_requests AS r (coupon_id, command_mac, fingerprint) VALUES ($1, $2, $3) \
        ON CONFLICT (coupon_id, command_mac) DO UPDATE SET fingerprint = r.fingerprint RETURNING r.fingerprint";
    let noted: Noted = diesel::sql_query(sql)
        .bind::<UuidType, _>(command_id.coupon_id.unique())
        .bind::<UuidType, _>(Uuid::from_bytes(command_id.mac))
        .bind::<Binary, _>(fingerprint.as_slice())
        .get_result(connection)
        .await?;
    let torn = |_| PostgresError::Torn(format!("command {command_id}: fingerprint has another length"));
    noted.fingerprint.try_into().map_err(torn)
}

/// The answer to a command, if it is reflected already.
///
/// # Errors
/// [`PostgresError`].
pub async fn find(
    connection: &mut PooledConnection,
    command_id: CommandId,
) -> Result<Option<StoredAnswer>, PostgresError> {
    let sql =
        "SELECT code::text AS code, refusal, version FROM commands WHERE command_mac = $1 AND coupon_id = $2";
    let row: Option<Row> = diesel::sql_query(sql)
        .bind::<UuidType, _>(Uuid::from_bytes(command_id.mac))
        .bind::<UuidType, _>(command_id.coupon_id.unique())
        .get_result(connection)
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let torn = |what: &str| PostgresError::Torn(format!("command {command_id}: {what}"));
    let refusal = match row.refusal {
        None => None,
        Some(name) => Some(Refusal::from_name(&name).ok_or_else(|| torn("refusal is unknown"))?),
    };
    Ok(Some(StoredAnswer {
        code: CommandCode::from_name(&row.code).ok_or_else(|| torn("code is unknown"))?,
        refusal,
        version: number("version", row.version)?,
    }))
}
