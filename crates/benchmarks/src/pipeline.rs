//! The whole pipeline: from the first press to the last row, and from a press to the answer that a listener is sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World};
use loadgen::{Arrivals, Crowd, Progress, Target};
use local_stack::Role;

use crate::figure::Figure;
use crate::front;
use crate::ground::{self, GENEROUS, Ground};
use crate::plan::Plan;
use crate::presses::{Presses, Until};
use crate::report::Findings;
use crate::screen;
use crate::tables::Tables;

/// Listeners arrive at this share of the rate at which claims are accepted. Each of them costs two new connections, and client, services and servers share the
/// cores: at 0.1 two cores are all but saturated, and what is measured then is the queue before the machine (p50 between 18 ms and 1.5 s for the same code).
const LISTENERS_SHARE: f64 = 0.05;
/// That rate where this run did not measure it.
const ACCEPT_RATE_UNMEASURED: f64 = 10_000.0;

/// What is measured here.
#[derive(Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) through: bool,
    pub(crate) tell: bool,
}

/// Measures with all four services running.
pub(crate) async fn measure(
    ground: &Ground,
    plan: &Plan,
    wishes: Wishes,
    accept_rate: Option<f64>,
    findings: &mut Findings,
) -> Result<()> {
    let mut world = ground.world()?;
    ground::start(&mut world, &Role::ALL)?;
    let names = Role::ALL.map(Role::name);
    if wishes.through {
        screen::tell(&format!("through: {} claims", plan.claims_through));
        through(&world, plan, findings).await?;
        findings.resident(ground::resident(&world, "through", &names)?);
    }
    if wishes.tell {
        let rate = LISTENERS_SHARE * accept_rate.unwrap_or(ACCEPT_RATE_UNMEASURED);
        screen::tell(&format!("tell: {rate:.0} listeners/s for {} s", plan.listening_s));
        tell(&world, plan, rate, findings).await?;
        findings.resident(ground::resident(&world, "tell", &names)?);
    }
    Ok(())
}

/// Everybody presses once, everybody wins, and every claim and every issued coupon is in PostgreSQL in the end.
async fn through(world: &World, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let claims = plan.claims_through;
    let coupon_id = world.publish(&CouponSpec::of(claims)).await?;
    let tables = Tables::open(world).await?;
    let first = world.bounds(infrastructure_kafka::Topic::Claims, 0)?.end;
    let presses = Presses {
        address: ground::address(world, Role::ApiGateway.name())?,
        coupon_id,
        connections: plan.connections,
        tokens: front::tokens(&world.user_mint(), "through", claims)?,
        until: Until::AllHavePressed,
    };
    let started = Instant::now();
    let pressed = presses.run().await?;
    pressed.rate_of(202)?;
    tables.wait_for(first + i64::from(claims), GENEROUS).await?;
    let stored = started.elapsed();
    let rows = tables.rows().await?;
    ensure!(rows == 2 * u64::from(claims), "there are {rows} rows of {claims} winners");
    findings.add(Figure::alone("through_accepted", "s", vec![pressed.time.as_secs_f64()]));
    findings.add(Figure::alone("through_stored", "s", vec![stored.as_secs_f64()]));
    Ok(())
}

/// Users arrive one by one, whatever becomes of those before them, and follow their claim by events.
async fn tell(world: &World, plan: &Plan, rate: f64, findings: &mut Findings) -> Result<()> {
    let users = count(rate * f64::from(plan.listening_s));
    let coupon_id = world.publish(&CouponSpec::of(users)).await?;
    let credentials = &world.deployment.credentials;
    let url = |role: Role| Ok::<_, anyhow::Error>(format!("http://{}", ground::address(world, role.name())?));
    let target = Target {
        api_urls: vec![url(Role::ApiGateway)?],
        notifier_urls: vec![url(Role::Notifier)?],
        jwt_secret: credentials.jwt_secret.clone(),
        jwt_issuer: credentials.jwt_issuer.clone(),
        jwt_audience: credentials.jwt_audience.clone(),
    };
    let crowd = Crowd {
        users,
        within: Duration::from_secs(plan.listening_s.into()),
        arrivals: Arrivals::Uniform,
        duplicates: 0.0,
        retries: 0.0,
        sse_share: 1.0,
        expect_sold_out: true,
        ..Crowd::new(target, coupon_id.parse()?)
    };
    let report = crowd.run(&Arc::<Progress>::default()).await?;
    ensure!(report.violations.is_empty(), "a promise is broken: {report}");
    for note in &report.notes {
        findings.note(note);
    }
    let told = report.latencies.told_by_stream;
    ensure!(told.count > 0, "nobody was told by events: {report}");
    findings.add(Figure::alone("told_listeners", "users/s", vec![report.arrivals_per_s]));
    for (name, ms) in [("told_p50", told.p50_ms), ("told_p99", told.p99_ms)] {
        findings.add(Figure::alone(name, "ms", vec![ms]));
    }
    Ok(())
}

#[expect(clippy::as_conversions, reason = "from a float there is no other way; it saturates")]
fn count(number: f64) -> u32 {
    number.ceil().max(1.0) as u32
}
