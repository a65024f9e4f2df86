use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coupon_domain::wire::encode_claim;
use coupon_domain::{Claim, CouponId, Key, Round, Slot, UserId};
use e2e_tests::{CouponSpec, World, WorldSpec};
use infrastructure_kafka::{NewRecord, Producer, ProducerPurpose, Topic};
use serde_json::Value;

/// So many that everything with a limit of its own has reached it: the rows in memory, the fetch queues, the page of rows of PostgreSQL.
const FEW: u32 = 110_000;
const MANY: u32 = 330_000;
/// What an audit of one very large drop has to do with, where few of the claims win.
const CLAIMS_MAX: u32 = 10_000_000;
const PEAK_BYTES_MAX: u64 = 512 << 20;
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// What a claim more adds to the peak of an audit is so little that ten million fit into 512 MiB: what is known of them goes to disk, and the fold forgets refusals.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id: CouponId = world.publish(&CouponSpec::of(1_000)).await?.parse()?;
        append(&world, coupon_id, 0..FEW)?;
        let few = audited(&world, FEW).await?;
        append(&world, coupon_id, FEW..MANY)?;
        let many = audited(&world, MANY).await?;
        let more = many.saturating_sub(few) * u64::from(CLAIMS_MAX - FEW) / u64::from(MANY - FEW);
        ensure!(
            few + more <= PEAK_BYTES_MAX,
            "{CLAIMS_MAX} claims would take {}: {few} to {many}",
            few + more
        );
        Ok(())
    })
}

/// The peak of an audit that finds everything in order, in bytes.
async fn audited(world: &World, claims: u32) -> Result<u64> {
    // A debug build stores some thousand claims a second.
    let mut waited = world.wait_until_quiet().await;
    for _ in 0..4 {
        if waited.is_ok() {
            break;
        }
        waited = world.wait_until_quiet().await;
    }
    waited?;
    let report = world.deployment.couponctl(&["audit", "--quiet", "--output", "json"])?;
    let report: Value = serde_json::from_str(&report)?;
    ensure!(report["ledger"]["accepted"] == claims, "{report}");
    report["peak_memory_bytes"].as_u64().context("the peak is told")
}

fn append(world: &World, coupon_id: CouponId, users: std::ops::Range<u32>) -> Result<()> {
    let key = Key::from_secret(world.deployment.credentials.key_secret.as_bytes())?;
    let producer = Producer::new(world.kafka(), ProducerPurpose::Outcomes)?;
    let (topic, coupon) = (world.layout().name(Topic::Claims), coupon_id.to_string());
    let mut batch = producer.batch();
    for number in users {
        let user_id: UserId = format!("user-{number:07}").parse()?;
        let claim_id = key.claim_id(coupon_id, &user_id, Round::FIRST, Slot::ONLY);
        let claim = Claim { claim_id, user_id, received_at: world.clock().now() };
        let record = NewRecord {
            topic: &topic,
            partition: coupon_id.partition().number(),
            key: coupon.as_bytes(),
            payload: Some(&encode_claim(&claim)),
            headers: &[],
        };
        batch.produce(record, &mut || {})?;
    }
    batch.wait(ACKNOWLEDGED_MAX)?.ok().context("the claims were not acknowledged in time")?;
    Ok(())
}
