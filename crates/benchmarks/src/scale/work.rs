//! Coupons and claims, appended as the gateway appends them, and waiting until everybody reflects them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coupon_domain::command::{Change, Command};
use coupon_domain::coupon::UncheckedDefinition;
use coupon_domain::wire::{encode_claim, encode_command};
use coupon_domain::{Claim, CommandKind, CouponId, IdempotencyKey, Key, Partition, Round, Slot, UserId};
use e2e_tests::World;
use infrastructure_kafka::{Batch, NewRecord, Producer, ProducerPurpose, Reader, Topic};

const BATCH_RECORDS: u32 = 50_000;
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);
/// A deadline that only a broken system misses, for ten million claims.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1_800);
const DAY_MS: i64 = 86_400_000;
/// The key that local-stack gives its services.
const KEY_ID: &str = "k1";

/// Appends to the claims of a world.
pub(crate) struct Crowd<'a> {
    world: &'a World,
    key: Key,
    producer: Producer,
    topic: String,
    outcomes: Reader,
    partitions: i32,
}

impl<'a> Crowd<'a> {
    pub(crate) fn of(world: &'a World, partitions: u32) -> Result<Self> {
        Ok(Self {
            world,
            key: Key::from_secret(world.deployment.credentials.key_secret.as_bytes())?,
            producer: Producer::new(world.kafka(), ProducerPurpose::Outcomes)?,
            topic: world.layout().name(Topic::Claims),
            outcomes: Reader::new(world.kafka(), &world.layout().name(Topic::Outcomes), "benchmark")?,
            partitions: i32::try_from(partitions)?,
        })
    }

    /// Publishes so many coupons of this quantity, over all partitions in turn.
    pub(crate) fn publish(&self, coupons: u32, quantity: u32) -> Result<Vec<CouponId>> {
        let now = self.world.clock().now().ms();
        let definition = UncheckedDefinition {
            name: "Fried chicken".to_owned(),
            quantity: quantity.into(),
            per_user_limit: 1,
            opens_at: now - DAY_MS,
            closes_at: now + DAY_MS,
            expiry: None,
            rules: 1,
            key_id: KEY_ID.parse()?,
        };
        let definition = Arc::new(definition.check().map_err(|error| anyhow::anyhow!("{error:?}"))?);
        let mut published = Vec::new();
        let mut batch = self.producer.batch();
        for number in 0..coupons {
            let partition = Partition::new(i32::try_from(number)? % self.partitions)?;
            // The world is the benchmark's own: no other coupon can have the same name.
            let unique = (u128::try_from(now)? << 64) + u128::from(number);
            let coupon_id = CouponId::new(partition, uuid::Uuid::from_u128(unique));
            let idempotency_key: IdempotencyKey = "publish".parse()?;
            let command = Command {
                command_id: self.key.command_id(coupon_id, CommandKind::Publish, &idempotency_key),
                change: Change::Publish(Arc::clone(&definition)),
                expected_version: None,
                reason: None,
                actor: "benchmark".parse()?,
            };
            self.append(&mut batch, coupon_id, &encode_command(&command))?;
            published.push(coupon_id);
        }
        acknowledge(&batch)?;
        Ok(published)
    }

    /// Appends claims of these users, over all coupons in turn.
    pub(crate) fn claim(&self, coupons: &[CouponId], users: std::ops::Range<u32>) -> Result<()> {
        let mut numbers = users.peekable();
        while numbers.peek().is_some() {
            let mut batch = self.producer.batch();
            for number in numbers.by_ref().take(usize::try_from(BATCH_RECORDS)?) {
                let index = usize::try_from(number)? % coupons.len();
                let coupon_id = *coupons.get(index).context("there is no coupon")?;
                let user_id: UserId = format!("user-{number:08}").parse()?;
                let claim_id = self.key.claim_id(coupon_id, &user_id, Round::FIRST, Slot::ONLY);
                let claim = Claim { claim_id, user_id, received_at: self.world.clock().now() };
                self.append(&mut batch, coupon_id, &encode_claim(&claim))?;
            }
            acknowledge(&batch)?;
        }
        Ok(())
    }

    fn append(&self, batch: &mut Batch<'_>, coupon_id: CouponId, payload: &[u8]) -> Result<()> {
        let key = coupon_id.to_string();
        let record = NewRecord {
            topic: &self.topic,
            partition: coupon_id.partition().number(),
            key: key.as_bytes(),
            payload: Some(payload),
            headers: &[],
        };
        Ok(batch.produce(record, &mut || {})?)
    }

    /// Waits until so many outcomes stand in the log, over all partitions.
    pub(crate) async fn wait_for_outcomes(&self, count: u32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut found = 0;
            for partition in 0..self.partitions {
                found += self.outcomes.bounds(partition)?.end;
            }
            if found >= i64::from(count) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{found} of {count} are decided after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until PostgreSQL reflects so many records, over all partitions.
    pub(crate) async fn wait_for_rows(&self, count: u32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.world.sql("select coalesce(sum(next_src), 0) from partition_progress")?;
            if found.trim().parse::<i64>().unwrap_or(0) >= i64::from(count) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{found} of {count} are stored after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the view of the first partition reflects everything before this offset.
    pub(crate) async fn wait_for_view(&self, end: u32) -> Result<()> {
        let series = r#"coupon_watermark_offset{partition="0",service="stock-consumer",store="redis"} "#;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.world.metrics("stock-consumer").await?;
            let found = metrics.lines().find_map(|line| line.strip_prefix(series)?.parse::<f64>().ok());
            if found.is_some_and(|found| found >= f64::from(end)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the view is at {found:?} of {end} after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Every promise is kept: the audit says so once everybody is at rest.
    pub(crate) fn audit(&self) -> Result<()> {
        self.world.deployment.couponctl_within(PATIENCE, &["audit", "--quiet", "--rest-s-max", "300"])?;
        Ok(())
    }
}

fn acknowledge(batch: &Batch<'_>) -> Result<()> {
    batch.wait(ACKNOWLEDGED_MAX)?.ok().context("what was appended was not acknowledged in time")?;
    Ok(())
}
