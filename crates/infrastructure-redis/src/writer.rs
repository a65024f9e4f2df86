//! Writing the view.

use std::time::Duration;

use coupon_domain::view_sync::{Reply, Step};
use coupon_domain::{ClaimAnswer, CouponId, CouponState, CouponStatus, Round, Timestamp};
use redis::Script;

use crate::config::RedisSection;
use crate::connection::{Connection, RedisError};
use crate::keys::Keys;
use crate::metrics::{RedisMetrics, WRITE_VIEW};
use crate::value;

/// Most claims in one script: Lua's stack takes about 8,000 values, and a script holds up everybody else's request while
/// it runs (about a millisecond for this many).
pub const CLAIMS_PER_SCRIPT_MAX: u32 = 500;

/// What a coupon's hash says besides its watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CouponCounts {
    /// Which coupon.
    pub coupon_id: CouponId,
    /// How many can still be granted.
    pub remaining: u32,
    /// What the operators made of it.
    pub status: CouponStatus,
    /// Its round.
    pub round: Round,
    /// When its window ends.
    pub closes_at: Timestamp,
}

impl From<&CouponState> for CouponCounts {
    fn from(state: &CouponState) -> Self {
        Self {
            coupon_id: state.coupon_id,
            remaining: state.remaining(),
            status: state.status,
            round: state.round,
            closes_at: state.definition.window().closes_at(),
        }
    }
}

/// One script's work.
#[derive(Debug)]
pub struct ViewWrite<'a> {
    /// The watermarks to find and to leave.
    pub step: Step,
    /// Whose view it is, and what its hash will say.
    pub counts: CouponCounts,
    /// True where the counts are those at the watermark to leave. Else the hash says none: it never shows another moment's.
    pub counts_hold: bool,
    /// The answers to write, at most [`CLAIMS_PER_SCRIPT_MAX`].
    pub answers: &'a [ClaimAnswer],
}

/// Writes the view, for one task.
pub struct ViewWriter {
    connection: Connection,
    keys: Keys,
    script: Script,
    keep_after_close_ms: i64,
    keep_deferral_ms: i64,
}

impl ViewWriter {
    /// A writer with a connection of its own; a write takes at most `write_timeout_ms`.
    ///
    /// # Errors
    /// [`RedisError::Unavailable`]: the URL or the files of the `tls` part cannot be used.
    pub fn new(section: &RedisSection, metrics: RedisMetrics) -> Result<Self, RedisError> {
        let timeout = Duration::from_millis(section.write_timeout_ms.into());
        Ok(Self {
            connection: Connection::new(section, timeout, metrics)?,
            keys: Keys::new(&section.key_prefix),
            script: Script::new(include_str!("write_view.lua")),
            keep_after_close_ms: i64::from(section.keep_after_close_s) * 1_000,
            keep_deferral_ms: i64::from(section.keep_deferral_s) * 1_000,
        })
    }

    /// Asks for nothing but an answer, as the metrics then say.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        self.connection.ping().await
    }

    /// When a view goes: `keep_after_close_s` after its coupon's end, claims and hash at once, so that a hash never vouches for claims that are
    /// gone. Whatever is written from then on expires at once: nobody should.
    #[must_use]
    pub fn expires_at(&self, closes_at: Timestamp) -> Timestamp {
        closes_at.plus_ms(self.keep_after_close_ms)
    }

    /// Runs one step of a view's refresh.
    pub async fn write(&self, write: &ViewWrite<'_>) -> Reply {
        let expires_at = self.expires_at(write.counts.closes_at);
        let mut invocation = self.script.prepare_invoke();
        invocation.key(self.keys.coupon(write.counts.coupon_id));
        for answer in write.answers {
            invocation.key(self.keys.claim(&answer.claim_id));
        }
        invocation
            .arg(write.step.expects.map(|watermark| watermark.to_string()).unwrap_or_default())
            .arg(write.step.leaves.to_string())
            .arg(expires_at.ms())
            .arg(self.keep_deferral_ms)
            .arg(i64::from(write.counts_hold))
            .arg(write.counts.remaining)
            .arg(write.counts.status.as_str())
            .arg(write.counts.round.number());
        for answer in write.answers {
            invocation.arg(value::encode(answer));
        }
        let run = async |manager: &mut redis::aio::ConnectionManager| {
            invocation.invoke_async::<(i64, Option<String>)>(manager).await
        };
        match self.connection.run(WRITE_VIEW, run).await {
            Ok((1, _)) => Reply::Written,
            Ok((_, found)) => Reply::Found(found.and_then(|text| text.parse().ok())),
            Err(error) => {
                tracing::debug!(coupon.id = %write.counts.coupon_id, "the view was not written: {error}");
                Reply::Unknown
            }
        }
    }
}
