//! Rows of retired coupons: what db-writer writes beside them, and what a checkpoint of a live coupon takes.

use std::time::Instant;

use anyhow::{Context, Result};
use e2e_tests::World;
use local_stack::Role;

use crate::figure::{Figure, per_second};
use crate::ground::{self, Ground};
use crate::report::Findings;
use crate::scale::Sizes;
use crate::scale::usage::load_seconds;
use crate::scale::work::{Crowd, PATIENCE};
use crate::screen;
use crate::tables::Tables;

/// Each is measured so often.
const TIMES: u32 = 3;
const WINNERS: u32 = 1_000;
const ROWS_WANTED: f64 = 0.9;
/// Within 20 % of the time without them.
const LOADS_WANTED: f64 = 1.0 / 1.2;
const AGAINST_EMPTY: &str = "the same into tables that hold nothing but such lines";
const AGAINST_NONE: &str = "the same before those rows came";

pub(crate) async fn measure(ground: &Ground, sizes: &Sizes, findings: &mut Findings) -> Result<()> {
    let claims = sizes.claims_of_live;
    screen::tell(&format!("b: lines of {claims} claims into empty tables"));
    let mut alone = Line::prepare(ground)?;
    let rows_alone = alone.rates(claims, TIMES).await?;
    alone.end()?;

    let mut beside = Line::prepare(ground)?;
    beside.rates(claims, 1).await?;
    let loads_alone = beside.loads().await?;
    screen::tell(&format!("b: {} rows of retired coupons", sizes.rows_retired));
    beside.retire_copies(claims, sizes.rows_retired).await?;
    let loads = beside.loads().await?;
    screen::tell(&format!("b: lines of {claims} claims beside them"));
    let rows = beside.rates(claims, TIMES).await?;
    Tables::open(&beside.world).await?.drop_copies().await?;
    beside.end()?;

    let retired = sizes.rows_retired;
    let figure = Figure::alone(format!("stored_beside_{retired}"), "rows/s", rows);
    findings.add(figure.against(AGAINST_EMPTY, &rows_alone, ROWS_WANTED));
    // Held against the other as rates, so that less is worse here, too.
    let per_second = |loads: Vec<f64>| loads.into_iter().map(|seconds| 1.0 / seconds).collect::<Vec<_>>();
    let figure = Figure::alone(format!("checkpoints_beside_{retired}"), "loads/s", per_second(loads));
    findings.add(figure.against(AGAINST_NONE, &per_second(loads_alone), LOADS_WANTED));
    Ok(())
}

/// One partition whose live coupons get as many claims each.
struct Line {
    world: World,
    /// Claims and commands so far.
    records: u32,
}

impl Line {
    fn prepare(ground: &Ground) -> Result<Self> {
        let mut world = ground.world_of(1)?;
        ground::start(&mut world, &[Role::StockConsumer, Role::DbWriter])?;
        Ok(Self { world, records: 0 })
    }

    /// How fast db-writer writes what was decided of a new coupon, so often.
    async fn rates(&mut self, claims: u32, times: u32) -> Result<Vec<f64>> {
        let (tables, writer) = (Tables::open(&self.world).await?, Role::DbWriter.name());
        let mut rates = Vec::new();
        for _ in 0..times {
            self.world.stop(writer)?;
            let before = i64::from(self.records);
            let crowd = Crowd::of(&self.world, 1)?;
            let coupons = crowd.publish(1, WINNERS)?;
            crowd.claim(&coupons, 0..claims)?;
            self.records += 1 + claims;
            crowd.wait_for_outcomes(self.records).await?;
            tables.settle().await?;
            self.world.add_with(Role::DbWriter, writer, &[])?;
            // From the first batch on: what a start takes is another matter.
            let first = tables.wait_for_more(before, PATIENCE).await?;
            let began = Instant::now();
            let end = i64::from(self.records);
            tables.wait_for(end, PATIENCE).await?;
            rates.push(per_second(u64::try_from(end - first)?, began.elapsed()));
            self.world.wait_ready(writer)?;
        }
        Ok(rates)
    }

    /// How long a stock-consumer that starts reads its checkpoint, in s.
    async fn loads(&mut self) -> Result<Vec<f64>> {
        let mut loads = Vec::new();
        for _ in 0..TIMES {
            self.world.stop(Role::StockConsumer.name())?;
            ground::start(&mut self.world, &[Role::StockConsumer])?;
            loads.push(load_seconds(&self.world).await?);
        }
        Ok(loads)
    }

    /// Copies the one coupon and its claims until there are so many rows of claims, all of them retired and of a partition that nobody reads.
    async fn retire_copies(&self, claims: u32, rows: u32) -> Result<()> {
        let tables = Tables::open(&self.world).await?;
        tables.retire_copies(rows / claims).await?;
        tables.settle().await
    }

    fn end(self) -> Result<()> {
        Crowd::of(&self.world, 1)?.audit().context("the line that was measured")?;
        Ok(self.world.deployment.namespace.drop_database(self.world.servers())?)
    }
}
