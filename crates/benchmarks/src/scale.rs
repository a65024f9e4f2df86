//! What grows: one coupon's claims, live coupons, lines. Each section measures the same work at several sizes in one run and holds the largest
//! against the smallest; see docs/benchmarks.md.

mod coupons;
mod lines;
mod one_coupon;
mod retired;
mod trickle;
mod usage;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use infrastructure_http::time::to_rfc3339;
use local_stack::BuildProfile;
use serde::Serialize;
use service_runtime::Clock;

use crate::ground::Ground;
use crate::report::{Findings, Report};
use crate::{screen, showing};

const FILE_NAME: &str = "bench-scale.json";
const EXIT_CODES: &str = "Exit codes: 0 measured, 1 not measured or a promise is broken, 2 arguments, 5 a ratio is below the wanted one (--strict)";

/// A section, by the letter that docs/benchmarks.md gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Time and CPU of claims behind many of the same coupon; Redis' memory and CPU; a restart; an audit, a reconciler.
    A,
    /// What db-writer and a checkpoint need beside the rows of retired coupons.
    B,
    /// Many live coupons with a little traffic each.
    D,
    /// Many lines.
    E,
    /// A notifier that starts beside a day's watermarks.
    F,
}

/// Measures how cost grows with claims, coupons and lines.
#[derive(Parser)]
#[command(name = "bench-scale", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    /// Only these sections, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SECTIONS")]
    only: Vec<Section>,
    /// Fail where a ratio is below the wanted one.
    #[arg(long)]
    strict: bool,
    /// Small sizes: shows that everything is measured and every promise kept; the figures mean little.
    #[arg(long)]
    short: bool,
    /// The report as JSON [default: bench-scale.json in cargo's target folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
struct Sizes {
    /// Claims of one coupon, rising: the work of the next ones is measured behind so many.
    claims_of_one: Vec<u32>,
    /// Claims that are measured behind each of them.
    claims_behind: u32,
    /// Claims of a live coupon beside rows of retired ones.
    claims_of_live: u32,
    /// Those rows of claims.
    rows_retired: u32,
    /// Live coupons.
    coupons: u32,
    /// Claims that are spread over them, and that one coupon gets for comparison.
    claims_spread: u32,
    /// Lines, few and many.
    lines: [u32; 2],
    /// Claims that are spread over the lines.
    claims_in_lines: u32,
    /// Records of `coupon.persisted`.
    watermarks: u32,
}

impl Sizes {
    fn full() -> Self {
        Self {
            claims_of_one: vec![10_000, 100_000, 1_000_000, 10_000_000],
            claims_behind: 100_000,
            claims_of_live: 100_000,
            rows_retired: 20_000_000,
            coupons: 10_000,
            claims_spread: 500_000,
            lines: [3, 100],
            claims_in_lines: 600_000,
            watermarks: 345_600,
        }
    }

    fn short() -> Self {
        Self {
            claims_of_one: vec![500, 5_000],
            claims_behind: 500,
            claims_of_live: 1_000,
            rows_retired: 20_000,
            coupons: 50,
            claims_spread: 1_000,
            lines: [3, 24],
            claims_in_lines: 2_400,
            watermarks: 500,
        }
    }
}

/// Reads the arguments, measures, and shows what was found.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = showing::show(measure(&arguments), arguments.out.as_deref(), FILE_NAME, arguments.strict);
    showing::exit("bench-scale", ended)
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let (clock, started) = (Clock::system(), Instant::now());
    let started_at = to_rfc3339(clock.now());
    let sizes = if arguments.short { Sizes::short() } else { Sizes::full() };
    let chosen = |section| arguments.only.is_empty() || arguments.only.contains(&section);
    let mut findings = Findings::default();
    if BuildProfile::of_caller() != BuildProfile::Release {
        findings.note("not compiled with optimisation: the figures mean nothing");
    }
    if arguments.short {
        findings.note("small sizes: the figures mean little");
    }
    screen::tell("starting Kafka, PostgreSQL and Redis");
    let ground = Ground::start()?;
    if chosen(Section::A) {
        one_coupon::measure(&ground, &sizes, &mut findings).await?;
    }
    if chosen(Section::B) {
        retired::measure(&ground, &sizes, &mut findings).await?;
    }
    if chosen(Section::D) {
        coupons::measure(&ground, &sizes, &mut findings).await?;
    }
    if chosen(Section::E) {
        lines::measure(&ground, &sizes, &mut findings).await?;
    }
    if chosen(Section::F) {
        trickle::measure(&ground, &sizes, &mut findings).await?;
    }
    findings.into_report(&sizes, started_at, started.elapsed())
}
