//! The arguments.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;
use crate::{audit, claim, coupon, dlq, dump, migrate, redemptions, smoke, topics, wallet};

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
    /// Try the whole pipeline with a coupon of its own.
    Smoke(smoke::Smoke),
    /// Fold the log again and compare everything with it: one line for each promise.
    Audit(audit::Audit),
    /// Look into the dead-letter queue; redrive or discard what lies there.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Run as the service that audits in a loop: ledger, lag and broken promises as metrics. Settings are a service's: --config and
    /// FIRSTCOME__ variables.
    Reconcile(service_runtime::boot::Arguments),
    /// Write topics and tables down, for the oracle.
    Dump(dump::Dump),
    /// Do nothing until ended: in a pod that operators carry out the other commands in.
    Idle,
}

/// What is to be done.
pub(crate) enum Asked {
    /// A command, to be carried out.
    Command(Box<Arguments>),
    /// The service, with its arguments.
    Reconciler(service_runtime::boot::Arguments),
}

/// What the service reads of the command line.
const SERVICE_FLAGS: [&str; 4] = ["config", "check_config", "print_config", "version"];

/// Reads the arguments; complains and ends the process where they cannot be read.
///
/// # Errors
/// The service was given a flag that only commands read: it would have no effect.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Asked, Failure> {
    let mut command = <Arguments as CommandFactory>::command();
    let matches = command.try_get_matches_from_mut(words).unwrap_or_else(|error| error.exit());
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let Command::Reconcile(service) = arguments.command else {
        return Ok(Asked::Command(Box::new(arguments)));
    };
    if let Some((name, found)) = matches.subcommand() {
        let flags = command.find_subcommand(name).into_iter().flat_map(clap::Command::get_arguments);
        for id in flags.map(|flag| flag.get_id().as_str()).filter(|id| !SERVICE_FLAGS.contains(id)) {
            if found.try_contains_id(id).is_ok() && found.value_source(id) == Some(ValueSource::CommandLine) {
                return Err(Failure::Usage(format!(
                    "--{}: reconcile does not read it; it is a service, set it by --config or FIRSTCOME__ variables",
                    id.replace('_', "-")
                )));
            }
        }
    }
    Ok(Asked::Reconciler(service))
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
        Command::Smoke(smoke) => smoke::run(&smoke, &settings, output).await,
        Command::Audit(audit) => audit::run(&audit, &settings, output).await,
        Command::Dlq(dlq) => dlq::run(&dlq, &settings, output).await,
        Command::Reconcile(_) => unreachable!("a service has a main of its own"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<Asked, Failure> {
        parse(["couponctl"].iter().chain(words).map(OsString::from))
    }

    #[test]
    fn the_service_refuses_flags_that_it_does_not_read() {
        assert!(matches!(asked(&["reconcile", "--config", "x.toml"]), Ok(Asked::Reconciler(_))));
        assert!(matches!(
            asked(&["--config", "x.toml", "reconcile", "healthcheck"]),
            Ok(Asked::Reconciler(_))
        ));
        assert!(matches!(asked(&["--database-url", "x", "migrate"]), Ok(Asked::Command(_))));
        for words in [["reconcile", "--database-url", "x"], ["--output", "json", "reconcile"]] {
            let refused = asked(&words).err().unwrap();
            assert_eq!(refused.code(), 2);
            assert!(refused.to_string().contains("FIRSTCOME__"), "{refused}");
        }
    }
}
