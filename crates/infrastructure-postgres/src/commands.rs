//! The answers to commands.

use coupon_domain::code::Refusal;
use coupon_domain::{CommandCode, CommandId};
use diesel::prelude::*;
use diesel::sql_types::{Integer, Nullable, Text, Uuid as UuidType};
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
