//! How fast the services are, measured on real servers, as shares of what the same machine does without them.
//!
//! A figure alone says more about the machine than about the code. So next to each the same run measures what nobody could
//! beat who does the same job on the same servers: a bare "ok" route in the same HTTP server, a bare loop that consumes, decodes,
//! encodes and produces, a COPY of the same rows. What is kept and compared is the ratio; see docs/benchmarks.md.

mod bare_loop;
mod bare_route;
mod cli;
mod figure;
mod fill;
mod front;
mod ground;
mod line;
mod machine;
mod memory;
mod pipeline;
mod plan;
mod presses;
mod report;
pub mod scale;
mod screen;
mod showing;
mod tables;

pub use cli::main;
pub use figure::{Figure, Wanted};
pub use machine::Machine;
pub use memory::Resident;
pub use plan::Plan;
pub use report::Report;
