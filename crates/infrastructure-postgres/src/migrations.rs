//! The schema's versions: embedded migrations, and which releases can work with what they find.

use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::result::OptionalExtension as _;
use diesel_async::{AsyncMigrationHarness, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::connection::{Connection, PostgresError};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");

/// The schema version that this release needs, and the newest it knows. A newer one is fine as long as its `compatible_from` allows.
pub const SCHEMA_VERSION: i32 = 1;

/// How the schema found relates to this release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaFit {
    /// It can be worked with.
    Fits,
    /// It is older, or not there: `couponctl migrate` brings it up. A service waits.
    Older {
        /// The version found; 0 where there is none.
        found: i32,
    },
    /// It has moved on beyond what this release can work with. db-writer refuses to start; elsewhere PostgreSQL counts as lost.
    TooNew {
        /// The version found.
        found: i32,
        /// The oldest release that can work with it.
        compatible_from: i32,
    },
}

/// What the services' roles may do; roles that do not exist are passed over.
const GRANTS: &str = include_str!("sql/grants.sql");

/// Runs the migrations that have not run yet, in their order, and grants the roles of `deploy/postgres/roles.sql` what they need; returns the
/// migrations' names. Beyond that nothing happens on a schema that is up to date. Needs the multi-thread runtime.
///
/// # Errors
/// [`PostgresError`].
pub async fn migrate(mut connection: Connection) -> Result<Vec<String>, PostgresError> {
    // One at a time, whoever else migrates; the lock goes with the connection. And a migration may take longer than a request.
    let alone = "SET statement_timeout = 0; SELECT pg_advisory_lock(hashtext('firstcome migrations'))";
    connection.inner.batch_execute(alone).await?;
    let mut harness = AsyncMigrationHarness::new(connection.inner);
    let versions = harness
        .run_pending_migrations(MIGRATIONS)
        .map_err(|error| PostgresError::Schema(format!("a migration failed: {error}")))?;
    let run = versions.iter().map(ToString::to_string).collect();
    drop(versions);
    harness.into_inner().batch_execute(GRANTS).await?;
    Ok(run)
}

/// The names of all embedded migrations, in their order.
///
/// # Errors
/// [`PostgresError::Schema`]: two of them share a name.
pub fn embedded() -> Result<Vec<String>, PostgresError> {
    let migrations: Vec<Box<dyn Migration<Pg>>> =
        MIGRATIONS.migrations().map_err(|error| PostgresError::Schema(error.to_string()))?;
    let mut names: Vec<_> = migrations.iter().map(|migration| migration.name().to_string()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Compares the schema found with what this release works with.
///
/// # Errors
/// [`PostgresError::Unreachable`].
pub async fn schema_fit(connection: &mut Connection) -> Result<SchemaFit, PostgresError> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Integer)]
        schema_version: i32,
        #[diesel(sql_type = diesel::sql_types::Integer)]
        compatible_from: i32,
    }

    let sql = "SELECT schema_version, compatible_from FROM schema_compatibility ORDER BY schema_version DESC LIMIT 1";
    let newest: Result<Option<Row>, PostgresError> = diesel::sql_query(sql)
        .get_result(&mut connection.inner)
        .await
        .optional()
        .map_err(PostgresError::from);
    match newest {
        Ok(Some(row)) if row.schema_version < SCHEMA_VERSION => {
            Ok(SchemaFit::Older { found: row.schema_version })
        }
        Ok(Some(row)) if row.compatible_from > SCHEMA_VERSION => {
            Ok(SchemaFit::TooNew { found: row.schema_version, compatible_from: row.compatible_from })
        }
        Ok(Some(_)) => Ok(SchemaFit::Fits),
        Ok(None) | Err(PostgresError::Schema(_)) => Ok(SchemaFit::Older { found: 0 }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_embedded_and_dated() {
        let names = embedded().unwrap();
        assert_eq!(names, ["2026-11-21-000000_pipeline"]);
    }
}
