//! The audit: folds the claims log again and compares outcomes log, PostgreSQL, Redis and the compacted topics with it, each at its own
//! watermark. What is behind is lag; what contradicts is a broken promise.
//!
//! The sources are read in the order in which they can only be behind the next one: Redis, PostgreSQL, state and persisted topics,
//! outcomes, dead letters, claims. So it works in the middle of a burst. It only reads.

mod claims;
mod error;
mod findings;
mod line;
mod newcomers;
mod outcomes;
mod pass;
mod published;
mod rows;
mod tables;
mod tally;
mod view;

pub use error::AuditError;
pub use findings::Findings;
pub use line::Progress;
pub use pass::{Begin, Cut, Installation, Pass, inspect};
pub use rows::{ROWS_IN_MEMORY_MAX, SPILLED_BYTES_MAX, Spill};
pub use tally::Ledger as ClaimLedger;
pub use view::View;
