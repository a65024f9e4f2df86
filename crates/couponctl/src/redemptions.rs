//! `couponctl redemptions`: what stands between a restored database and coupons that are used twice.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use coupon_domain::Partition;
use coupon_domain::restored::PublishedBeats;
use coupon_domain::wire::decode_persisted;
use infrastructure_http::time::to_rfc3339;
use infrastructure_kafka::{Connection as KafkaConnection, ReadError, Reader, RecordView, Topic};
use infrastructure_postgres::closures::{self, Store};
use infrastructure_postgres::{Connection, PooledConnection};
use serde_json::{Map, Value, json};
use service_runtime::tail::read_to_end;

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

/// How often is looked whether db-writer has published.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What is shown of each partition.
const COLUMNS: [&str; 4] = ["partition", "beat", "published_beat", "published_cluster"];

#[derive(Subcommand)]
pub(crate) enum Redemptions {
    /// Show whether redeeming is open, and how the database compares with what was published of it.
    Status,
    /// Open redeeming after PostgreSQL was put back in time. Coupons that were redeemed behind the point to which it went back show as not
    /// used: compare with the shop's orders first.
    Reopen(Reopen),
}

#[derive(Args)]
pub(crate) struct Reopen {
    /// Who opens it, for the record.
    #[arg(long, default_value = "couponctl")]
    operator: String,
    /// Seconds to wait until db-writer has published from this database.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    wait_s: u32,
}

pub(crate) async fn run(
    redemptions: &Redemptions,
    settings: &Settings,
    output: Output,
) -> Result<(), Failure> {
    let (kafka, layout) = settings.kafka()?;
    let published = Published { connection: kafka, topic: layout.name(Topic::Persisted) };
    let mut connection =
        Connection::open(&settings.postgres()?).await.map_err(failed("connecting to PostgreSQL"))?;
    match redemptions {
        Redemptions::Status => status(&published, connection.as_pooled(), output).await,
        Redemptions::Reopen(reopen) => reopen.carry_out(&published, connection.as_pooled(), output).await,
    }
}

async fn status(
    published: &Published,
    connection: &mut PooledConnection,
    output: Output,
) -> Result<(), Failure> {
    // In this order: a beat is raised before it is published.
    let beats = published.read()?;
    let store = look(connection).await?;
    let ended = closures::last_ended(connection).await.map_err(failed("looking at closures"))?;
    let mut shown = Map::new();
    let mut show = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    show("redemptions", json!(if store.closure.is_some() { "closed" } else { "open" }));
    if let Some(closure) = &store.closure {
        show("closed_at", json!(to_rfc3339(closure.closed_at)));
        show("closed_by", json!(closure.closed_by));
        show("reason", json!(closure.reason));
    }
    if let Some(ended) = ended {
        show("last_reopened_at", json!(to_rfc3339(ended.reopened_at)));
        show("last_reopened_by", json!(ended.reopened_by));
    }
    show("system_identifier", json!(store.stand.system_identifier));
    let restored = beats.judge(&store.stand).map(|restored| restored.to_string());
    show("against_it", json!(restored.as_deref().unwrap_or("nothing")));
    if output == Output::Json {
        show("partitions", json!(rows(&beats, &store)));
        output.one(&Value::Object(shown));
    } else {
        output.one(&Value::Object(shown));
        output.note("");
        output.many(&rows(&beats, &store), &COLUMNS);
    }
    Ok(())
}

fn rows(beats: &PublishedBeats, store: &Store) -> Vec<Value> {
    let rows = beats.iter().map(|(partition, published)| {
        json!({
            "partition": partition,
            "beat": store.stand.beats.get(&partition),
            "published_beat": published.highest,
            "published_cluster": published.system_identifier,
        })
    });
    rows.collect()
}

impl Reopen {
    /// Redeeming is open again only once what is published says that everything before is over: else the next restore might look like
    /// this database.
    async fn carry_out(
        &self,
        published: &Published,
        connection: &mut PooledConnection,
        output: Output,
    ) -> Result<(), Failure> {
        let before = published.read()?;
        let store = look(connection).await?;
        let restored = before.judge(&store.stand);
        if store.closure.is_none() && restored.is_none() {
            output.note("redeeming is open: nothing to do");
            return self.show(output, &store, false);
        }
        // Raises the beats; where nobody has noticed yet, it closes first.
        let reason = restored.map_or_else(String::new, |restored| restored.to_string());
        let floors = before.floors_above(&store.stand);
        closures::close(connection, "couponctl", &reason, &floors)
            .await
            .map_err(failed("raising the beats"))?;
        let raised = look(connection).await?;
        if output == Output::Table {
            output.many(&rows(&before, &raised), &COLUMNS);
        }
        output.note(
            "the beats are above everything that was published; waiting until db-writer has published them",
        );
        self.await_publication(published, &floors, &raised).await?;
        let ended = closures::reopen(connection, &self.operator).await.map_err(failed("reopening"))?;
        if let Some(closure) = ended {
            let (since, by) = (to_rfc3339(closure.closed_at), closure.closed_by);
            output
                .note(&format!("redeeming is open; it was closed by {by} since {since}: {}", closure.reason));
        }
        self.show(output, &look(connection).await?, true)
    }

