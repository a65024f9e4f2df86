//! A notifier that starts beside `coupon.persisted` of a day.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coupon_domain::wire::{PersistedWatermark, encode_persisted};
use coupon_domain::{Offset, OutcomeWatermark, Partition};
use infrastructure_kafka::{NewRecord, Producer, ProducerPurpose, Topic};
use local_stack::Role;

use crate::figure::Figure;
use crate::ground::{self, Ground};
use crate::report::Findings;
use crate::scale::Sizes;
use crate::screen;

pub(crate) async fn measure(ground: &Ground, sizes: &Sizes, findings: &mut Findings) -> Result<()> {
    screen::tell(&format!("f: {} watermarks", sizes.watermarks));
    let mut world = ground.world_of(1)?;
    // The store's own name is in each of them, so db-writer's first comes first.
    ground::start(&mut world, &[Role::DbWriter])?;
    world.stop(Role::DbWriter.name())?;
    let identifier = world.sql("select system_identifier from pg_control_system()")?;
    let partition = Partition::new(0)?;
    let genesis = OutcomeWatermark::genesis(partition);
    let producer = Producer::new(world.kafka(), ProducerPurpose::Outcomes)?;
    let topic = world.layout().name(Topic::Persisted);
    let mut batch = producer.batch();
    for _ in 0..sizes.watermarks {
        let payload = encode_persisted(&PersistedWatermark {
            partition,
            next_src: Offset::ZERO,
            next_outcome_offset: Offset::ZERO,
            chain: genesis.chain,
            system_identifier: identifier.trim().to_owned(),
            beat: 0,
            stamp: None,
        });
        let record =
            NewRecord { topic: &topic, partition: 0, key: b"0", payload: Some(&payload), headers: &[] };
        batch.produce(record, &mut || {})?;
    }
    batch.wait(Duration::from_secs(60))?.ok().context("the watermarks were not acknowledged in time")?;
    let began = Instant::now();
    ground::start(&mut world, &[Role::Notifier])?;
    let ready = began.elapsed().as_secs_f64();
    findings.add(Figure::alone(format!("notifier_ready_beside_{}", sizes.watermarks), "s", vec![ready]));
    Ok(world.deployment.namespace.drop_database(world.servers())?)
}
