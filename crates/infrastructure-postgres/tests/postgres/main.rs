//! The system of record, against a real PostgreSQL: what is written together, what is refused, and what is read back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod batches;
mod beside_the_retired;
mod checkpoints;
mod closures;
mod constraints;
mod database;
mod drafts;
mod dumps;
mod limits;
mod line;
mod look_ups;
mod migrations;
mod outages;
mod pool;
mod redemptions;
mod roles;
mod shared;
mod shop;
mod wallet;
mod writer;
