//! A long line of claims for one coupon: how fast the stock-consumer decides it, and how fast db-writer writes what was decided.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coupon_domain::CouponId;
use e2e_tests::{CouponSpec, World, eventually};
use infrastructure_kafka::{Reader, Topic};
use local_stack::Role;

use crate::bare_loop;
use crate::figure::{Figure, per_second};
use crate::fill::fill;
use crate::ground::{self, GENEROUS, Ground};
use crate::plan::Plan;
use crate::report::Findings;
use crate::screen;
use crate::tables::Tables;

/// The stock-consumer's own default.
pub(crate) const BATCH_RECORDS: usize = 5_000;
/// Before it stands the command that published the coupon.
pub(crate) const FIRST_CLAIM: i64 = 1;
const WANTED_DECISIONS: f64 = 0.6;
const WANTED_ROWS: f64 = 0.6;
const AGAINST_LOOP: &str = "a bare loop: consume, decode, encode, produce, await";
const AGAINST_COPY: &str = "COPY of the same rows into the same empty tables";

/// What is measured here.
#[derive(Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) decide: bool,
    pub(crate) store: bool,
}

/// What lines of one quantity came to.
#[derive(Default)]
struct Rates {
    decisions: Vec<f64>,
    view_behind: Vec<f64>,
    bare_loop: Vec<f64>,
    rows: Vec<f64>,
    copied: Vec<f64>,
}

/// Measures lines for each quantity, each several times, always next to its reference.
pub(crate) async fn measure(
    ground: &Ground,
    plan: &Plan,
    wishes: Wishes,
    findings: &mut Findings,
) -> Result<()> {
    for quantity in plan.quantities.iter().copied() {
        let mut rates = Rates::default();
        for number in 1..=plan.lines {
            let count = plan.lines;
            screen::tell(&format!("decide, store: line {number} of {count} for {quantity} coupons"));
            let is_last = number == count;
            let mut line = Line::prepare(ground, quantity, plan.claims_in_line).await?;
            if wishes.decide {
                let bare = bare_loop::run(&line.world, line.coupon_id, line.claims, quantity).await?;
                rates.bare_loop.push(bare);
            }
            line.decide(&mut rates, is_last.then_some(&mut *findings)).await?;
            if wishes.store {
                line.store(&mut rates, is_last.then_some(&mut *findings)).await?;
            }
            line.forget()?;
        }
        if wishes.decide {
            let decisions = Figure::alone(format!("decided_of_{quantity}"), "decisions/s", rates.decisions);
            findings.add(decisions.against(AGAINST_LOOP, &rates.bare_loop, WANTED_DECISIONS));
            findings.add(Figure::alone(format!("view_behind_of_{quantity}"), "s", rates.view_behind));
        }
        if wishes.store {
            let rows = Figure::alone(format!("stored_of_{quantity}"), "rows/s", rates.rows);
            findings.add(rows.against(AGAINST_COPY, &rates.copied, WANTED_ROWS));
        }
    }
    Ok(())
}

struct Line {
    world: World,
    coupon_id: CouponId,
    quantity: u32,
    claims: u32,
}

impl Line {
    /// A published coupon and the claims for it. No service runs.
    async fn prepare(ground: &Ground, quantity: u32, claims: u32) -> Result<Self> {
        let mut world = ground.world()?;
        ground::start(&mut world, &[Role::StockConsumer, Role::Notifier, Role::ApiGateway])?;
        let coupon_id = world.publish(&CouponSpec::of(quantity)).await?;
        for role in [Role::ApiGateway, Role::Notifier, Role::StockConsumer] {
            world.stop(role.name())?;
        }
        let coupon_id = coupon_id.parse()?;
        fill(&world, coupon_id, claims)?;
        Ok(Self { world, coupon_id, quantity, claims })
    }

    /// The claims offset behind the line.
    fn end(&self) -> i64 {
        FIRST_CLAIM + i64::from(self.claims)
    }

