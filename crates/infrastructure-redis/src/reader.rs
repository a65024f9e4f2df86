//! Looking at the view.

use std::sync::Arc;
use std::time::Duration;

use coupon_domain::view_buckets::{bucket_divisor, bucket_of};
use coupon_domain::view_sync::ViewWatermark;
use coupon_domain::{ClaimAnswer, ClaimId, CouponId, Round};
use quick_cache::sync::Cache;
use redis::aio::ConnectionManager;

use crate::config::RedisSection;
use crate::connection::{Connection, RedisError, SharedBy};
use crate::keys::{Keys, mark};
use crate::metrics::{GET_CLAIM, PREFILTER, RedisMetrics};
use crate::value;

/// How many coupons a process remembers the shape of the view of, about 200 bytes each. One that is forgotten costs its next look a second round trip.
pub const SHAPES_KEPT_MAX: usize = 20_000;

/// How often one look follows a view that changes its shape under it.
const TRIES_MAX: u32 = 3;

/// What the view says to a user who presses the button.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefilter {
    /// The answers that it has for the claims asked about, in their order.
    pub answers: Vec<ClaimAnswer>,
    /// Up to where it is true; none where that was not asked, or it is empty or being pushed anew.
    pub watermark: Option<ViewWatermark>,
    /// The coupon's round that it reflects.
    pub round: Option<Round>,
    /// Every bucket that the claims belong into is whole: what has no answer here has none up to the watermark.
    pub is_whole: bool,
}

/// Reads the view. Cheap to clone.
#[derive(Clone)]
pub struct ViewReader {
    connection: Connection,
    /// For whoever asks in the background.
    asking: Connection,
    look: Look,
}

impl ViewReader {
    /// A reader with a connection for each thread that looks; requests take at most `read_timeout_ms`.
    ///
    /// # Errors
    /// [`RedisError::Unavailable`]: the URL or the files of the `tls` part cannot be used.
    pub fn new(section: &RedisSection, metrics: RedisMetrics) -> Result<Self, RedisError> {
        let timeout = Duration::from_millis(section.read_timeout_ms.into());
        Ok(Self {
            connection: Connection::new(section, timeout, SharedBy::Thread, metrics.clone())?,
            asking: Connection::new(section, timeout, SharedBy::All, metrics)?,
            look: Look::new(Keys::new(&section.key_prefix)),
        })
    }

    /// Asks for nothing but an answer, as the metrics then say.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        self.asking.ping().await
    }

    /// A user's claims of one coupon (all rounds so far).
    ///
    /// # Errors
    /// [`RedisError`]; the caller goes on without.
    pub async fn prefilter(&self, claim_ids: &[ClaimId], asks: Asks) -> Result<Prefilter, RedisError> {
        self.look(PREFILTER, claim_ids, asks).await
    }

    /// The answer to a claim, if the view has one.
    ///
    /// # Errors
    /// [`RedisError`]; the caller goes on without.
    pub async fn claim(&self, claim_id: &ClaimId) -> Result<Option<ClaimAnswer>, RedisError> {
        let seen = self.look(GET_CLAIM, std::slice::from_ref(claim_id), Asks::Answers).await?;
        Ok(seen.answers.first().copied())
    }

    async fn look(
        &self,
        operation: &'static str,
        claim_ids: &[ClaimId],
        asks: Asks,
    ) -> Result<Prefilter, RedisError> {
        let looking = async |manager: &mut ConnectionManager| self.look.at(manager, claim_ids, asks).await;
        let seen = self.connection.run(operation, looking).await?;
        Ok(Prefilter {
            is_whole: !seen.claims.is_empty() && seen.claims.iter().all(|claim| claim.is_whole),
            answers: seen.claims.iter().filter_map(|claim| claim.answer).collect(),
            watermark: seen.watermark,
            round: seen.round,
        })
    }
}

/// Looks for claims.
///
/// Where a claim lies follows from its mac and from how many buckets its coupon's view has. A look asks by what the last one found; the bucket itself says
/// whether that still holds.
#[derive(Clone)]
pub(crate) struct Look {
    keys: Keys,
    shapes: Arc<Cache<CouponId, Arc<Shape>>>,
}

/// Where the answers of a coupon's view lie.
#[derive(PartialEq, Eq)]
struct Shape {
    /// The field that every whole bucket bears: the id of the push that made the view.
    mark: String,
    /// How many buckets there are, at least one.
    buckets: u32,
}

/// What a look asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Answers: where there is none, that says nothing.
    Answers,
    /// Before them the view's watermark and round: what the watermark covers is there when the buckets are read. The other way about, an answer written in
    /// between would be missed and its absence believed.
    WatermarkAndAnswers,
}

/// What a coupon's view says of some claims.
#[derive(Default)]
pub(crate) struct Seen {
    /// None where the hash was not asked, too.
    pub(crate) watermark: Option<ViewWatermark>,
    /// See `watermark`.
    pub(crate) round: Option<Round>,
    /// One for each claim asked about.
    pub(crate) claims: Vec<SeenClaim>,
}

/// What it says of one.
#[derive(Default)]
pub(crate) struct SeenClaim {
    /// Its answer.
    pub(crate) answer: Option<ClaimAnswer>,
    /// What lies in its place is no answer to it.
    pub(crate) is_unreadable: bool,
    /// Without an answer it has none up to the watermark: it was looked for in its bucket, and that bears the id of the push that made the view.
    pub(crate) is_whole: bool,
}