    /// Waits until every partition's newest record names this cluster and a beat above all those before.
    async fn await_publication(
        &self,
        published: &Published,
        floors: &[(Partition, i64)],
        raised: &Store,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(self.wait_s.into());
        loop {
            let now = published.read()?;
            let behind = behind(&now, floors, raised);
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let partitions: Vec<String> = behind.iter().map(ToString::to_string).collect();
                return Err(Failure::Failed(format!(
                    "redeeming stays closed: within {} s db-writer has not published from this database for partition {}; \
                     see that db-writer runs and is ready, then run this again",
                    self.wait_s,
                    partitions.join(", ")
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn show(&self, output: Output, store: &Store, was_closed: bool) -> Result<(), Failure> {
        if output == Output::Json {
            output.one(&json!({
                "redemptions": if store.closure.is_some() { "closed" } else { "open" },
                "was_closed": was_closed,
            }));
        }
        match &store.closure {
            None => Ok(()),
            Some(closure) => Err(Failure::Failed(format!("redeeming was closed again: {}", closure.reason))),
        }
    }
}

/// The partitions of which nothing above these floors was published from this cluster yet.
fn behind(now: &PublishedBeats, floors: &[(Partition, i64)], raised: &Store) -> Vec<Partition> {
    let floor =
        |partition| floors.iter().find(|(other, _)| *other == partition).map_or(-1, |(_, beat)| *beat);
    let is_behind = |partition, highest: i64, cluster: &str| {
        highest <= floor(partition) || cluster != raised.stand.system_identifier
    };
    now.iter()
        .filter(|(partition, published)| {
            is_behind(*partition, published.highest, &published.system_identifier)
        })
        .map(|(partition, _)| partition)
        .collect()
}

async fn look(connection: &mut PooledConnection) -> Result<Store, Failure> {
    closures::look(connection).await.map_err(failed("looking at PostgreSQL"))
}

/// `coupon.persisted`.
struct Published {
    connection: KafkaConnection,
    topic: String,
}

impl Published {
    /// Everything that has been published.
    fn read(&self) -> Result<PublishedBeats, Failure> {
        tokio::task::block_in_place(|| self.read_all()).map_err(failed("reading coupon.persisted"))
    }

    fn read_all(&self) -> Result<PublishedBeats, ReadError> {
        let reader = Reader::new(&self.connection, &self.topic, "redemptions")?;
        let mut beats = PublishedBeats::default();
        for partition in 0..reader.partition_count()? {
            let take = |record: &RecordView<'_>| {
                if let Some(Ok(watermark)) = record.payload().map(decode_persisted) {
                    beats.saw(&watermark);
                }
            };
            read_to_end::<ReadError>(&reader, partition, 0, take, || Ok(()))?;
        }
        Ok(beats)
    }
}

#[cfg(test)]
mod tests {
    use coupon_domain::restored::StoreStand;
    use coupon_domain::wire::PersistedWatermark;
    use coupon_domain::{Chain, Offset};

    use super::*;

    fn published(records: &[(i32, &str, i64)]) -> PublishedBeats {
        let mut beats = PublishedBeats::default();
        for (number, cluster, beat) in records {
            let partition = Partition::new(*number).unwrap();
            beats.saw(&PersistedWatermark {
                partition,
                next_src: Offset::ZERO,
                next_outcome_offset: Offset::ZERO,
                chain: Chain::genesis(partition),
                system_identifier: (*cluster).to_owned(),
                beat: *beat,
                stamp: None,
            });
        }
        beats
    }

    #[test]
    fn every_partition_is_waited_for_until_this_cluster_published_above_what_was() {
        let before = published(&[(0, "old", 9), (1, "old", 4)]);
        let floors = [(Partition::new(0).unwrap(), 9), (Partition::new(1).unwrap(), 4)];
        let stand = StoreStand { system_identifier: "new".to_owned(), beats: [].into() };
        let raised = Store { stand, closure: None };
        let numbers = |now: &PublishedBeats| {
            behind(now, &floors, &raised).into_iter().map(Partition::number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&before), [0, 1]);
        assert_eq!(numbers(&published(&[(0, "new", 10), (1, "old", 5)])), [1], "another cluster");
        assert_eq!(numbers(&published(&[(0, "new", 9), (1, "new", 5)])), [0], "not above");
        assert_eq!(numbers(&published(&[(0, "new", 10), (1, "new", 5), (2, "new", 0)])), Vec::<i32>::new());
    }
}
