//! reconciler: audits from outside in a loop, and shows the ledger, lag and broken promises as metrics. It only reads, and nothing waits for it.
//!
//! Two loops: one looks at ends and watermarks every [`interval_s`](config::ReconcileSection) ([`lag`]); the other makes one pass of the audit after
//! another, and rests long enough that passes take no more than `busy_percent_max` of the time. A pass goes on from where every store had come in the
//! last one; every `recount_s`, and after a pass that found something or failed, it begins anew with the first record of the logs. What
//! did not answer is no violation: it is logged and counted, the figures of the last pass stay, and the next one tries again.

mod config;
mod lag;
mod metrics;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{AuditError, Begin, Cut, Findings, Installation, Pass, Spill, View};
use infrastructure_kafka::{Connection, TopicLayout};
use infrastructure_redis::ViewMaintenance;
use service_runtime::topics_watch::TopicsWatch;
use service_runtime::{Context, Ended, LoopTurn, Service, preflight};

pub use config::Config;

use lag::Lag;
use metrics::{ServiceMetrics, Span};

/// How often a loop that waits turns.
const TURN: Duration = Duration::from_secs(1);

/// The name in metrics and logs.
pub const NAME: &str = "reconciler";

/// The service.
pub struct Reconciler;

impl Service for Reconciler {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Audits from outside in a loop: ledger, lag, broken promises";

    type Config = Config;

    async fn run(context: Context<Config>) -> Result<(), Ended> {
        let config = Arc::clone(&context.config);
        let production = config.profile.is_production();
        let metrics = ServiceMetrics::new(&context.metrics);
        let connection = Connection::new(config.kafka.clone(), Self::NAME, metrics.kafka.clone());
        if !preflight::await_topics(&context, &connection, production).await? {
            return Ok(());
        }
        context.checked.met();
        let layout = config.kafka.layout(production);
        let view = ViewMaintenance::new(&config.redis).map_err(fatal)?;
        TopicsWatch::start(&context, &connection, layout.clone())?;
        start_looking(&context, &connection, &layout, &view, &metrics)?;
        let auditor = Auditor { context: context.clone(), connection, layout, view, metrics };
        context.tasks.spawn("audit", auditor.repeat());
        context.booted.met();
        context.shutdown.requested().await;
        // It only reads: there is nothing to drain.
        Ok(())
    }
}

fn fatal(error: impl std::fmt::Display) -> Ended {
    Ended::Fatal(error.to_string())
}

/// Looks at lag on a thread of its own. Ready once everything has been seen.
fn start_looking(
    context: &Context<Config>,
    connection: &Connection,
    layout: &TopicLayout,
    view: &ViewMaintenance,
    metrics: &ServiceMetrics,
) -> Result<(), Ended> {
    let sources = lag::Sources {
        connection: connection.clone(),
        layout: layout.clone(),
        postgres: context.config.postgres.clone(),
        view: view.clone(),
        runtime: tokio::runtime::Handle::current(),
        clock: context.clock.clone(),
        metrics: metrics.clone(),
    };
    let (turn, shutdown) = (context.health.watch_loop("lag"), context.shutdown.clone());
    let seen = context.health.ready_condition("sources", "not looked at yet");
    let interval = Duration::from_secs(context.config.reconcile.interval_s.into());
    let look = move || {
        let mut lag = Lag::new(&sources, &turn, &shutdown);
        let mut was_seen = false;
        while !shutdown.is_requested() {
            let silent = lag.look().map_err(fatal)?;
            if silent.is_empty() {
                was_seen = true;
                seen.met();
            } else {
                tracing::warn!("lag is not known in full: {}", silent.join("; "));
                if !was_seen {
                    seen.unmet(silent.join("; "));
                }
            }
            let next = Instant::now() + if was_seen { interval } else { TURN };
            while Instant::now() < next && !shutdown.is_requested() {
                turn.turn();
                std::thread::park_timeout(TURN.min(next.saturating_duration_since(Instant::now())));
            }
        }
        Ok(())
    };
    context.tasks.thread("lag", look).map(drop)
}

/// Makes one pass after another.
#[derive(Clone)]
struct Auditor {
    context: Context<Config>,
    connection: Connection,
    layout: TopicLayout,
    view: ViewMaintenance,
    metrics: ServiceMetrics,
}

