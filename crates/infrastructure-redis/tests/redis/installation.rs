//! A part of Redis that belongs to one test.

use coupon_domain::view_sync::{PushId, Reply, Standing, Step, ViewWatermark};
use coupon_domain::{
    ClaimAnswer, ClaimCode, ClaimId, CouponId, CouponStatus, Offset, Partition, Round, Slot, Timestamp,
};
use infrastructure_redis::{
    CouponCounts, RedisMetrics, RedisSection, ViewMaintenance, ViewReader, ViewWrite, ViewWriter,
};
use prometheus::{HistogramVec, IntGauge, histogram_opts};
use uuid::Uuid;

/// The window of these coupons ends so much later than now.
pub(crate) const OPEN_MS: i64 = 3_600_000;

pub(crate) struct Installation {
    pub(crate) section: RedisSection,
    pub(crate) writer: ViewWriter,
    pub(crate) reader: ViewReader,
    pub(crate) maintenance: ViewMaintenance,
    pub(crate) up: IntGauge,
}

impl Installation {
    /// On the Redis that all tests share.
    pub(crate) fn new() -> Self {
        let url = local_stack::servers_for_tests().redis_url();
        Self::at(RedisSection {
            url: Some(url.to_owned()),
            key_prefix: format!("{}:", Uuid::from_u128(rand::random()).simple()),
            // On a busy machine an answer may take its time.
            read_timeout_ms: 5_000,
            write_timeout_ms: 20_000,
            connect_timeout_ms: 5_000,
            keep_after_close_s: 60,
            ..RedisSection::default()
        })
    }

    pub(crate) fn at(section: RedisSection) -> Self {
        let metrics = RedisMetrics {
            request_seconds: HistogramVec::new(
                histogram_opts!("redis", "of a test"),
                &["operation", "result"],
            )
            .unwrap(),
            up: IntGauge::new("up", "of a test").unwrap(),
        };
        Self {
            writer: ViewWriter::new(&section, metrics.clone()).unwrap(),
            reader: ViewReader::new(&section, metrics.clone()).unwrap(),
            maintenance: ViewMaintenance::new(&section).unwrap(),
            up: metrics.up,
            section,
        }
    }

    /// A connection past everything.
    pub(crate) async fn raw(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.section.url.as_deref().unwrap()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    pub(crate) fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.section.key_prefix)
    }

    /// Writes these answers where `expects` stands, and leaves `leaves`. Where nothing is expected, the view is made, with one bucket.
    pub(crate) async fn write(
        &self,
        counts: CouponCounts,
        expects: Option<i64>,
        leaves: i64,
        answers: &[ClaimAnswer],
    ) -> Reply {
        let lays = if expects.is_none() { vec![0] } else { Vec::new() };
        self.run(counts, &Step { lays, ..step(expects, leaves) }, answers).await
    }

    pub(crate) async fn run(&self, counts: CouponCounts, step: &Step, answers: &[ClaimAnswer]) -> Reply {
        self.write_step(&ViewWrite { step, counts, counts_hold: true, answers }).await
    }

    pub(crate) async fn write_step(&self, write: &ViewWrite<'_>) -> Reply {
        self.writer.run(&self.writer.prepare(write)).await
    }
}

/// The push of all views here.
pub(crate) const PUSH: PushId = PushId(0xabc);

/// Everything was written.
pub(crate) fn written() -> Reply {
    Reply::Written(Vec::new())
}

/// A step of a view of one bucket.
pub(crate) fn step(expects: Option<i64>, leaves: i64) -> Step {
    Step {
        expects: expects.map(reflects),
        push_id: PUSH,
        leaves: reflects(leaves),
        from_rank: 0,
        to_rank: 0,
        buckets: 1..1,
        bulk: None,
        lays: Vec::new(),
        fills: false,
        looks_at: 0..0,
    }
}

pub(crate) fn found(offset: i64) -> Reply {
    Reply::Found(Some(Standing { watermark: reflects(offset), push_id: PUSH }))
}

pub(crate) fn reflects(offset: i64) -> ViewWatermark {
    ViewWatermark::Reflects(Offset::new(offset).unwrap())
}

/// A coupon that nobody else has, and what its hash says.
pub(crate) fn counts() -> CouponCounts {
    CouponCounts {
        coupon_id: CouponId::new(Partition::new(0).unwrap(), Uuid::from_u128(rand::random())),
        remaining: 5,
        status: CouponStatus::Active,
        round: Round::new(2).unwrap(),
        closes_at: now().plus_ms(OPEN_MS),
    }
}

pub(crate) fn claim(counts: &CouponCounts, mac: u8) -> ClaimId {
    ClaimId { coupon_id: counts.coupon_id, round: Round::FIRST, slot: Slot::ONLY, mac: [mac; 16] }
}

pub(crate) fn answer(claim_id: ClaimId, code: ClaimCode, at: i64) -> ClaimAnswer {
    ClaimAnswer {
        claim_id,
        code,
        is_final: !code.is_deferral(),
        decided_offset: Offset::new(at).unwrap(),
        decided_at: Timestamp::EPOCH,
        issue_no: None,
        user_nth: None,
        rank: None,
        granted_claim_id: None,
    }
}

#[expect(clippy::disallowed_methods, reason = "a test asks Redis about times on the wall")]
pub(crate) fn now() -> Timestamp {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_ms(elapsed.as_millis().try_into().unwrap()).unwrap()
}
