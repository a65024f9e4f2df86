//! The tables that db-writer fills, and the same rows copied into them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use e2e_tests::World;
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio_postgres::{Client, NoTls};

/// What outcomes of claims become.
const TABLES: [&str; 2] = ["claims", "issued_coupons"];

/// A connection to a world's database.
pub(crate) struct Tables(Client);

impl Tables {
    #[expect(clippy::disallowed_methods, reason = "ends with the client, whose requests then tell why")]
    pub(crate) async fn open(world: &World) -> Result<Self> {
        let url = &world.deployment.namespace.database_url;
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        drop(tokio::spawn(connection));
        Ok(Self(client))
    }

    /// The first claims offset that is not reflected; none before db-writer has begun.
    pub(crate) async fn next_src(&self) -> Result<Option<i64>> {
        let row =
            self.0.query_opt("select next_src from partition_progress where partition = 0", &[]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Waits until everything before this offset is there; asks every few milliseconds.
    pub(crate) async fn wait_for(&self, next_src: i64, patience: Duration) -> Result<()> {
        self.wait(patience, |found| found.is_some_and(|found| found >= next_src)).await.map(drop)
    }

    /// Waits until db-writer has begun.
    pub(crate) async fn wait_for_writer(&self, patience: Duration) -> Result<()> {
        self.wait(patience, |found| found.is_some()).await.map(drop)
    }

    /// Asks until the first offset that is not reflected is one of these; which, then.
    async fn wait(&self, patience: Duration, is_enough: impl Fn(Option<i64>) -> bool) -> Result<Option<i64>> {
        let asking = async {
            let mut every = tokio::time::interval(Duration::from_millis(10));
            loop {
                let found = self.next_src().await?;
                if is_enough(found) {
                    return Ok(found);
                }
                every.tick().await;
            }
        };
        let in_time = tokio::time::timeout(patience, asking).await;
        in_time.with_context(|| format!("PostgreSQL does not reflect the log after {patience:?}"))?
    }

    /// Waits until more is reflected than everything before this offset; how much, then.
    pub(crate) async fn wait_for_more(&self, than: i64, patience: Duration) -> Result<i64> {
        let found = self.wait(patience, |found| found.is_some_and(|found| found > than)).await?;
        found.context("a watermark that was there is gone")
    }

    /// Copies the coupon, retired, and its rows so often, as those of a partition that nobody reads.
    pub(crate) async fn retire_copies(&self, copies: u32) -> Result<()> {
        for copy in 1..=copies {
            self.0.batch_execute(&copy_of_coupon(copy)).await?;
        }
        Ok(self.0.batch_execute("vacuum analyze").await?)
    }

    /// Takes the copies out again: an audit counts rows of lines that are not there as a broken promise.
    pub(crate) async fn drop_copies(&self) -> Result<()> {
        let dropping =
            "delete from claims where src_partition = 1; delete from issued_coupons where src_partition = 1;
                        delete from coupons where partition = 1";
        Ok(self.0.batch_execute(dropping).await?)
    }

    /// How many rows there are.
    pub(crate) async fn rows(&self) -> Result<u64> {
        let mut rows = 0;
        for table in TABLES {
            let row = self.0.query_one(&format!("select count(*) from {table}"), &[]).await?;
            rows += u64::try_from(row.try_get::<_, i64>(0)?)?;
        }
        Ok(rows)
    }

    /// Writes what is waiting to be written to disk, so that it weighs on nobody's time.
    pub(crate) async fn settle(&self) -> Result<()> {
        Ok(self.0.batch_execute("checkpoint").await?)
    }

    /// Takes all rows out, and the time that COPY needs to put them back into the empty tables, with all their indexes.
    pub(crate) async fn copy_again(&self) -> Result<Duration> {
        let mut contents = Vec::new();
        for table in TABLES {
            let rows = self.0.copy_out(&format!("copy {table} to stdout")).await?;
            contents.push((table, rows.try_collect::<Vec<Bytes>>().await?));
        }
        self.0.batch_execute(&format!("truncate {}", TABLES.join(", "))).await?;
        self.settle().await?;
        let started = Instant::now();
        for (table, rows) in contents {
            let mut sink = std::pin::pin!(self.0.copy_in(&format!("copy {table} from stdin")).await?);
            for chunk in together(rows) {
                sink.as_mut().feed(chunk).await?;
            }
            sink.finish().await?;
        }
        Ok(started.elapsed())
    }
}

/// SQL that copies the rows of partition 0, which are of one coupon.
fn copy_of_coupon(copy: u32) -> String {
    let of_claim = "claim_mac, slot, appended_at, granted_claim_mac, granted_round, granted_slot, rank, issue_no, code, round, user_nth, final, user_id";
    let change = format!(
        "jsonb_build_object('coupon_id', md5('copy {copy}'), 'partition', 1, 'src_partition', 1, 'status', 'retired')"
    );
    format!(
        "insert into coupons select r.* from coupons t, jsonb_populate_record(t, {change}) r where t.partition = 0;
         insert into issued_coupons
             select r.* from issued_coupons t, jsonb_populate_record(t, {change}) r where t.src_partition = 0;
         insert into claims (src_partition, src_offset, coupon_id, {of_claim})
             select 1, {copy} * 10000000::bigint + src_offset, md5('copy {copy}')::uuid, {of_claim}
             from claims where src_partition = 0;"
    )
}

/// A message per row would be the client's cost rather than COPY's: rows travel together, as psql sends them.
fn together(rows: Vec<Bytes>) -> impl Iterator<Item = Bytes> {
    const CHUNK_BYTES: usize = 64 * 1024;
    let mut rows = rows.into_iter();
    std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        while chunk.len() < CHUNK_BYTES {
            let Some(row) = rows.next() else { break };
            chunk.extend_from_slice(&row);
        }
        (!chunk.is_empty()).then(|| Bytes::from(chunk))
    })
}
