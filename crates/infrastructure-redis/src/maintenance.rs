//! The rare paths: finding out where a view stands, forgetting one. From a pool: they may take long, and nobody waits behind
//! them.

use std::time::Duration;

use coupon_domain::view_sync::ViewWatermark;
use coupon_domain::{ClaimAnswer, ClaimId, CouponId};
use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use redis::AsyncCommands;

use crate::client::{client, is_encrypted, refused, unavailable};
use crate::config::RedisSection;
use crate::connection::RedisError;
use crate::keys::Keys;
use crate::value;

/// Keys that one SCAN step looks at.
const SCAN_COUNT: usize = 1_000;
/// Most connections for rare paths.
const POOL_SIZE_MAX: usize = 2;

/// Looks after whole views.
#[derive(Clone)]
pub struct ViewMaintenance {
    pool: Pool,
    encrypted: bool,
    keys: Keys,
    timeout: Duration,
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
        Ok(Self { pool, encrypted, keys: Keys::new(&section.key_prefix), timeout })
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

    /// Deletes a coupon's view. Claims are found by scanning, so this takes a while on a large server, in small steps.
    ///
    /// # Errors
    /// [`RedisError`]; what is left expires by itself.
    pub async fn forget(&self, coupon_id: CouponId) -> Result<u64, RedisError> {
        let mut connection = self.connect().await?;
        let (pattern, mut cursor, mut forgotten) = (self.keys.claims_of(coupon_id), 0u64, 0u64);
        loop {
            let (next, found) = scan(&mut connection, cursor, &pattern).await?;
            if !found.is_empty() {
                forgotten += connection.unlink::<_, u64>(found).await.map_err(unavailable)?;
            }
            if next == 0 {
                break;
            }
            cursor = next;
        }
        // Last: as long as it is there, something is left to be forgotten.
        let _: u64 = connection.unlink(self.keys.coupon(coupon_id)).await.map_err(unavailable)?;
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
        let (mut cursor, mut hashes) = (0u64, std::collections::BTreeMap::new());
        loop {
            let (next, found) = scan(&mut connection, cursor, &pattern).await?;
            for key in found {
                let Some(coupon_id) = self.keys.read_coupon(&key) else { continue };
                let fields: std::collections::BTreeMap<String, String> =
                    connection.hgetall(&key).await.map_err(unavailable)?;
                let text = |name: &str| fields.get(name).cloned();
                let hash = CouponHash {
                    watermark: text("watermark").and_then(|watermark| watermark.parse().ok()),
                    remaining: text("remaining"),
                    status: text("status"),
                    round: text("round"),
                };
                hashes.insert(coupon_id, hash);
            }
            if next == 0 {
                return Ok(hashes.into_iter().collect());
            }
            cursor = next;
        }
    }

    /// Every answer of the view, as it is found; a key may be found twice while others come and go.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn answers(&self, mut each: impl FnMut(FoundAnswer)) -> Result<(), RedisError> {
        let (mut connection, pattern) = (self.connect().await?, self.keys.claims());
        let mut cursor = 0u64;
        loop {
            let (next, found) = scan(&mut connection, cursor, &pattern).await?;
            if !found.is_empty() {
                let values: Vec<Option<Vec<u8>>> = connection.mget(&found).await.map_err(unavailable)?;
                for (key, value) in found.into_iter().zip(values) {
                    let Some(value) = value else { continue };
                    each(match (self.keys.read_claim(&key), value::decode_marked(&value)) {
                        (Some(claim_id), Some(answer)) => FoundAnswer::Read(claim_id, answer),
                        _ => FoundAnswer::Unreadable(key),
                    });
                }
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// For each of these claims what stands under its key: its answer, or the key where that is none.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn look_up(
        &self,
        claim_ids: &[ClaimId],
    ) -> Result<Vec<Option<Result<ClaimAnswer, String>>>, RedisError> {
        if claim_ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connect().await?;
        let keys: Vec<String> = claim_ids.iter().map(|claim_id| self.keys.claim(claim_id)).collect();
        let values: Vec<Option<Vec<u8>>> = connection.mget(&keys).await.map_err(unavailable)?;
        let read = |((key, claim_id), value): ((String, &ClaimId), Option<Vec<u8>>)| {
            let answer = value::decode_marked(&value?).filter(|answer| answer.claim_id == *claim_id);
            Some(answer.ok_or(key))
        };
        Ok(keys.into_iter().zip(claim_ids).zip(values).map(read).collect())
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
    /// A hash.
    Fields(std::collections::BTreeMap<String, String>),
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
