//! A database of a test's own.

use std::time::Duration;

use infrastructure_postgres::{
    Connection, Pool, PooledConnection, PostgresError, PostgresSection, migrations,
};
use local_stack::{Namespace, Servers, namespace, servers_for_tests};

/// Far beyond what anything here takes, on a machine that is busy with something else.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Database {
    pub(crate) namespace: Namespace,
    pub(crate) section: PostgresSection,
    servers: &'static Servers,
}

impl Database {
    /// Without any table.
    pub(crate) fn empty() -> Self {
        let servers = servers_for_tests();
        let namespace = namespace(servers, 1).unwrap();
        let section = patient(&namespace.database_url);
        Self { namespace, section, servers }
    }

    /// With the tables of this release. Needs the multi-thread runtime.
    pub(crate) async fn migrated() -> Self {
        let database = Self::empty();
        migrations::migrate(database.connect().await).await.unwrap();
        database
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(&self.section).await.unwrap()
    }

    pub(crate) fn pool(&self) -> Pool {
        Pool::new(&self.section).unwrap()
    }

    /// Runs SQL as an operator would, beside every connection of ours; returns what it yields.
    pub(crate) fn sql(&self, statement: &str) -> String {
        self.servers.run_sql(&self.section.url.clone().unwrap(), statement).unwrap().trim().to_owned()
    }

    /// Runs SQL as one of the services' roles.
    pub(crate) fn try_sql_as(&self, role: &str, statement: &str) -> Result<String, String> {
        let url = self.namespace.database_url_as(role).unwrap();
        self.servers.run_sql(&url, statement).map_err(|error| error.to_string())
    }

    /// Every row of every table. Two of these are equal if and only if nothing was changed in between.
    pub(crate) fn contents(&self) -> String {
        let tables =
            ["partition_progress", "coupons", "claims", "issued_coupons", "commands", "audit_events"];
        let rows = tables.map(|table| {
            format!(
                "SELECT '{table}' AS name, string_agg(t::text, E'\n' ORDER BY t::text) AS rows FROM {table} t"
            )
        });
        self.sql(&rows.join(" UNION ALL "))
    }

    pub(crate) fn count(&self, table: &str) -> usize {
        self.sql(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // On servers that outlive this process databases would pile up.
        drop(self.namespace.drop_database(self.servers));
    }
}

/// A section for a machine that is busy with something else.
pub(crate) fn patient(url: &str) -> PostgresSection {
    let section = PostgresSection {
        url: Some(url.to_owned()),
        connect_timeout_ms: 20_000,
        request_timeout_ms: 20_000,
        ..PostgresSection::default()
    };
    assert_eq!(section.problems(false), []);
    section
}

/// Runs a statement that yields nothing of interest.
pub(crate) async fn execute(connection: &mut PooledConnection, sql: &str) -> Result<usize, PostgresError> {
    use diesel_async::RunQueryDsl;

    Ok(diesel::sql_query(sql).execute(connection).await?)
}

/// Runs a query that yields one text.
pub(crate) async fn text(connection: &mut PooledConnection, sql: &str) -> Result<String, PostgresError> {
    use diesel_async::RunQueryDsl;

    Ok(diesel::dsl::sql::<diesel::sql_types::Text>(sql).get_result(connection).await?)
}
