//! The one boot path of all services: parse the configuration, validate all of it, start telemetry, print what is effective, connect, check,
//! be ready; on SIGTERM stop taking work, drain, and exit within the budget.

pub mod boot;
pub mod catalogue;
pub mod clock;
pub mod config;
mod dependency;
pub mod exit;
pub mod health;
mod issuers;
pub mod limit;
pub mod logs;
pub mod metrics;
mod ops_server;
pub mod partition;
pub mod preflight;
pub mod sections;
pub mod shutdown;
pub mod tail;
pub mod task;
pub mod topics_watch;
pub mod trace;

pub use boot::{Context, Service, main};
pub use clock::Clock;
pub use config::{Problem, ServiceConfig};
pub use exit::Ended;
pub use health::{Condition, Health, LoopTurn};
pub use issuers::{Issuers, TokensOf};
pub use limit::{Limit, Limits, Place};
pub use metrics::Metrics;
pub use sections::{KeysSection, LogSection, OpsSection, Profile, RuntimeSections};
pub use shutdown::Shutdown;
pub use task::Tasks;
pub use trace::{TraceSection, Tracer};

/// The release: what the build was told (`FIRSTCOME_RELEASE`, version and revision), else the version.
pub const RELEASE: &str = match option_env!("FIRSTCOME_RELEASE") {
    Some(release) => release,
    None => env!("CARGO_PKG_VERSION"),
};
