//! Copies of the tables as CSV, for programs that share no code with us. Page by page, each a statement of its own: no snapshot is held for longer than a page
//! takes, and the vacuum waits for nobody.
//!
//! So the tables are not as of one moment. The watermarks are read before everything else and once more behind it: a row of the log below the first was there, one at or
//! behind the second was not, one between them may have been written meanwhile. A row of `coupons` changes with the line, and so it says up to where its page was
//! true. What retention deletes meanwhile lies between its own counts, which are read twice as well.

use futures_util::TryStreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_postgres::SimpleQueryMessage;

use crate::config::PostgresSection;
use crate::connection::PostgresError;
use crate::connector::Connector;

/// Rows that are copied at once.
pub const PAGE_ROWS: u32 = 10_000;

/// What is copied into a file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The file's name.
    pub name: &'static str,
    columns: &'static str,
    from: &'static str,
    /// The columns of an index, which no two rows share: rows come in their order.
    key: &'static [(&'static str, &'static str)],
}

const BY_PLACE: &[(&str, &str)] = &[("t.src_partition", "integer"), ("t.src_offset", "bigint")];
const BY_COUPON: &[(&str, &str)] = &[("t.coupon_id", "uuid")];
const BY_NUMBER: &[(&str, &str)] = &[("t.coupon_id", "uuid"), ("t.issue_no", "integer")];
const BY_PARTITION: &[(&str, &str)] = &[("t.partition", "integer")];

const PROGRESS: Table =
    Table { name: "partition_progress", columns: "t.*", from: "partition_progress t", key: BY_PARTITION };
const RETENTION: Table = Table {
    name: "coupon_retention",
    columns: "o.partition, t.coupon_id, t.losing_claims, t.issued_coupons",
    from: "coupon_retention t JOIN coupons o USING (coupon_id)",
    key: BY_COUPON,
};

/// What is copied, in this order.
pub const TABLES: [Table; 10] = [
    PROGRESS,
    RETENTION,
    // The first offset that this very row does not reflect.
    Table {
        name: "coupons",
        columns: "t.*, p.next_src",
        from: "coupons t LEFT JOIN partition_progress p USING (partition)",
        key: BY_COUPON,
    },
    Table { name: "claims", columns: "t.*", from: "claims_spelled t", key: BY_PLACE },
    Table {
        name: "issued_coupons",
        columns: "spell_claim_id(t.src_partition, t.coupon_id, t.round, t.slot, t.claim_mac) AS claim_id, \
            spell_coupon_id(t.src_partition, t.coupon_id) AS coupon_id, \
            t.user_id, t.user_nth, t.issue_no, t.code, t.issued_at, t.expires_at, t.used_at, t.order_ref",
        from: "issued_coupons t",
        key: BY_NUMBER,
    },
    Table { name: "parked_claims", columns: "t.*", from: "parked_claims t", key: BY_PLACE },
    Table { name: "commands", columns: "t.*", from: "commands t", key: BY_PLACE },
    Table { name: "audit_events", columns: "t.*", from: "audit_events t", key: BY_PLACE },
    Table { name: "coupon_retention_after", ..RETENTION },
    Table { name: "partition_progress_after", ..PROGRESS },
];

/// A place between two rows of a table.
#[derive(Clone, Debug)]
pub struct Position(String);

/// Copies tables out.
pub struct Dump {
    client: tokio_postgres::Client,
}

impl Dump {
    /// Connects. `drive` runs the connection, as a task of the caller's.
    ///
    /// # Errors
    /// [`PostgresError::Unreachable`].
    pub async fn open(
        section: &PostgresSection,
        drive: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
    ) -> Result<Self, PostgresError> {
        let (client, connection) = Connector::new(section)?.client().await?;
        drive(Box::pin(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the connection of the dump ended: {error}");
            }
        }));
        client.batch_execute("SET default_transaction_read_only = on").await.map_err(unreachable)?;
        Ok(Self { client })
    }

    /// Copies a table as CSV with a header.
    ///
    /// # Errors
    /// [`PostgresError::Unreachable`], also where `out` takes no more.
    pub async fn copy(
        &self,
        table: &Table,
        out: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), PostgresError> {
        let mut position = self.copy_page(table, None, PAGE_ROWS, out).await?;
        while position.is_some() {
            position = self.copy_page(table, position.as_ref(), PAGE_ROWS, out).await?;
        }
        Ok(())
    }

    /// Copies the next `rows` rows, the header before the first of them; where the page behind them begins, if there is one.
    ///
    /// # Errors
    /// Those of [`Self::copy`].
    pub async fn copy_page(
        &self,
        table: &Table,
        position: Option<&Position>,
        rows: u32,
        out: &mut (impl AsyncWrite + Unpin),
    ) -> Result<Option<Position>, PostgresError> {
        let end = self.end_of_page(table, position, rows).await?;
        let header = if position.is_none() { ", HEADER" } else { "" };
        let page = table.between(table.columns, position, end.as_ref());
        let statement = format!("COPY ({page}) TO STDOUT WITH (FORMAT csv{header})");
        let copied = self.client.copy_out(statement.as_str()).await.map_err(unreachable)?;
        let mut copied = std::pin::pin!(copied);
        while let Some(chunk) = copied.try_next().await.map_err(unreachable)? {
            out.write_all(&chunk).await.map_err(unreachable)?;
        }
        out.flush().await.map_err(unreachable)?;
        Ok(end)
    }

    /// The last of the next `rows` rows; none where there are fewer.
    async fn end_of_page(
        &self,
        table: &Table,
        position: Option<&Position>,
        rows: u32,
    ) -> Result<Option<Position>, PostgresError> {
        let query = table.position_of(position, rows);
        let found = self.client.simple_query(&query).await.map_err(unreachable)?;
        let text = found.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(text.map(|text| Position(text.to_owned())))
    }
}

impl Table {
    fn key_columns(&self) -> String {
        self.key.iter().map(|(column, _)| *column).collect::<Vec<_>>().join(", ")
    }

    /// A query for the rows behind one position, up to the other.
    fn between(&self, columns: &str, position: Option<&Position>, end: Option<&Position>) -> String {
        let (from, key) = (self.from, self.key_columns());
        let bounds = [(">", position), ("<=", end)].into_iter();
        let bounds = bounds.filter_map(|(relation, at)| Some(format!(" AND ({key}) {relation} {}", at?.0)));
        let bounds: String = bounds.collect();
        format!("SELECT {columns} FROM {from} WHERE true{bounds} ORDER BY {key}")
    }

    /// A query for the position of the `rows`th row behind another, which the server spells as SQL.
    fn position_of(&self, position: Option<&Position>, rows: u32) -> String {
        let literals: Vec<String> = self.key.iter().map(|(_, sql_type)| format!("%L::{sql_type}")).collect();
        let spelled = format!("format('({})', {})", literals.join(", "), self.key_columns());
        let behind = self.between(&spelled, position, None);
        format!("{behind} LIMIT 1 OFFSET {}", rows.saturating_sub(1))
    }
}

fn unreachable(error: impl std::fmt::Display) -> PostgresError {
    PostgresError::Unreachable(error.to_string())
}
