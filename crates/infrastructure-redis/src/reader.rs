//! Looking at the view.

use std::time::Duration;

use coupon_domain::view_buckets::bucket_hash;
use coupon_domain::view_sync::ViewWatermark;
use coupon_domain::{ClaimAnswer, ClaimId, Round};
use redis::Script;

use crate::config::RedisSection;
use crate::connection::{Connection, RedisError};
use crate::keys::Keys;
use crate::metrics::{GET_CLAIM, PREFILTER, RedisMetrics};
use crate::value;

/// What the view says to a user who presses the button.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefilter {
    /// The answers that it has for the claims asked about, in their order.
    pub answers: Vec<ClaimAnswer>,
    /// Up to where it is true; none where it is empty or being pushed anew.
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
    /// For whoever asks in the background: a connection lives on the threads of its first user, and requests have theirs.
    asking: Connection,
    keys: Keys,
    look: Look,
}

impl ViewReader {
    /// A reader with a connection of its own; requests take at most `read_timeout_ms`.
    ///
    /// # Errors
    /// [`RedisError::Unavailable`]: the URL or the files of the `tls` part cannot be used.
    pub fn new(section: &RedisSection, metrics: RedisMetrics) -> Result<Self, RedisError> {
        let timeout = Duration::from_millis(section.read_timeout_ms.into());
        Ok(Self {
            connection: Connection::new(section, timeout, metrics.clone())?,
            asking: Connection::new(section, timeout, metrics)?,
            keys: Keys::new(&section.key_prefix),
            look: Look::default(),
        })
    }

    /// Asks for nothing but an answer, as the metrics then say.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        self.asking.ping().await
    }

    /// A user's claims of one coupon (all rounds so far) together with the view's watermark and round, in one script: read one after
    /// the other, an answer written in between would be missed and its absence believed.
    ///
    /// # Errors
    /// [`RedisError`]; the caller goes on without.
    pub async fn prefilter(&self, claim_ids: &[ClaimId]) -> Result<Prefilter, RedisError> {
        let Some(first) = claim_ids.first() else {
            return Ok(Prefilter { answers: Vec::new(), watermark: None, round: None, is_whole: false });
        };
        let key = self.keys.coupon(first.coupon_id);
        let seen = self
            .connection
            .run(PREFILTER, async |manager| self.look.at(manager, &key, claim_ids).await)
            .await?;
        Ok(Prefilter {
            is_whole: seen.claims.iter().all(|claim| claim.is_whole),
            answers: seen.claims.iter().filter_map(|claim| claim.answer).collect(),
            watermark: seen.watermark,
            round: seen.round,
        })
    }

    /// The answer to a claim, if the view has one.
    ///
    /// # Errors
    /// [`RedisError`]; the caller goes on without.
    pub async fn claim(&self, claim_id: &ClaimId) -> Result<Option<ClaimAnswer>, RedisError> {
        let (key, claim_ids) = (self.keys.coupon(claim_id.coupon_id), std::slice::from_ref(claim_id));
        let seen = self
            .connection
            .run(GET_CLAIM, async |manager| self.look.at(manager, &key, claim_ids).await)
            .await?;
        Ok(seen.claims.first().and_then(|claim| claim.answer))
    }
}

/// The script that looks for claims.
#[derive(Clone)]
pub(crate) struct Look(Script);

/// What a coupon's view says of some claims.
pub(crate) struct Seen {
    pub(crate) watermark: Option<ViewWatermark>,
    pub(crate) round: Option<Round>,
    pub(crate) claims: Vec<SeenClaim>,
}

/// What it says of one.
pub(crate) struct SeenClaim {
    /// Its answer.
    pub(crate) answer: Option<ClaimAnswer>,
    /// What lies in its place is no answer to it.
    pub(crate) is_unreadable: bool,
    /// Without an answer it has none: its bucket bears the id of the push that made the view.
    pub(crate) is_whole: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self(Script::new(include_str!("read_view.lua")))
    }
}

impl Look {
    /// Looks at the view under `key` for these claims of its coupon.
    pub(crate) async fn at(
        &self,
        connection: &mut impl redis::aio::ConnectionLike,
        key: &str,
        claim_ids: &[ClaimId],
    ) -> redis::RedisResult<Seen> {
        let mut invocation = self.0.prepare_invoke();
        invocation.key(key);
        for claim_id in claim_ids {
            invocation.arg(bucket_hash(&claim_id.mac)).arg(&claim_id.mac[..]);
        }
        type Found = (Option<String>, Option<String>, Vec<Option<Vec<u8>>>, Vec<bool>);
        let (watermark, round, values, whole): Found = invocation.invoke_async(connection).await?;
        let claims = claim_ids.iter().zip(values).zip(whole).map(|((claim_id, value), is_whole)| {
            let answer = value
                .as_ref()
                .and_then(|value| value::decode(claim_id.coupon_id, &claim_id.mac, value))
                .filter(|answer| answer.claim_id == *claim_id);
            let is_unreadable = value.is_some() && answer.is_none();
            SeenClaim { answer, is_unreadable, is_whole: is_whole && !is_unreadable }
        });
        Ok(Seen {
            claims: claims.collect(),
            watermark: watermark.and_then(|text| text.parse().ok()),
            round: round.and_then(|text| Round::new(text.parse().ok()?).ok()),
        })
    }
}
