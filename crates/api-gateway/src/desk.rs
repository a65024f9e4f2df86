//! What request handlers share, and what any of them may ask of it: handlers know the desk, and the desk knows no handler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use coupon_domain::wire::PublishedState;
use coupon_domain::{ClaimId, CouponId, CouponState, Key, KeyId, KeyRing, UserId};
use infrastructure_http::trace::{self, Arrived};
use infrastructure_http::{
    AdminVerifier, Caller, Code, Operator, Problem, Scope, UserRates, UserVerifier, claim_view,
};
use infrastructure_kafka::{Connection, TopicLayout};
use infrastructure_postgres::Pool;
use infrastructure_redis::{Asks, Prefilter, RedisError, ViewReader};
use service_runtime::trace::{NewSpan, Span, SpanKind};
use service_runtime::{Context, Limit, Place};

use crate::append::Appender;
use crate::beats::Beats;
use crate::broker_clock::{BrokerClocks, BrokerNow};
use crate::config::Config;
use crate::line_watch::LineWatch;
use crate::metrics::ServiceMetrics;
use crate::published::Published;
use crate::state_map::StateMap;
use crate::user_slots::UserSlots;

/// The name in metrics and logs.
pub const NAME: &str = "api-gateway";

/// What request handlers share.
pub(crate) struct Desk {
    pub(crate) context: Context<Config>,
    pub(crate) verifier: UserVerifier,
    pub(crate) admin_verifier: AdminVerifier,
    pub(crate) keys: KeyRing,
    pub(crate) active_key: KeyId,
    pub(crate) states: Arc<StateMap>,
    pub(crate) published: Arc<Published>,
    pub(crate) view: ViewReader,
    pub(crate) pool: Pool,
    pub(crate) appender: Appender,
    pub(crate) broker_clocks: Arc<BrokerClocks>,
    pub(crate) lines: Arc<LineWatch>,
    pub(crate) rates: UserRates,
    pub(crate) slots: UserSlots,
    pub(crate) beats: Beats,
    pub(crate) persisted_topic: String,
    pub(crate) in_flight: Limit,
    /// Looks into the log on behalf of operators.
    pub(crate) log_reads: Limit,
    pub(crate) kafka: Connection,
    pub(crate) layout: TopicLayout,
    pub(crate) wallet_requests: Limit,
    pub(crate) metrics: Arc<ServiceMetrics>,
}

impl Desk {
    /// What the clock that judges this coupon's claims may show now.
    pub(crate) fn broker_now(&self, coupon_id: CouponId) -> BrokerNow {
        self.broker_clocks.now(coupon_id.partition(), Instant::now(), self.context.clock.now())
    }

    /// True where nobody has decided this line for `claims.line_late_ms`.
    pub(crate) fn line_is_late(&self, partition: usize) -> bool {
        let late_after = Duration::from_millis(self.context.config.claims.line_late_ms.into());
        self.lines.is_late(partition, late_after)
    }

    /// Where a claim's answer is found.
    pub(crate) fn location(&self, claim_id: &ClaimId) -> String {
        claim_view::location(self.notifier_url(), claim_id)
    }

    /// Put before the links to a claim.
    pub(crate) fn notifier_url(&self) -> &str {
        &self.context.config.claims.notifier_url
    }

    /// Begins the span of a request; none where its sender wants none.
    pub(crate) fn begin_span(&self, request: &HttpRequest, name: &'static str, arrived: &Arrived) -> Span {
        let parent = match arrived {
            Arrived::Nothing => None,
            Arrived::Unrecorded(_) => return Span::none(),
            Arrived::Recorded(carried) => Some(&**carried),
        };
        let span = self.context.tracer.begin(NewSpan { name, kind: SpanKind::Server, parent, links: &[] });
        if let Some(carried) = span.carried() {
            trace::note(request, carried.context);
        }
        span
    }

    /// A coupon that is on offer, or was.
    pub(crate) fn known_coupon(&self, coupon_id: CouponId) -> Result<Arc<PublishedState>, Problem> {
        let unknown = || Problem::new(Code::UnknownCoupon, format!("there is no coupon {coupon_id}"));
        self.look_for(coupon_id)?.ok_or_else(unknown)
    }

    /// A coupon, or none; but no answer while the gateway has not read all of them.
    pub(crate) fn look_for(&self, coupon_id: CouponId) -> Result<Option<Arc<PublishedState>>, Problem> {
        // Asked first: what is read to its end meanwhile is found.
        let is_complete = self.states.is_complete();
        let known = self.states.get(coupon_id);
        if known.is_none() && !is_complete {
            let detail = "this gateway has not read all coupons yet; nothing happened";
            return Err(Problem::new(Code::Unavailable, detail));
        }
        Ok(known)
    }

    /// The coupon's own key.
    pub(crate) fn key_of(&self, state: &CouponState) -> Result<&Key, Problem> {
        let key_id = state.definition.key_id();
        self.keys.get(key_id).ok_or_else(|| {
            tracing::error!(runbook = "CouponKeysDiffer", coupon.id = %state.coupon_id, "key {key_id} is not configured here");
            Problem::new(Code::Unavailable, "this gateway does not hold the coupon's key")
        })
    }

    /// What the view knows of these claims. Fails open: nothing waits for Redis longer than its time-out.
    pub(crate) async fn prefilter(&self, claims: &[ClaimId], asks: Asks) -> Result<Prefilter, RedisError> {
        let started = Instant::now();
        let view = self.view.prefilter(claims, asks).await;
        let histogram = match &view {
            Ok(view) if view.answers.is_empty() => &self.metrics.prefilter_miss,
            Ok(_) => &self.metrics.prefilter_hit,
            Err(RedisError::Timeout(_)) => &self.metrics.prefilter_timeout,
            Err(RedisError::Unavailable(_)) => &self.metrics.prefilter_error,
        };
        histogram.observe(started.elapsed().as_secs_f64());
        view
    }

    /// The caller of a request that PostgreSQL answers, and its place among those that may be under way.
    pub(crate) async fn owner(&self, request: &HttpRequest) -> Result<(UserId, Place), Problem> {
        let place = self.wallet_requests.take().ok_or_else(|| {
            Problem::new(Code::Overloaded, "as many requests for wallets as this process takes are under way")
        })?;
        Ok((self.caller(request).await?.user_id, place))
    }

    /// The caller, if they have not asked too often.
    pub(crate) async fn caller(&self, request: &HttpRequest) -> Result<Caller, Problem> {
        let caller = self.verifier.caller(request).await?;
        self.rates.admit(&caller.user_id)?;
        Ok(caller)
    }

    /// The operator who asks, if they may do this.
    pub(crate) async fn operator(&self, request: &HttpRequest, scope: Scope) -> Result<Operator, Problem> {
        let operator = self.admin_verifier.operator(request).await?;
        operator.demand(scope)?;
        Ok(operator)
    }
}
