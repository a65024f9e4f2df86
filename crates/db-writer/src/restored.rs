//! Before a connection is used: was the database behind it put back in time, or is it another one? Writing goes on all the same, for the log
//! brings everything back but redemptions; so redeeming is closed, durably, before anything newer is published.

use std::collections::HashMap;

use coupon_domain::Partition;
use coupon_domain::restored::PublishedBeats;
use coupon_domain::wire::{PersistedWatermark, decode_persisted};
use infrastructure_kafka::Lines;
use infrastructure_postgres::closures::{self, Store};
use infrastructure_postgres::{Connection, PostgresError};
use parking_lot::Mutex;
use service_runtime::partition::{Interrupted, Worker};
use service_runtime::tail::read_to_end;

use crate::NAME;

/// What was published of each partition that this process has written, and up to which offset it was read: a partition that starts over
/// reads only what came since.
#[derive(Default)]
pub(crate) struct Published(Mutex<HashMap<Partition, (i64, PublishedBeats)>>);

impl Published {
    /// What was committed counts from now on, though it is not in the topic yet: no store may fall behind it.
    pub(crate) fn will_see(&self, watermark: &PersistedWatermark) {
        self.0.lock().entry(watermark.partition).or_default().1.saw(watermark);
    }

    /// Everything that has been published of the worker's partition.
    pub(crate) fn read(&self, worker: &Worker, persisted: &Lines) -> Result<PublishedBeats, Interrupted> {
        let partition = worker.partition();
        let (from, mut beats) = self.0.lock().get(&partition).cloned().unwrap_or_default();
        let reader = persisted.reader(partition.number());
        let turn = || {
            worker.turn();
            worker.check_stop()
        };
        let take = |record: &infrastructure_kafka::RecordView<'_>| {
            let Some(payload) = record.payload() else { return };
            match decode_persisted(payload) {
                Ok(watermark) => beats.saw(&watermark),
                Err(error) => {
                    tracing::error!(runbook = "UpgradeAndRollback", %partition, offset = record.offset(), "a watermark: {error}");
                }
            }
        };
        let end = read_to_end::<Interrupted>(&reader, partition.number(), from, take, turn)?;
        self.0.lock().insert(partition, (end, beats.clone()));
        Ok(beats)
    }
}

/// What the store says of itself, with redeeming closed where it is not the one that was published, or older. `published` was read before.
pub(crate) async fn examine(
    connection: &mut Connection,
    published: &PublishedBeats,
) -> Result<Store, PostgresError> {
    let connection = connection.as_pooled();
    let store = closures::look(connection).await?;
    let Some(restored) = published.judge(&store.stand) else { return Ok(store) };
    if closures::close(connection, NAME, &restored.to_string(), &published.floors()).await? {
        tracing::error!(
            runbook = "PostgresRestored",
            "redeeming is closed: {restored}; `couponctl redemptions reopen` opens it"
        );
    }
    closures::look(connection).await
}
