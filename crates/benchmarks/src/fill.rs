//! A line of people who wait: real claims of distinct users, appended as the gateway appends them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coupon_domain::wire::encode_claim;
use coupon_domain::{Claim, CouponId, Key, Round, Slot, UserId};
use e2e_tests::World;
use infrastructure_kafka::{NewRecord, Producer, ProducerPurpose, Topic};

/// Records that are produced before their acknowledgement is awaited.
const BATCH_RECORDS: u32 = 50_000;
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Appends so many claims for the coupon.
pub(crate) fn fill(world: &World, coupon_id: CouponId, claims: u32) -> Result<()> {
    let key = Key::from_secret(world.deployment.credentials.key_secret.as_bytes())?;
    let producer = Producer::new(world.kafka(), ProducerPurpose::Outcomes)?;
    let topic = world.layout().name(Topic::Claims);
    let coupon = coupon_id.to_string();
    let mut number = 0;
    while number < claims {
        let mut batch = producer.batch();
        for _ in 0..BATCH_RECORDS.min(claims - number) {
            let user_id: UserId = format!("user-{number:07}").parse()?;
            let claim_id = key.claim_id(coupon_id, &user_id, Round::FIRST, Slot::ONLY);
            let claim = Claim { claim_id, user_id, received_at: world.clock().now() };
            let (id, payload) = (claim_id.to_string(), encode_claim(&claim));
            let record = NewRecord {
                topic: &topic,
                partition: coupon_id.partition().number(),
                key: coupon.as_bytes(),
                payload: Some(&payload),
                headers: &[("claim_id", id.as_bytes()), ("coupon_id", coupon.as_bytes())],
            };
            batch.produce(record, &mut || {})?;
            number += 1;
        }
        let acknowledged = batch.wait(ACKNOWLEDGED_MAX)?;
        let last = acknowledged.ok().flatten().context("the claims were not acknowledged in time")?;
        ensure!(last == i64::from(number), "the last claim stands at {last}, not at {number}");
    }
    Ok(())
}
