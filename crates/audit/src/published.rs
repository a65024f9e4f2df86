//! What the compacted topics say: `coupon.state` the fold at the offset that it names, `coupon.persisted` links of the chain.

use std::collections::BTreeMap;

use coupon_domain::invariant::Invariant;
use coupon_domain::wire::{
    PersistedWatermark, RecordError, StateRecordBody, decode_persisted, decode_state_record,
};
use infrastructure_kafka::{Connection, LogCursor, Reader, Topic, TopicLayout};

use crate::error::{AuditError, failed};
use crate::findings::Findings;

/// The records of both topics that are left, by partition, as far as it is read.
pub(crate) struct Published {
    pub(crate) states: BTreeMap<i32, Vec<StateRecordBody>>,
    pub(crate) watermarks: BTreeMap<i32, Vec<PersistedWatermark>>,
}

impl Published {
    pub(crate) fn read(
        connection: &Connection,
        layout: &TopicLayout,
        reads: impl Fn(i32) -> bool,
        findings: &mut Findings,
    ) -> Result<Self, AuditError> {
        Ok(Self {
            states: read(connection, layout, Topic::State, &reads, findings, decode_state_record)?,
            watermarks: read(connection, layout, Topic::Persisted, &reads, findings, decode_persisted)?,
        })
    }
}

fn read<T>(
    connection: &Connection,
    layout: &TopicLayout,
    topic: Topic,
    reads: impl Fn(i32) -> bool,
    findings: &mut Findings,
    decode: impl Fn(&[u8]) -> Result<T, RecordError>,
) -> Result<BTreeMap<i32, Vec<T>>, AuditError> {
    let name = layout.name(topic);
    let reader = Reader::new(connection, &name, "audit").map_err(failed(&name))?;
    let mut found = BTreeMap::new();
    for partition in
        (0..reader.partition_count().map_err(failed(&name))?).filter(|partition| reads(*partition))
    {
        let bounds = reader.bounds(partition).map_err(failed(&name))?;
        let mut cursor = LogCursor::new(&reader, partition, bounds).map_err(failed(&name))?;
        let mut records = Vec::new();
        while let Some(entry) = cursor.next().map_err(failed(&name))? {
            let place = format!("{name}, partition {partition}, offset {}", entry.offset);
            match entry.payload.as_deref().map(&decode) {
                None => {}
                Some(Ok(record)) => records.push(record),
                Some(Err(RecordError::NewerVersion { found, .. })) => {
                    findings.note(format!("{place}: version {found} is newer than this release reads"));
                }
                Some(Err(error)) => findings.broken(Invariant::Agree, &place, &error.to_string()),
            }
        }
        found.insert(partition, records);
    }
    Ok(found)
}
