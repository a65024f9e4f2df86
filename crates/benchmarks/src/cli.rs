//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use infrastructure_http::time::to_rfc3339;
use local_stack::BuildProfile;
use service_runtime::Clock;

use crate::ground::Ground;
use crate::plan::Plan;
use crate::report::{Findings, Report};
use crate::{bare_route, front, line, pipeline, screen, showing};

const FILE_NAME: &str = "bench-quick.json";
const EXIT_CODES: &str =
    "Exit codes: 0 measured, 1 not measured, 2 arguments, 5 a ratio is below the wanted one (--strict)";

/// A phase of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Phase {
    /// Claims answered 202, as a share of a bare route's requests.
    Accept,
    /// Sold-out refusals, with Redis and without, as a share of the same.
    Refuse,
    /// The stock-consumer's decisions, as a share of a bare loop's.
    Decide,
    /// The db-writer's rows, as a share of COPY's.
    Store,
    /// Seconds from the first of many claims to the last row.
    Through,
    /// Milliseconds from a press to the answer in a stream of events.
    Tell,
}

/// Measures how fast the services are, as shares of what the same run reaches without them.
#[derive(Parser)]
#[command(name = "bench-quick", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    /// Only these phases, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PHASES")]
    only: Vec<Phase>,
    /// Fail where a ratio is below the wanted one.
    #[arg(long)]
    strict: bool,
    /// Tiny counts: shows that everything is measured; the figures mean nothing.
    #[arg(long)]
    smoke: bool,
    /// The report as JSON [default: bench-quick.json in cargo's target folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Serves the bare route; the benchmark starts this itself.
    #[command(hide = true)]
    BareRoute,
}

/// Reads the arguments, measures, and shows what was found.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.part {
        Some(Part::BareRoute) => bare_route::serve().map(|()| true),
        None => showing::show(measure(&arguments), arguments.out.as_deref(), FILE_NAME, arguments.strict),
    };
    showing::exit("bench-quick", ended)
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let (clock, started) = (Clock::system(), Instant::now());
    let started_at = to_rfc3339(clock.now());
    let plan = if arguments.smoke { Plan::smoke() } else { Plan::full() };
    let chosen = |phase| arguments.only.is_empty() || arguments.only.contains(&phase);
    let [accept, refuse, decide, store, through, tell] =
        [Phase::Accept, Phase::Refuse, Phase::Decide, Phase::Store, Phase::Through, Phase::Tell].map(chosen);
    let mut findings = Findings::default();
    if BuildProfile::of_caller() != BuildProfile::Release {
        findings.note("not compiled with optimisation: the figures mean nothing");
    }
    if arguments.smoke {
        findings.note("tiny counts: the figures mean nothing");
    }

    screen::tell("starting Kafka, PostgreSQL and Redis");
    let ground = Ground::start()?;
    let mut accept_rate = None;
    if accept || refuse {
        let wishes = front::Wishes { accept, refuse };
        accept_rate = front::measure(&ground, &plan, wishes, &mut findings).await?;
    }
    if decide || store {
        let wishes = line::Wishes { decide, store };
        line::measure(&ground, &plan, wishes, &mut findings).await?;
    }
    if through || tell {
        let wishes = pipeline::Wishes { through, tell };
        pipeline::measure(&ground, &plan, wishes, accept_rate, &mut findings).await?;
    }
    findings.into_report(&plan, started_at, started.elapsed())
}
