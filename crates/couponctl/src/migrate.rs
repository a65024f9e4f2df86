//! `couponctl migrate`

use infrastructure_postgres::Connection;
use infrastructure_postgres::migrations::{SchemaFit, migrate, schema_fit};
use serde_json::json;

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, output: Output) -> Result<(), Failure> {
    let section = settings.postgres()?;
    let mut connection = Connection::open(&section).await.map_err(failed("connecting to PostgreSQL"))?;
    let found = schema_fit(&mut connection).await.map_err(failed("looking at the schema"))?;
    // An older release on a newer schema has nothing to do: a rollback must not fail here.
    if matches!(found, SchemaFit::TooNew { .. }) {
        output.note("the schema is newer than this release: nothing to do");
        return Ok(());
    }
    let done = migrate(connection).await.map_err(failed("migrating"))?;
    match output {
        Output::Json => output.one(&json!({ "migrations_run": done })),
        Output::Table if done.is_empty() => output.note("the schema is up to date"),
        Output::Table => output.note(&format!("ran {}", done.join(", "))),
    }
    Ok(())
}
