//! Writing the view.

use std::time::Duration;

use coupon_domain::view_buckets::bucket_of;
use coupon_domain::view_sync::{Reply, Standing, Step};
use coupon_domain::{ClaimAnswer, CouponId, CouponState, CouponStatus, Round, Timestamp};
use redis::{Pipeline, Script, ScriptInvocation};

use crate::config::RedisSection;
use crate::connection::{Connection, RedisError, SharedBy};
use crate::keys::Keys;
use crate::metrics::{RedisMetrics, WRITE_VIEW};
use crate::value;

/// Most claims in one script: Lua's stack takes about 8,000 values, and a script holds up everybody else's request while
/// it runs (about a millisecond for this many).
pub const CLAIMS_PER_SCRIPT_MAX: u32 = 500;

const SCRIPT: &str = include_str!("write_view.lua");

/// How many arguments of the script stand before the buckets that it makes anew.
const ARGUMENTS_BEFORE_LAYS: usize = 15;

/// Bucket, field and value.
const ARGUMENTS_PER_ANSWER: usize = 3;

/// A bucket with so many entries takes no deferral that is not there yet: deferrals are hints, live as long as their bucket, and a crowd that presses too
/// early would fill it. PostgreSQL knows those that are left out.
const ENTRIES_WITH_DEFERRALS_MAX: u32 = 64;

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

/// The work of one script, or one transaction.
#[derive(Debug)]
pub struct ViewWrite<'a> {
    /// What to find, what to leave, and which buckets to make or to look at.
    pub step: &'a Step,
    /// Whose view it is, and what its hash will say.
    pub counts: CouponCounts,
    /// True where the counts are those at the watermark to leave. Else the hash says none: it never shows another moment's.
    pub counts_hold: bool,
    /// The answers to write, about [`CLAIMS_PER_SCRIPT_MAX`].
    pub answers: &'a [ClaimAnswer],
}

/// A write that is ready to be sent.
pub struct PreparedWrite<'a> {
    request: Request<'a>,
    coupon_id: CouponId,
}

enum Request<'a> {
    Script(ScriptInvocation<'a>),
    /// The script, behind claims for these buckets.
    Bulk(Pipeline, Vec<u32>),
}

/// Writes the view, for one task.
pub struct ViewWriter {
    connection: Connection,
    keys: Keys,
    script: Script,
    keep_after_close_ms: i64,
}

impl ViewWriter {
    /// A writer with a connection of its own; a write takes at most `write_timeout_ms`.
    ///
    /// # Errors
    /// [`RedisError::Unavailable`]: the URL or the files of the `tls` part cannot be used.
    pub fn new(section: &RedisSection, metrics: RedisMetrics) -> Result<Self, RedisError> {
        let timeout = Duration::from_millis(section.write_timeout_ms.into());
        Ok(Self {
            connection: Connection::new(section, timeout, SharedBy::All, metrics)?,
            keys: Keys::new(&section.key_prefix),
            script: Script::new(SCRIPT),
            keep_after_close_ms: i64::from(section.keep_after_close_s) * 1_000,
        })
    }

