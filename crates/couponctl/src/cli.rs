//! The arguments.

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;
use crate::{audit, claim, coupon, dlq, dump, migrate, redemptions, retention, smoke, topics, wallet};

/// The operator's command line of Firstcome.
#[derive(Parser)]
#[command(name = "couponctl", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Tables for people, JSON for scripts.
    #[arg(long, short, value_enum, default_value = "table", global = true)]
    output: Output,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 arguments or configuration, 3 topics or schema refused, \
    5 audit or smoke found a broken promise, 6 the log said no (a refused command, a claim that won nothing)";

#[derive(Subcommand)]
enum Command {
    /// Bring the database's schema up to this release.
    Migrate,
    /// Create, grow and check the topics.
    #[command(subcommand)]
    Topics(topics::Topics),
    /// Create coupons, publish and change them.
    #[command(subcommand)]
    Coupon(coupon::Coupon),
    /// Make a token of a dev installation.
    Token(claim::Token),
    /// Press the button as a user, and follow the claim to its end.
    Claim(claim::Claim),
    /// Show what a user holds.
    Wallet(wallet::Wallet),
    /// Use a coupon that a user holds.
    Redeem(wallet::Redeem),
    /// Look at redeeming, and open it after PostgreSQL was put back in time.
    #[command(subcommand)]
    Redemptions(redemptions::Redemptions),
    /// Delete what is over, each after its time.
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Try the whole pipeline with a coupon of its own.
    Smoke(smoke::Smoke),
    /// Fold the log again and compare everything with it: one line for each promise.
    Audit(audit::Audit),
    /// Look into the dead-letter queue; redrive or discard what lies there.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Write topics and tables down, for the oracle.
    Dump(dump::Dump),
    /// Do nothing until ended: in a pod that operators carry out the other commands in.
    Idle,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { settings, output, command } = arguments;
    match command {
        Command::Migrate => migrate::run(&settings, output).await,
        Command::Topics(topics) => topics::run(&topics, &settings, output).await,
        Command::Coupon(coupon) => coupon::run(coupon, &settings, output).await,
        Command::Token(token) => claim::token(&token, &settings),
        Command::Claim(claim) => claim::run(&claim, &settings, output).await,
        Command::Wallet(wallet) => wallet::list(&wallet, &settings, output).await,
        Command::Redeem(redeem) => wallet::redeem(&redeem, &settings, output).await,
        Command::Redemptions(redemptions) => redemptions::run(&redemptions, &settings, output).await,
        Command::Retention(retention) => retention::run(&retention, &settings, output).await,
        Command::Smoke(smoke) => smoke::run(&smoke, &settings, output).await,
        Command::Audit(audit) => audit::run(&audit, &settings, output).await,
        Command::Dlq(dlq) => dlq::run(&dlq, &settings, output).await,
        Command::Dump(dump) => dump::run(&dump, &settings, output).await,
        Command::Idle => idle().await,
    }
}

/// As the first process of a container it would not be ended by a signal that it does not handle.
async fn idle() -> Result<(), Failure> {
    let mut asked_to_end = signal(SignalKind::terminate()).map_err(failed("handling SIGTERM"))?;
    tokio::select! {
        _ = asked_to_end.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(failed("handling SIGINT")),
    }
}
