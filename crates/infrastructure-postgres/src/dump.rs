//! Copies of the tables as CSV, for programs that share no code with us.

use futures_util::TryStreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::config::PostgresSection;
use crate::connection::PostgresError;
use crate::connector::Connector;

/// What is copied: a file name and the query behind it.
pub const TABLES: [(&str, &str); 8] = [
    ("claims", "SELECT * FROM claims_spelled ORDER BY src_partition, src_offset"),
    ("issued_coupons", "SELECT * FROM issued_coupons_spelled ORDER BY coupon_id, issue_no"),
    ("coupons", "SELECT * FROM coupons ORDER BY coupon_id"),
    ("parked_claims", "SELECT * FROM parked_claims ORDER BY src_partition, src_offset"),
    (
        "coupon_retention",
        "SELECT o.partition, r.coupon_id, r.losing_claims, r.issued_coupons \
         FROM coupon_retention r JOIN coupons o USING (coupon_id) ORDER BY r.coupon_id",
    ),
    ("commands", "SELECT * FROM commands ORDER BY src_partition, src_offset"),
    ("partition_progress", "SELECT * FROM partition_progress ORDER BY partition"),
    ("audit_events", "SELECT * FROM audit_events ORDER BY src_partition, src_offset"),
];

/// Copies tables out, all as of one moment.
pub struct Dump {
    client: tokio_postgres::Client,
}

impl Dump {
    /// Connects and takes the moment. `drive` runs the connection, as a task of the caller's.
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
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(unreachable)?;
        Ok(Self { client })
    }

    /// Copies the rows of `query` as CSV with a header.
    ///
    /// # Errors
    /// [`PostgresError::Unreachable`], also where `out` takes no more.
    pub async fn copy(&self, query: &str, out: &mut (impl AsyncWrite + Unpin)) -> Result<(), PostgresError> {
        let statement = format!("COPY ({query}) TO STDOUT WITH (FORMAT csv, HEADER)");
        let rows = self.client.copy_out(statement.as_str()).await.map_err(unreachable)?;
        let mut rows = std::pin::pin!(rows);
        while let Some(chunk) = rows.try_next().await.map_err(unreachable)? {
            out.write_all(&chunk).await.map_err(unreachable)?;
        }
        out.flush().await.map_err(unreachable)
    }
}

fn unreachable(error: impl std::fmt::Display) -> PostgresError {
    PostgresError::Unreachable(error.to_string())
}
