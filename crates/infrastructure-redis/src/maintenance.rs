//! The rare paths: finding out where a view stands, forgetting one. From a pool: they may take long, and nobody waits behind
//! them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use coupon_domain::view_sync::{Standing, ViewWatermark};
use coupon_domain::{ClaimAnswer, ClaimId, CouponId, Offset};
use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use redis::AsyncCommands;

use crate::client::{client, is_encrypted, refused, unavailable};
use crate::config::RedisSection;
use crate::connection::RedisError;
use crate::keys::Keys;
use crate::reader::{Asks, Look, Seen};
use crate::value;

/// Keys that one SCAN step looks at.
const SCAN_COUNT: usize = 1_000;
/// Buckets that one command deletes.
const UNLINKED_AT_ONCE: u32 = 500;
/// Claims that are looked for in one round trip.
const LOOKED_AT_ONCE: usize = 500;
/// Most connections for rare paths.
const POOL_SIZE_MAX: usize = 2;

/// Looks after whole views.
#[derive(Clone)]
pub struct ViewMaintenance {
    pool: Pool,
    encrypted: bool,
    keys: Keys,
    timeout: Duration,
    look: Look,
}

impl ViewMaintenance {
    /// Connects when it is first asked.
    ///
    /// # Errors
    /// [`RedisError::Unavailable`]: the URL or the files of the `tls` part cannot be used.
    pub fn new(section: &RedisSection) -> Result<Self, RedisError> {
        let address = client(section)?.get_connection_info().clone();
        let encrypted = is_encrypted(address.addr());
        let pool = Pool::builder(Manager::new(address).map_err(unavailable)?)
            .max_size(POOL_SIZE_MAX)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| RedisError::Unavailable(error.to_string()))?;
        let timeout = Duration::from_millis(section.write_timeout_ms.into());
        let keys = Keys::new(&section.key_prefix);
        Ok(Self { pool, encrypted, look: Look::new(keys.clone()), keys, timeout })
    }

    /// Asks for nothing but an answer.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        let asking = async {
            let mut connection = self.connect().await?;
            redis::cmd("PING").query_async(&mut connection).await.map_err(unavailable)
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(RedisError::Timeout(self.timeout)))
    }

    /// Up to where a coupon's view is true, if it says so.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn watermark(&self, coupon_id: CouponId) -> Result<Option<ViewWatermark>, RedisError> {
        let key = self.keys.coupon(coupon_id);
        let asking = async {
            let mut connection = self.connect().await?;
            let found: Option<String> = connection.hget(key, "watermark").await.map_err(unavailable)?;
            Ok(found.and_then(|text| text.parse().ok()))
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(RedisError::Timeout(self.timeout)))
    }

    /// What a coupon's hash says of its view, and in how many buckets that lies; none where there is no such hash, or no sense in it.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn standing(&self, coupon_id: CouponId) -> Result<Option<(Standing, u32)>, RedisError> {
        let key = self.keys.coupon(coupon_id);
        let asking = async {
            let mut connection = self.connect().await?;
            let fields = &["watermark", "push", "buckets"];
            let found: [Option<String>; 3] = connection.hmget(key, fields).await.map_err(unavailable)?;
            Ok(read_standing(&found))
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(RedisError::Timeout(self.timeout)))
    }

    /// What the server does when its memory is full (`maxmemory-policy`); none where it does not tell us.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn eviction_policy(&self) -> Result<Option<String>, RedisError> {
        let asking = async {
            let mut connection = self.connect().await?;
            let told: redis::RedisResult<String> =
                redis::cmd("INFO").arg("memory").query_async(&mut connection).await;
            match told {
                Ok(info) => {
                    let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
                    Ok(policy.map(|policy| policy.trim().to_owned()))
                }
                // The user may not, or the command is switched off.
                Err(error) if matches!(error.kind(), redis::ErrorKind::Server(_)) => Ok(None),
                Err(error) => Err(unavailable(error)),
            }
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(RedisError::Timeout(self.timeout)))
    }

    /// True where anything may be left of a coupon's view.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn has_view(&self, coupon_id: CouponId) -> Result<bool, RedisError> {
        let asking = async {
            let mut connection = self.connect().await?;
            connection.exists(self.keys.coupon(coupon_id)).await.map_err(unavailable)
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(RedisError::Timeout(self.timeout)))
    }

    /// Deletes a coupon's view, its buckets by name; gives how many there were.
    ///
    /// # Errors
    /// [`RedisError`]; what is left expires by itself.
    pub async fn forget(&self, coupon_id: CouponId) -> Result<u64, RedisError> {
        let mut connection = self.connect().await?;
        let hash = self.keys.coupon(coupon_id);
        let buckets = bucket_count(&mut connection, &hash).await?;
        let (mut next, mut forgotten) = (0, 0u64);
        while next < buckets {
            let end = next.saturating_add(UNLINKED_AT_ONCE).min(buckets);
            let names: Vec<String> = (next..end).map(|number| self.keys.bucket(coupon_id, number)).collect();
            forgotten += connection.unlink::<_, u64>(names).await.map_err(unavailable)?;
            next = end;
        }
        // Last: as long as it is there, something is left to be forgotten.
        let _: u64 = connection.unlink(hash).await.map_err(unavailable)?;
        Ok(forgotten)
    }

    /// Everything under the prefix, key by key: strings as they are, hashes by field.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn dump(&self, mut each: impl FnMut(String, DumpedValue)) -> Result<(), RedisError> {
        let mut connection = self.connect().await?;
        let mut cursor = 0u64;
        loop {
            let (next, found) = scan(&mut connection, cursor, &self.keys.everything()).await?;
            for key in found {
                let kind: String =
                    redis::cmd("TYPE").arg(&key).query_async(&mut connection).await.map_err(unavailable)?;
                let value = match kind.as_str() {
                    "string" => DumpedValue::Text(connection.get(&key).await.map_err(unavailable)?),
                    "hash" if self.keys.read_bucket(&key).is_some() => {
                        DumpedValue::Bucket(connection.hgetall(&key).await.map_err(unavailable)?)
                    }
                    "hash" => DumpedValue::Fields(connection.hgetall(&key).await.map_err(unavailable)?),
                    // It expired meanwhile, or is not ours.
                    _ => continue,
                };
                each(key, value);
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// What every coupon's hash says.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn coupons(&self) -> Result<Vec<(CouponId, CouponHash)>, RedisError> {
        let (mut connection, pattern) = (self.connect().await?, self.keys.coupons());
        let (mut cursor, mut hashes) = (0u64, BTreeMap::new());
        loop {
            let (next, found) = scan(&mut connection, cursor, &pattern).await?;
            for key in found {
                let Some(coupon_id) = self.keys.read_coupon(&key) else { continue };
                if let Some(hash) = read_hash(&mut connection, &key).await? {
                    hashes.insert(coupon_id, hash);
                }
            }
            if next == 0 {
                return Ok(hashes.into_iter().collect());
            }
            cursor = next;
        }
    }

    /// What the hashes of these coupons say, each asked for by its name; those that are not there are left out.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn named_coupons(
        &self,
        coupons: impl IntoIterator<Item = CouponId>,
    ) -> Result<Vec<(CouponId, CouponHash)>, RedisError> {
        let (mut connection, mut hashes) = (self.connect().await?, Vec::new());
        for coupon_id in coupons {
            let hash = read_hash(&mut connection, &self.keys.coupon(coupon_id)).await?;
            hashes.extend(hash.map(|hash| (coupon_id, hash)));
        }
        Ok(hashes)
    }

    /// Every answer of these coupons' views, bucket by bucket, as it is found; one may be found twice while a view grows.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn answers(
        &self,
        coupons: &[CouponId],
        mut each: impl FnMut(FoundAnswer),
    ) -> Result<(), RedisError> {
        let mut connection = self.connect().await?;
        for coupon_id in coupons.iter().copied() {
            let hash = self.keys.coupon(coupon_id);
            let mut number = 0;
            // It may grow meanwhile.
            while number < bucket_count(&mut connection, &hash).await? {
                let key = self.keys.bucket(coupon_id, number);
                let held: Vec<(Vec<u8>, Vec<u8>)> = connection.hgetall(&key).await.map_err(unavailable)?;
                for (field, value) in held {
                    match value::decode(coupon_id, &field, &value) {
                        Some(answer) => each(FoundAnswer::Read(answer.claim_id, answer)),
                        None if is_mark(&field, &value) => {}
                        None => {
                            each(FoundAnswer::Unreadable(format!("{key}, field {}", field.escape_ascii())));
                        }
                    }
                }
                number += 1;
            }
        }
        Ok(())
    }

    /// For each of these claims what lies in its place: its answer, or the place where that is none.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn look_up(
        &self,
        claim_ids: &[ClaimId],
    ) -> Result<Vec<Option<Result<ClaimAnswer, String>>>, RedisError> {
        let mut of_coupons = BTreeMap::<CouponId, Vec<ClaimId>>::new();
        for claim_id in claim_ids {
            of_coupons.entry(claim_id.coupon_id).or_default().push(*claim_id);
        }
        let mut found = HashMap::new();
        for some in of_coupons.values().flat_map(|claim_ids| claim_ids.chunks(LOOKED_AT_ONCE)) {
            let seen = self.look_at(some).await?;
            for (claim_id, seen) in some.iter().zip(seen.claims) {
                let unreadable = seen.is_unreadable.then(|| format!("the place of claim {claim_id}"));
                found.insert(*claim_id, seen.answer.map(Ok).or(unreadable.map(Err)));
            }
        }
        Ok(claim_ids.iter().map(|claim_id| found.get(claim_id).cloned().flatten()).collect())
    }

    /// One of these claims, all of one coupon, that the view says for certain has no answer before `next_src`: nothing lies in its place, and its bucket is
    /// part of a view that reaches as far.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn denied(
        &self,
        claim_ids: &[ClaimId],
        next_src: Offset,
    ) -> Result<Option<ClaimId>, RedisError> {
        for some in claim_ids.chunks(LOOKED_AT_ONCE) {
            let seen = self.look_at(some).await?;
            let reached = seen.watermark.and_then(ViewWatermark::next_src);
            if reached.is_none_or(|reached| reached < next_src) {
                continue;
            }
            let absent =
                some.iter().zip(&seen.claims).find(|(_, seen)| seen.answer.is_none() && seen.is_whole);
            if let Some((claim_id, _)) = absent {
                return Ok(Some(*claim_id));
            }
        }
        Ok(None)
    }

    async fn look_at(&self, claim_ids: &[ClaimId]) -> Result<Seen, RedisError> {
        let mut connection = self.connect().await?;
        self.look.at(&mut connection, claim_ids, Asks::WatermarkAndAnswers).await.map_err(unavailable)
    }

    async fn connect(&self) -> Result<deadpool_redis::Connection, RedisError> {
        match tokio::time::timeout(self.timeout, self.pool.get()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(PoolError::Backend(error))) => Err(refused(&error, self.encrypted)),
            Ok(Err(error)) => Err(RedisError::Unavailable(error.to_string())),
            Err(_) => Err(RedisError::Timeout(self.timeout)),
        }
    }
}

