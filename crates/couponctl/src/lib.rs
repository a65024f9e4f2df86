//! couponctl: the operator's command line.
//!
//! `migrate` and `topics` prepare an installation, `coupon` speaks to the admin API, `claim` plays a user and follows their claim to
//! the end, `wallet` and `redeem` are what they do with what they won, `redemptions` opens redeeming after a restore, `smoke` tries
//! the whole pipeline, `audit` folds the log again and compares everything with it, `dlq` looks after what could not be read, and `dump` writes
//! everything down for the oracle beside this crate.
//!
//! Exit codes: 0 done · 1 failed · 2 arguments or configuration · 3 topics or schema refused · 5 `audit` or `smoke` found a broken promise · 6 the
//! log said no (a refused command, a claim that won nothing).

pub mod api;
mod audit;
mod claim;
mod cli;
mod coupon;
mod dlq;
mod dump;
mod exit;
mod migrate;
mod output;
mod redemptions;
mod retention;
mod settings;
mod smoke;
mod topics;
mod wallet;

use std::process::ExitCode;

use clap::Parser as _;

pub use exit::Failure;

/// Reads the arguments, does what they say, and complains on standard error.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&Failure::Failed(format!("no runtime: {error}"))),
    };
    match runtime.block_on(cli::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(&failure),
    }
}

#[expect(clippy::print_stderr, reason = "a command line complains on standard error")]
fn complain(failure: &Failure) -> ExitCode {
    eprintln!("couponctl: {failure}");
    ExitCode::from(failure.code())
}