impl Auditor {
    async fn repeat(self) {
        let turn = self.context.health.watch_loop("audit");
        let section = &self.context.config.reconcile;
        let recount = Duration::from_secs(section.recount_s.into());
        let (mut cut, mut counted) = (None, Instant::now());
        loop {
            let started = Instant::now();
            let earlier = cut.take().filter(|_| counted.elapsed() < recount);
            if earlier.is_none() {
                counted = started;
            }
            let passing = self.context.tasks.spawn("pass", self.clone().pass(earlier));
            // One that panics ends the process.
            let passed = wait(passing, &turn, Duration::from_secs(section.pass_s_max.into())).await;
            cut = passed.ok().flatten().flatten();
            let interval = Duration::from_secs(section.interval_s.into());
            let pause = pause_after(started.elapsed(), interval, section.busy_percent_max);
            wait(tokio::time::sleep(pause), &turn, Duration::MAX).await;
        }
    }

    /// A pass from here on, or from the beginning. Gives where the next one can go on: nowhere unless this one ended well.
    async fn pass(self, earlier: Option<Cut>) -> Option<Cut> {
        let (started, span) = (Instant::now(), if earlier.is_some() { Span::Rest } else { Span::Whole });
        match self.look(earlier).await {
            Ok(pass) => {
                let verdict = pass.findings.verdict();
                for (id, finding) in pass.findings.spelled() {
                    tracing::error!(
                        runbook = "CouponPromiseBroken",
                        promise = id,
                        "a promise is broken: {finding}"
                    );
                }
                let seconds = started.elapsed().as_secs_f64();
                tracing::debug!(seconds, verdict, span = span.as_str(), "a pass has ended");
                let most = usize::try_from(self.context.config.metrics.coupons_max).unwrap_or(usize::MAX);
                self.metrics.passed(&pass, span, seconds, self.context.clock.now(), most);
                verdict.is_empty().then_some(pass.cut)
            }
            Err(error) => {
                tracing::warn!("a pass could not be made: {error}");
                self.metrics.failed(span);
                None
            }
        }
    }

    async fn look(&self, earlier: Option<Cut>) -> Result<Pass, AuditError> {
        let (mut findings, spill, all) = (Findings::new(false), Spill::default(), BTreeSet::new());
        let read = match earlier {
            Some(_) => View::read_hashes(&self.view).await,
            None => View::read(&self.view, &spill, &all, &mut findings).await,
        };
        self.metrics.view_read(read.is_ok());
        // The view may be lost at any time: without it everything else is compared all the same.
        let view = match read {
            Ok(view) => Some(view),
            Err(error) => {
                tracing::warn!("a pass goes without the view: {error}");
                None
            }
        };
        let installation = Installation {
            connection: &self.connection,
            layout: &self.layout,
            postgres: &self.context.config.postgres,
            view: Some(&self.view),
            // It holds no secret: codes of coupons are compared by the command.
            keys: None,
            spill: &spill,
            only: &all,
        };
        audit::inspect(&installation, view, findings, Begin::At(earlier.unwrap_or_default())).await
    }
}

/// Waits, turning the loop every second, for `patience` at most; then on without turning, so that `/livez` tells.
async fn wait<T>(future: impl Future<Output = T>, turn: &LoopTurn, patience: Duration) -> T {
    let started = Instant::now();
    let mut future = std::pin::pin!(future);
    loop {
        if started.elapsed() <= patience {
            turn.turn();
        }
        if let Ok(output) = tokio::time::timeout(TURN, future.as_mut()).await {
            return output;
        }
    }
}

/// How long to rest after a pass, so that passes take no more than their share of the time.
fn pause_after(pass: Duration, interval: Duration, busy_percent_max: u32) -> Duration {
    let share = busy_percent_max.clamp(1, 100);
    interval.max(pass * (100 - share) / share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_grows_with_the_pass() {
        let interval = Duration::from_secs(10);
        assert_eq!(pause_after(Duration::from_millis(300), interval, 25), interval);
        assert_eq!(pause_after(Duration::from_secs(20), interval, 25), Duration::from_secs(60));
        assert_eq!(pause_after(Duration::from_secs(20), interval, 100), interval);
    }
}