/// What a coupon's hash says; a field that is not there says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponHash {
    /// Up to where the view is true.
    pub watermark: Option<ViewWatermark>,
    /// The push that made it.
    pub push_id: Option<String>,
    /// How many can still be granted.
    pub remaining: Option<String>,
    /// The coupon's status.
    pub status: Option<String>,
    /// The coupon's round.
    pub round: Option<String>,
}

/// What stands under a claim's key.
#[derive(Clone, Debug, PartialEq)]
pub enum FoundAnswer {
    /// An answer whose mark is its own, and the claim that its key names.
    Read(ClaimId, ClaimAnswer),
    /// Something else, under this key.
    Unreadable(String),
}

/// A value, as it stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpedValue {
    /// A string.
    Text(Option<String>),
    /// A bucket.
    Bucket(BTreeMap<Vec<u8>, Vec<u8>>),
    /// Another hash.
    Fields(BTreeMap<String, String>),
}

fn read_standing(fields: &[Option<String>; 3]) -> Option<(Standing, u32)> {
    let [watermark, push_id, buckets] = fields;
    let standing =
        Standing { watermark: watermark.as_ref()?.parse().ok()?, push_id: push_id.as_ref()?.parse().ok()? };
    Some((standing, buckets.as_ref()?.parse().ok()?))
}

