//! A crowd that claims one coupon, and a check of every answer it got.
//!
//! Arrivals are an open loop: who arrives when is fixed before the start, and every latency counts from that moment, however late the
//! client itself was. Each user is a small state machine (`user.rs`, without I/O) that presses the button, follows the claim by events or by
//! asking, presses again where it is told to, and ends told. What they heard is held against the promises: see [`Report::violations`].
//!
//! ```no_run
//! # async fn example(target: loadgen::Target, coupon_id: coupon_domain::CouponId) -> Result<(), loadgen::CrowdError> {
//! use std::{sync::Arc, time::Duration};
//! let crowd = loadgen::Crowd { users: 400, within: Duration::from_secs(1), ..loadgen::Crowd::new(target, coupon_id) };
//! let report = crowd.run(&Arc::default()).await?;
//! assert!(report.is_clean(), "{report}");
//! # Ok(()) }
//! ```

mod answers;
mod arrivals;
mod behaviour;
mod cli;
mod client;
mod clock;
mod connections;
mod crowd;
mod event_stream;
mod latency;
mod life;
mod listening;
mod progress;
mod report;
mod screen;
mod story;
mod tally;
mod task;
mod user;
mod violation;

pub use arrivals::Arrivals;
pub use cli::main;
pub use client::Target;
pub use crowd::{Crowd, CrowdError};
pub use latency::Summary;
pub use progress::Progress;
pub use report::{CouponAtEnd, Followed, Latencies, Pressed, Report};
pub use violation::{Check, Violation};
