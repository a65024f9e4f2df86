//! The view in Redis: what gateways and notifiers look at before they bother anybody else.
//!
//! It is never asked for truth. Nothing is reserved or counted down here; outcomes are copied in after they are durable in
//! the log, each batch together with the watermark that says up to where the view is true. If Redis is empty the system is slower,
//! not wrong.
//!
//! Keys and the script live in this crate and nowhere else; the hash tag `{coupon id}` keeps one coupon in one slot of a cluster.

mod client;
pub mod config;
pub mod connection;
mod keys;
pub mod maintenance;
pub mod metrics;
pub mod reader;
mod value;
pub mod writer;

pub use config::RedisSection;
pub use connection::RedisError;
pub use maintenance::{CouponHash, FoundAnswer, ViewMaintenance};
pub use metrics::RedisMetrics;
pub use reader::{Asks, Prefilter, ViewReader};
pub use writer::{CouponCounts, PreparedWrite, ViewWrite, ViewWriter};