    /// Lets the stock-consumer at the line, with its view, and nobody else.
    async fn decide(&mut self, rates: &mut Rates, findings: Option<&mut Findings>) -> Result<()> {
        ground::start(&mut self.world, &[Role::StockConsumer])?;
        let outcomes =
            Reader::new(self.world.kafka(), &self.world.layout().name(Topic::Outcomes), "benchmark")?;
        let deadline = Instant::now() + GENEROUS;
        while outcomes.bounds(self.coupon_id.partition().number())?.end < self.end() {
            ensure!(Instant::now() < deadline, "the line is not decided after {GENEROUS:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let decided = Instant::now();
        self.wait_for_view().await?;
        rates.view_behind.push(decided.elapsed().as_secs_f64());
        let name = Role::StockConsumer.name();
        if let Some(findings) = findings {
            let phase = format!("decide {}", self.quantity);
            findings.resident(ground::resident(&self.world, &phase, &[name])?);
        }
        self.world.stop(name)?;
        rates.decisions.push(decided_per_second(&outcomes, FIRST_CLAIM, self.claims)?);
        Ok(())
    }

    /// Waits until the view reflects the whole line.
    async fn wait_for_view(&self) -> Result<()> {
        let name = Role::StockConsumer.name();
        let series = format!(
            r#"coupon_watermark_offset{{partition="0",service="{name}",store="redis"}} {}"#,
            self.end()
        );
        eventually("the view reflects the whole line", async || {
            let metrics = self.world.metrics(name).await?;
            Ok(metrics.lines().any(|line| line == series).then_some(()))
        })
        .await
    }

    /// Lets db-writer write what was decided, and then has the same rows copied.
    async fn store(&mut self, rates: &mut Rates, findings: Option<&mut Findings>) -> Result<()> {
        let tables = Tables::open(&self.world).await?;
        tables.settle().await?;
        let name = Role::DbWriter.name();
        self.world.add_with(Role::DbWriter, name, &[])?;
        // Its row is made right before it reads.
        tables.wait_for_writer(GENEROUS).await?;
        let started = Instant::now();
        tables.wait_for(self.end(), GENEROUS).await?;
        let took = started.elapsed();
        if let Some(findings) = findings {
            let phase = format!("store {}", self.quantity);
            findings.resident(ground::resident(&self.world, &phase, &[name])?);
        }
        self.world.wait_ready(name)?;
        self.world.stop(name)?;
        let rows = tables.rows().await?;
        let expected = u64::from(self.claims) + u64::from(self.claims.min(self.quantity));
        ensure!(rows == expected, "there are {rows} rows, not {expected}");
        rates.rows.push(per_second(rows, took));
        rates.copied.push(per_second(rows, tables.copy_again().await?));
        Ok(())
    }

    /// Gives the disk back.
    fn forget(self) -> Result<()> {
        Ok(self.world.deployment.namespace.drop_database(self.world.servers())?)
    }
}

/// How fast outcomes came, by their own append times: from the first one at `first` on, so many.
pub(crate) fn decided_per_second(outcomes: &Reader, first: i64, count: u32) -> Result<f64> {
    let began = append_time_ms(outcomes, first)?;
    let ended = append_time_ms(outcomes, first + i64::from(count) - 1)?;
    let took = Duration::from_millis(u64::try_from(ended - began)?);
    Ok(per_second(count.into(), took))
}

fn append_time_ms(reader: &Reader, offset: i64) -> Result<i64> {
    reader.assign(&[(0, offset)])?;
    let (mut found, deadline) = (None, Instant::now() + GENEROUS);
    while found.is_none() && Instant::now() < deadline {
        reader.drain(1, Duration::from_millis(100), |record| {
            found = record.append_time_ms().filter(|_| record.offset() == offset);
            ControlFlow::Break(())
        })?;
    }
    found.with_context(|| format!("there is no outcome at {offset}"))
}
