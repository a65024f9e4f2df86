//! Looking at the view.

use std::time::Duration;

use coupon_domain::view_sync::ViewWatermark;
use coupon_domain::{ClaimAnswer, ClaimId, Round};

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
}

/// Reads the view. Cheap to clone.
#[derive(Clone)]
pub struct ViewReader {
    connection: Connection,
    /// For whoever asks in the background: a connection lives on the threads of its first user, and requests have theirs.
    asking: Connection,
    keys: Keys,
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
        })
    }

    /// Asks for nothing but an answer, as the metrics then say.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        self.asking.ping().await
    }

    /// A user's claims of one coupon (all rounds so far) together with the view's watermark and round, in one transaction: read one after
    /// the other, an answer written in between would be missed and its absence believed.
    ///
    /// # Errors
    /// [`RedisError`]; the caller goes on without.
    pub async fn prefilter(&self, claim_ids: &[ClaimId]) -> Result<Prefilter, RedisError> {
        let Some(first) = claim_ids.first() else {
            return Ok(Prefilter { answers: Vec::new(), watermark: None, round: None });
        };
        let mut transaction = redis::pipe();
        transaction
            .atomic()
            .cmd("HMGET")
            .arg(self.keys.coupon(first.coupon_id))
            .arg("watermark")
            .arg("round");
        transaction.cmd("MGET");
        for claim_id in claim_ids {
            transaction.arg(self.keys.claim(claim_id));
        }
        type Found = ((Option<String>, Option<String>), Vec<Option<Vec<u8>>>);
        let ((watermark, round), values): Found =
            self.connection.run(PREFILTER, async |manager| transaction.query_async(manager).await).await?;
        Ok(Prefilter {
            answers: values.iter().flatten().filter_map(|value| value::decode(value)).collect(),
            watermark: watermark.and_then(|text| text.parse().ok()),
            round: round.and_then(|text| Round::new(text.parse().ok()?).ok()),
        })
    }

    /// The answer to a claim, if the view has one.
    ///
    /// # Errors
    /// [`RedisError`]; the caller goes on without.
    pub async fn claim(&self, claim_id: &ClaimId) -> Result<Option<ClaimAnswer>, RedisError> {
        let key = self.keys.claim(claim_id);
        let get = async |manager: &mut redis::aio::ConnectionManager| {
            redis::cmd("GET").arg(key).query_async::<Option<Vec<u8>>>(manager).await
        };
        let found = self.connection.run(GET_CLAIM, get).await?;
        Ok(found.as_deref().and_then(value::decode))
    }
}