    /// Asks for nothing but an answer, as the metrics then say.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        self.connection.ping().await
    }

    /// When a view goes: `keep_after_close_s` after its coupon's end, buckets and hash at once. Whatever is written from then on expires at once: nobody should.
    #[must_use]
    pub fn expires_at(&self, closes_at: Timestamp) -> Timestamp {
        closes_at.plus_ms(self.keep_after_close_ms)
    }

    /// Spells out one step of a view's refresh.
    #[must_use]
    pub fn prepare(&self, write: &ViewWrite<'_>) -> PreparedWrite<'_> {
        let ViewWrite { step, counts, .. } = write;
        // Deferrals come behind: each is compared with what is there.
        let mut answers: Vec<(bool, u32, &ClaimAnswer)> = write
            .answers
            .iter()
            .map(|answer| {
                let bucket = bucket_of(&answer.claim_id.mac, step.buckets.end);
                (value::is_deferral(answer), bucket, answer)
            })
            .collect();
        answers.sort_by_key(|(is_deferral, bucket, _)| (*is_deferral, *bucket));
        let finals = answers.iter().filter(|(is_deferral, ..)| !is_deferral).count();
        let is_bulk = step.bulk.is_some() && finals == answers.len() && finals > 0;
        let by_script = if is_bulk { 0 } else { finals };
        let deferrals_at = ARGUMENTS_BEFORE_LAYS + step.lays.len() + ARGUMENTS_PER_ANSWER * by_script + 1;
        let expires_at = self.expires_at(counts.closes_at).ms();
        let head: [String; ARGUMENTS_BEFORE_LAYS] = [
            step.expects.map(|watermark| watermark.to_string()).unwrap_or_default(),
            step.push_id.to_string(),
            step.leaves.to_string(),
            expires_at.to_string(),
            i64::from(write.counts_hold).to_string(),
            counts.remaining.to_string(),
            counts.status.as_str().to_owned(),
            counts.round.number().to_string(),
            step.buckets.start.to_string(),
            step.buckets.end.to_string(),
            step.looks_at.start.to_string(),
            step.looks_at.end.to_string(),
            ENTRIES_WITH_DEFERRALS_MAX.to_string(),
            deferrals_at.to_string(),
            step.lays.len().to_string(),
        ];
        let hash = self.keys.coupon(counts.coupon_id);
        let request = if is_bulk {
            let mut asking = redis::pipe();
            asking.atomic();
            let mut buckets = Vec::new();
            for of_bucket in answers.chunk_by(|(_, one, _), (_, other, _)| one == other) {
                let Some((_, number, _)) = of_bucket.first() else { continue };
                let bucket = self.keys.bucket(counts.coupon_id, *number);
                let mut writing = redis::cmd("HSET");
                writing.arg(&bucket);
                for (_, _, answer) in of_bucket {
                    writing.arg(&answer.claim_id.mac[..]).arg(value::encode(answer));
                }
                asking.add_command(writing).ignore();
                // Only a bucket that was not there has no expiry yet. It has begun without the mark: nobody believes it, and it goes with the view.
                asking.cmd("PEXPIREAT").arg(&bucket).arg(expires_at).arg("NX");
                buckets.push(*number);
            }
            asking.cmd("EVAL").arg(SCRIPT).arg(1).arg(hash).arg(&head[..]).arg(&step.lays);
            Request::Bulk(asking, buckets)
        } else {
            let mut invocation = self.script.prepare_invoke();
            invocation.key(hash).arg(&head[..]).arg(&step.lays);
            for (_, bucket, answer) in answers {
                invocation.arg(bucket).arg(&answer.claim_id.mac[..]).arg(value::encode(answer));
            }
            Request::Script(invocation)
        };
        PreparedWrite { request, coupon_id: counts.coupon_id }
    }

    /// Runs one step of a view's refresh.
    pub async fn run(&self, write: &PreparedWrite<'_>) -> Reply {
        let run = async |manager: &mut redis::aio::ConnectionManager| match &write.request {
            Request::Script(invocation) => {
                let said = invocation.invoke_async::<redis::Value>(manager).await?;
                Ok(read_reply(&said))
            }
            Request::Bulk(asking, buckets) => {
                let said = asking.query_async::<Vec<redis::Value>>(manager).await?;
                Ok(read_reply_of_bulk(&said, buckets))
            }
        };
        match self.connection.run(WRITE_VIEW, run).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(coupon.id = %write.coupon_id, "the view was not written: {error}");
                Reply::Unknown
            }
        }
    }
}

/// What the transaction returned: for each bucket whether it had to be given its expiry, and what the script did.
fn read_reply_of_bulk(said: &[redis::Value], buckets: &[u32]) -> Reply {
    let Some((script, given)) = said.split_last() else { return Reply::Unknown };
    let mut reply = read_reply(script);
    if let Reply::Written(lost) = &mut reply {
        let is_lost = |given: &redis::Value| redis::from_redis_value_ref(given) != Ok(false);
        lost.extend(buckets.iter().zip(given).filter(|(_, given)| is_lost(given)).map(|(bucket, _)| *bucket));
    }
    reply
}

/// What the script returned.
fn read_reply(said: &redis::Value) -> Reply {
    if let Ok((1, without_id)) = redis::from_redis_value_ref::<(i64, Vec<u32>)>(said) {
        return Reply::Written(without_id);
    }
    let found: Option<(i64, Option<String>, Option<String>)> = redis::from_redis_value_ref(said).ok();
    Reply::Found(found.and_then(|(_, watermark, push_id)| {
        Some(Standing { watermark: watermark?.parse().ok()?, push_id: push_id?.parse().ok()? })
    }))
}
