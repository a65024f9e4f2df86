//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use coupon_domain::CouponId;

use crate::arrivals::Arrivals;
use crate::client::Target;
use crate::crowd::{Crowd, CrowdError, random_prefix};
use crate::progress::Progress;
use crate::report::Report;
use crate::screen::{self, Watch};

const EXIT_CODES: &str =
    "Exit codes: 0 clean, 1 failed or something could not be checked, 2 arguments, 5 a promise is broken";

/// Lets a crowd claim a coupon, and checks every answer.
#[derive(Parser)]
#[command(name = "loadgen", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    /// The coupon that everybody wants.
    coupon_id: CouponId,
    /// How many users there are.
    #[arg(long, short, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    users: u32,
    /// All arrive within this time, in ms.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    within_ms: u64,
    /// How arrivals are spread over that time.
    #[arg(long, value_enum, default_value = "uniform")]
    arrivals: Arrivals,
    /// The first user arrives this long before the coupon opens, in ms; else at once.
    #[arg(long)]
    before_opening_ms: Option<u64>,
    /// The share of users who press twice at once.
    #[arg(long, default_value_t = 0.10)]
    duplicates: f64,
    /// The share of users who lose their first answer and press again.
    #[arg(long, default_value_t = 0.05)]
    retries: f64,
    /// The share of users who follow their claim by events; the others ask.
    #[arg(long, default_value_t = 0.5)]
    sse_share: f64,
    /// Whoever has not been told this long after the start, in s, is unresolved: a violation.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    deadline_s: u64,
    /// Most connections at once [default: what is needed, as far as the limit of open files goes].
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..))]
    connections_max: Option<u64>,
    /// Users are named <PREFIX>-<NUMBER> [default: a new one each time].
    #[arg(long, value_name = "PREFIX")]
    user_prefix: Option<String>,
    /// Fixes arrivals, who does what, and every jitter [default: a new one each time].
    #[arg(long)]
    seed: Option<u64>,
    /// All of the coupon must be issued at the end.
    #[arg(long)]
    expect_sold_out: bool,
    /// Others claim the coupon at the same time, or these users have before: its counter is not theirs alone.
    #[arg(long)]
    shared: bool,
    /// Threads that play users [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,
    /// Write the report here, too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Gateways' user API; several: repeated or comma-separated, users are dealt out among them.
    #[arg(long, env = "API_URL", value_delimiter = ',', default_value = "http://localhost:8080")]
    api_url: Vec<String>,
    /// Notifiers; several: repeated or comma-separated.
    #[arg(long, env = "NOTIFIER_URL", value_delimiter = ',', default_value = "http://localhost:8082")]
    notifier_url: Vec<String>,
    /// The HS256 secret of a dev installation, to make users' tokens with.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    jwt_secret: String,
    /// The issuer of tokens.
    #[arg(long, env = "JWT_ISSUER", default_value = "firstcome")]
    jwt_issuer: String,
    /// The audience of users' tokens.
    #[arg(long, env = "JWT_AUDIENCE", default_value = "firstcome")]
    jwt_audience: String,
}

/// Reads the arguments, lets the crowd loose, and shows what came of it.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = arguments.threads {
        builder.worker_threads(threads.into());
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no runtime: {error}"), 1),
    };
    let json = arguments.json.clone();
    match runtime.block_on(run(&arguments.crowd())) {
        Ok(report) => show(&report, json),
        Err(CrowdError::Usage(error)) => fail(&error, 2),
        Err(CrowdError::Failed(error)) => fail(&error, 1),
    }
}

async fn run(crowd: &Crowd) -> Result<Report, CrowdError> {
    let progress = Arc::<Progress>::default();
    let watch = Watch::start(&progress);
    let report = crowd.run(&progress).await;
    watch.stop();
    report
}

fn show(report: &Report, json: Option<PathBuf>) -> ExitCode {
    screen::say(&report.to_string());
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(report).unwrap_or_default();
        if let Err(error) = std::fs::write(&file, text + "\n") {
            return fail(&format!("{}: {error}", file.display()), 1);
        }
    }
    if !report.violations.is_empty() {
        ExitCode::from(5)
    } else if report.unchecked.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn fail(error: &str, code: u8) -> ExitCode {
    screen::complain(&format!("loadgen: {error}"));
    ExitCode::from(code)
}

impl Arguments {
    fn crowd(self) -> Crowd {
        let target = Target {
            api_urls: self.api_url,
            notifier_urls: self.notifier_url,
            jwt_secret: self.jwt_secret,
            jwt_issuer: self.jwt_issuer,
            jwt_audience: self.jwt_audience,
        };
        Crowd {
            users: self.users,
            within: Duration::from_millis(self.within_ms),
            arrivals: self.arrivals,
            duplicates: self.duplicates,
            retries: self.retries,
            sse_share: self.sse_share,
            deadline: Duration::from_secs(self.deadline_s),
            connections_max: self.connections_max,
            user_prefix: self.user_prefix.unwrap_or_else(random_prefix),
            seed: self.seed.unwrap_or_else(rand::random),
            before_opening: self.before_opening_ms.map(Duration::from_millis),
            expect_sold_out: self.expect_sold_out,
            shared: self.shared,
            ..Crowd::new(target, self.coupon_id)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const COUPON: &str = "c0-11111111111111111111111111111111";

    fn parse(arguments: &[&str]) -> Result<Crowd, clap::Error> {
        let all = ["loadgen", COUPON, "--jwt-secret", "s"];
        Arguments::try_parse_from(all.iter().chain(arguments)).map(Arguments::crowd)
    }

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn urls_come_one_by_one_or_with_commas() {
        let crowd = parse(&[
            "--api-url",
            "http://a,http://b",
            "--notifier-url",
            "http://c",
            "--notifier-url",
            "http://d",
        ]);
        let target = crowd.unwrap().target;
        assert_eq!(target.api_urls, ["http://a", "http://b"]);
        assert_eq!(target.notifier_urls, ["http://c", "http://d"]);
    }

    #[test]
    fn arguments_become_a_crowd() {
        let crowd =
            parse(&["--users", "7", "--within-ms", "500", "--arrivals", "stampede", "--seed", "3"]).unwrap();
        assert_eq!((crowd.users, crowd.within, crowd.seed), (7, Duration::from_millis(500), 3));
        assert_eq!(crowd.arrivals, Arrivals::Stampede);
        assert!(parse(&["--users", "0"]).is_err());
        assert!(Arguments::try_parse_from(["loadgen", "no-coupon", "--jwt-secret", "s"]).is_err());
    }
}
