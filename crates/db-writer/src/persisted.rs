//! Publishing how far a partition is committed. Only the newest watermark counts: what is committed within `write.persisted_interval_ms` of a published one
//! waits for its end, so that readers of the topic, who read all of it, have little to read. After a pause the first one goes out at once.

use std::time::Duration;

use coupon_domain::wire::{PersistedWatermark, encode_persisted};
use infrastructure_kafka::{AppendError, NewRecord, Producer};
use service_runtime::{Ended, Tasks};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

/// After a watermark was refused it is published again this much later.
const RETRY: Duration = Duration::from_secs(1);

/// Publishes one partition's watermarks. Its task ends with it, after the last one was acknowledged.
pub(crate) struct Publisher {
    newest: watch::Sender<Option<PersistedWatermark>>,
}

impl Publisher {
    pub(crate) fn start(
        runtime: &Handle,
        tasks: &Tasks,
        producer: Producer,
        topic: String,
        interval: Duration,
    ) -> Self {
        let (newest, changes) = watch::channel(None);
        let _runtime = runtime.enter();
        drop(tasks.spawn_essential("persisted", publish(changes, producer, topic, interval)));
        Self { newest }
    }

    pub(crate) fn publish(&self, watermark: PersistedWatermark) {
        self.newest.send_replace(Some(watermark));
    }
}

async fn publish(
    mut changes: watch::Receiver<Option<PersistedWatermark>>,
    producer: Producer,
    topic: String,
    interval: Duration,
) -> Result<(), Ended> {
    let mut due = Instant::now();
    while changes.changed().await.is_ok() {
        tokio::time::sleep_until(due).await;
        due = Instant::now() + interval;
        let Some(watermark) = changes.borrow_and_update().clone() else { continue };
        let key = watermark.partition.to_string();
        let payload = encode_persisted(&watermark);
        let record = NewRecord {
            topic: &topic,
            partition: watermark.partition.number(),
            key: key.as_bytes(),
            payload: Some(&payload),
            headers: &[],
        };
        match producer.append(record).await {
            Ok(_) => {}
            // A partition that was just added may not be known everywhere yet; the newest watermark is due again anyway.
            Err(AppendError::Refused(reason)) => {
                tracing::warn!(partition = %watermark.partition, "a watermark was refused, it is published again: {reason}");
                tokio::time::sleep(RETRY).await;
                changes.mark_changed();
            }
            Err(error) => return Err(Ended::Fatal(format!("a watermark was not acknowledged: {error}"))),
        }
    }
    Ok(())
}
