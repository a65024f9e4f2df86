//! What the view costs Redis: bytes per claim and CPU per decision, by Redis' own account, of claims that the writer writes.
//!
//! `cargo run -p infrastructure-redis --example view_cost -- 1000000 500` starts a Redis of its own, writes so many claims of one coupon, of which so many more
//! are decided each time the view has caught up, as the task of stock-consumer does, and prints one line of JSON. With `waiting` behind the numbers the rest is known to wait. Redis is the same program whatever our build is, so a debug build measures as well as a release.

use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

use coupon_domain::view_buckets::bucket_of;
use coupon_domain::view_sync::{Bulk, Durable, PushId, Reply, StepLimits, ViewSync};
use coupon_domain::{
    ClaimAnswer, ClaimCode, ClaimId, CouponId, CouponStatus, Offset, Partition, Round, Slot, Timestamp,
};
use infrastructure_redis::writer::CLAIMS_PER_SCRIPT_MAX;
use infrastructure_redis::{CouponCounts, RedisMetrics, RedisSection, ViewWrite, ViewWriter};
use local_stack::{ExternalServers, Servers, ServersOptions};
use prometheus::{HistogramVec, IntGauge, histogram_opts};
use redis::aio::MultiplexedConnection;
use uuid::Uuid;

/// When the first claim was decided, in ms since the epoch.
const FIRST_DECIDED_AT_MS: i64 = 1_790_000_000_000;
/// When the window ends, in ms since the epoch: late enough for anybody who runs this.
const CLOSES_AT_MS: i64 = 4_000_000_000_000;
/// Claims that are brought up in bulk, as in stock-consumer.
const BULK: u32 = 500_000;
/// One claim of so many is granted.
const CLAIMS_PER_GRANT: u32 = 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let number = |at: usize, unless: u32| std::env::args().nth(at).map_or(Ok(unless), |text| text.parse());
    let (claims, at_a_time) = (number(1, 100_000)?, number(2, CLAIMS_PER_SCRIPT_MAX)?);
    let waiting = std::env::args().nth(3).is_some_and(|word| word == "waiting");
    let nobody = || Some("nobody-is-asked".to_owned());
    let external =
        ExternalServers { kafka_bootstrap: nobody(), database_url: nobody(), ..ExternalServers::default() };
    let servers = Servers::start(ServersOptions { external, ..ServersOptions::default() })?;
    let section = RedisSection {
        url: Some(servers.redis_url().to_owned()),
        write_timeout_ms: 20_000,
        ..RedisSection::default()
    };
    let request_seconds =
        HistogramVec::new(histogram_opts!("redis_seconds", "requests"), &["operation", "result"])?;
    let metrics = RedisMetrics { request_seconds, up: IntGauge::new("up", "Redis answered")? };
    let writer = ViewWriter::new(&section, metrics)?;
    let mut redis = redis::Client::open(servers.redis_url())?.get_multiplexed_async_connection().await?;
    let counts = CouponCounts {
        coupon_id: CouponId::new(Partition::new(0)?, Uuid::from_u128(rand::random())),
        remaining: 0,
        status: CouponStatus::Active,
        round: Round::FIRST,
        closes_at: Timestamp::from_ms(CLOSES_AT_MS)?,
    };
    let answers = (1..=claims)
        .map(|rank| answer(counts.coupon_id, rank))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let (memory, cpu) = (used_memory(&mut redis).await?, used_cpu_s(&mut redis).await?);
    let started = Instant::now();
    let mut sync = ViewSync::lost();
    let limits = StepLimits { claims: CLAIMS_PER_SCRIPT_MAX, looked_at: 0, bulk: BULK };
    let mut sorted: Option<(Bulk, Vec<ClaimAnswer>)> = None;
    let mut settled = 0;
    loop {
        let ahead = if waiting { claims - settled } else { 0 };
        let durable = Durable { next_src: offset_behind(settled), settled, ahead };
        if sync.is_current(durable) {
            if settled == claims {
                break;
            }
            settled = settled.saturating_add(at_a_time).min(claims);
            continue;
        }
        let step = sync.next_step(durable, limits, PushId(rand::random()), offset_behind);
        let of_ranks =
            |from: u32, to: u32| answers.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?);
        let answers = match &step.bulk {
            None => of_ranks(step.from_rank, step.to_rank),
            Some((bulk, part)) => {
                if sorted.as_ref().is_none_or(|(of, _)| of != bulk) {
                    let mut held = of_ranks(bulk.from_rank, bulk.target.settled).ok_or("ranks")?.to_vec();
                    held.sort_by_key(|answer| bucket_of(&answer.claim_id.mac, bulk.buckets));
                    sorted = Some((*bulk, held));
                }
                let held = sorted.as_ref().map(|(_, held)| held.as_slice()).unwrap_or_default();
                held.get(usize::try_from(part.start)?..usize::try_from(part.end)?)
            }
        }
        .ok_or("ranks")?;
        let reply =
            writer.run(&writer.prepare(&ViewWrite { step: &step, counts, counts_hold: true, answers })).await;
        if reply != Reply::Written(Vec::new()) {
            return Err(format!("{reply:?}").into());
        }
        sync.answered(&step, durable, &reply);
    }
    let (memory, cpu) = (used_memory(&mut redis).await? - memory, used_cpu_s(&mut redis).await? - cpu);
    let line = format!(
        "{{\"claims\": {claims}, \"at_a_time\": {at_a_time}, \"seconds\": {:.2}, \"redis_bytes_per_claim\": {:.1}, \"redis_cpu_us_per_claim\": {:.2}}}",
        started.elapsed().as_secs_f64(),
        memory / f64::from(claims),
        cpu * 1e6 / f64::from(claims)
    );
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn offset_behind(rank: u32) -> Offset {
    Offset::new(i64::from(rank) + 1).unwrap_or(Offset::ZERO)
}

fn answer(coupon_id: CouponId, rank: u32) -> Result<ClaimAnswer, Box<dyn Error>> {
    let is_granted = rank.is_multiple_of(CLAIMS_PER_GRANT);
    Ok(ClaimAnswer {
        claim_id: ClaimId { coupon_id, round: Round::FIRST, slot: Slot::ONLY, mac: rand::random() },
        code: if is_granted { ClaimCode::Granted } else { ClaimCode::SoldOut },
        is_final: true,
        decided_offset: Offset::new(rank.into())?,
        decided_at: Timestamp::from_ms(FIRST_DECIDED_AT_MS + i64::from(rank))?,
        issue_no: is_granted.then_some(rank / CLAIMS_PER_GRANT),
        user_nth: is_granted.then_some(1),
        rank: Some(rank),
        granted_claim_id: None,
    })
}

async fn used_memory(redis: &mut MultiplexedConnection) -> Result<f64, Box<dyn Error>> {
    told(redis, "memory", "used_memory").await
}

async fn used_cpu_s(redis: &mut MultiplexedConnection) -> Result<f64, Box<dyn Error>> {
    Ok(told(redis, "cpu", "used_cpu_user").await? + told(redis, "cpu", "used_cpu_sys").await?)
}

/// A number that Redis tells about itself.
async fn told(redis: &mut MultiplexedConnection, section: &str, field: &str) -> Result<f64, Box<dyn Error>> {
    let info: String = redis::cmd("INFO").arg(section).query_async(redis).await?;
    let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.ok_or("Redis does not tell")?.trim().parse()?)
}
