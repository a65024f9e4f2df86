//! The client against a real broker: what is acknowledged, what is refused, what is in doubt, and what a reader finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod broker_outages;
mod dead_letters;
mod installation;
mod lines;
mod membership;
mod operator;
mod producing;
mod reading;
mod topics;