/// What a hash says, field by field.
type Fields = Vec<Option<Vec<u8>>>;

impl Look {
    pub(crate) fn new(keys: Keys) -> Self {
        Self { keys, shapes: Arc::new(Cache::new(SHAPES_KEPT_MAX)) }
    }

    /// Looks at the view for these claims, all of one coupon.
    pub(crate) async fn at(
        &self,
        connection: &mut impl redis::aio::ConnectionLike,
        claim_ids: &[ClaimId],
        mut asks: Asks,
    ) -> redis::RedisResult<Seen> {
        let Some(ClaimId { coupon_id, .. }) = claim_ids.first() else {
            return Ok(Seen::default());
        };
        let hash = self.keys.coupon(*coupon_id);
        let mut seen = Seen::default();
        for _ in 0..TRIES_MAX {
            let asked = self.shapes.get(coupon_id);
            let with_hash = asks == Asks::WatermarkAndAnswers || asked.is_none();
            let found = read(connection, &hash, with_hash, asked.as_deref(), claim_ids).await?;
            let (of_hash, of_claims) = found.split_at(usize::from(with_hash));
            seen = Seen {
                claims: SeenClaim::read_all(claim_ids, of_claims, asked.as_deref()),
                ..Seen::default()
            };
            let is_found = seen.claims.iter().all(|claim| claim.answer.is_some() || claim.is_whole);
            let Some(of_hash) = of_hash.first() else {
                if is_found {
                    return Ok(seen);
                }
                asks = Asks::WatermarkAndAnswers;
                continue;
            };
            seen.read_hash(of_hash);
            let Some(shape) = Shape::read(of_hash) else {
                self.shapes.remove(coupon_id);
                break;
            };
            let is_same = asked.as_deref() == Some(&shape);
            let is_same_push = asked.is_some_and(|asked| asked.mark == shape.mark);
            if !is_same {
                self.shapes.insert(*coupon_id, Arc::new(shape));
            }
            if is_same || is_found && is_same_push {
                return Ok(seen);
            }
        }
        seen.doubt();
        Ok(seen)
    }
}

/// Reads, in this order, the coupon's hash (where it is asked for), and of each claim's bucket (where the view's shape is known) the mark and what lies in
/// the claim's place.
async fn read(
    connection: &mut impl redis::aio::ConnectionLike,
    hash: &str,
    with_hash: bool,
    shape: Option<&Shape>,
    claim_ids: &[ClaimId],
) -> redis::RedisResult<Vec<Fields>> {
    let mut asking = redis::pipe();
    if with_hash {
        asking.cmd("HMGET").arg(hash).arg("watermark").arg("round").arg("push").arg("buckets");
    }
    if let Some(shape) = shape {
        for claim_id in claim_ids {
            let bucket = format!("{hash}:{}", bucket_of(&claim_id.mac, shape.buckets));
            asking.cmd("HMGET").arg(bucket).arg(&shape.mark).arg(&claim_id.mac[..]);
        }
    }
    asking.query_async(connection).await
}

fn text(fields: &Fields, at: usize) -> Option<&str> {
    std::str::from_utf8(fields.get(at)?.as_ref()?).ok()
}

impl Shape {
    /// As the coupon's hash says; none where there is no view, or no sense in it.
    fn read(of_hash: &Fields) -> Option<Self> {
        let buckets = text(of_hash, 3)?.parse().ok().filter(|buckets| *buckets > 0)?;
        Some(Self { mark: mark(text(of_hash, 2)?), buckets })
    }
}

impl Seen {
    fn read_hash(&mut self, of_hash: &Fields) {
        self.watermark = text(of_hash, 0).and_then(|text| text.parse().ok());
        self.round = text(of_hash, 1).and_then(|text| Round::new(text.parse().ok()?).ok());
    }

    /// Nothing that is not there can be believed.
    fn doubt(&mut self) {
        for claim in &mut self.claims {
            claim.is_whole = false;
        }
    }
}

impl SeenClaim {
    /// What was found of these claims, each in the bucket that it has in a view of this shape.
    fn read_all(claim_ids: &[ClaimId], found: &[Fields], shape: Option<&Shape>) -> Vec<Self> {
        let Some(shape) = shape else {
            return claim_ids.iter().map(|_| Self::default()).collect();
        };
        claim_ids.iter().zip(found).map(|(claim_id, found)| Self::read(claim_id, found, shape)).collect()
    }

    fn read(claim_id: &ClaimId, found: &Fields, shape: &Shape) -> Self {
        let value = found.get(1).and_then(Option::as_ref);
        let answer = value
            .and_then(|value| value::decode(claim_id.coupon_id, &claim_id.mac, value))
            .filter(|answer| answer.claim_id == *claim_id);
        let is_unreadable = value.is_some() && answer.is_none();
        let divisor = bucket_divisor(bucket_of(&claim_id.mac, shape.buckets), shape.buckets);
        let is_its_bucket = text(found, 0).and_then(|text| text.parse().ok()) == Some(divisor);
        Self { answer, is_unreadable, is_whole: is_its_bucket && !is_unreadable }
    }
}