/// The field by which a bucket shows which push it is part of.
fn is_mark(field: &[u8], value: &[u8]) -> bool {
    field.starts_with(b"push.") && value.iter().all(u8::is_ascii_digit)
}

/// What a coupon's hash says; none where it is not there.
async fn read_hash(
    connection: &mut deadpool_redis::Connection,
    key: &str,
) -> Result<Option<CouponHash>, RedisError> {
    let mut fields: HashMap<String, String> = connection.hgetall(key).await.map_err(unavailable)?;
    if fields.is_empty() {
        return Ok(None);
    }
    Ok(Some(CouponHash {
        watermark: fields.get("watermark").and_then(|watermark| watermark.parse().ok()),
        push_id: fields.remove("push"),
        remaining: fields.remove("remaining"),
        status: fields.remove("status"),
        round: fields.remove("round"),
    }))
}

/// How many buckets a view has, as its hash says.
async fn bucket_count(connection: &mut deadpool_redis::Connection, hash: &str) -> Result<u32, RedisError> {
    let said: Option<String> = connection.hget(hash, "buckets").await.map_err(unavailable)?;
    Ok(said.and_then(|said| said.parse().ok()).unwrap_or(0))
}

async fn scan(
    connection: &mut deadpool_redis::Connection,
    cursor: u64,
    pattern: &str,
) -> Result<(u64, Vec<String>), RedisError> {
    redis::cmd("SCAN")
        .arg(cursor)
        .arg("MATCH")
        .arg(pattern)
        .arg("COUNT")
        .arg(SCAN_COUNT)
        .query_async(connection)
        .await
        .map_err(unavailable)
}
