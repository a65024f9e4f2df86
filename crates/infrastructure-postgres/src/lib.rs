//! PostgreSQL for Firstcome: the system of record, and the guard that holds even if everything above it were wrong.
//!
//! Everything about a published coupon is derived from the log and written by db-writer alone, batch by batch, each in one
//! statement that moves the partition's watermark, inserts the rows and raises the counters ([`batch`]). What it holds at a
//! watermark is a complete checkpoint of the ledger ([`checkpoint`]).

pub mod audit;
pub mod batch;
pub mod checkpoint;
pub mod claim_counts;
pub mod closures;
pub mod commands;
pub mod config;
pub mod connection;
mod connector;
pub mod coupons;
pub mod drafts;
pub mod dump;
pub mod events;
pub mod look_up;
pub mod migrations;
pub mod progress;
pub mod redemptions;
pub mod retention;
mod rows;
mod schema;
pub mod shared;
mod statement;
pub mod wallet;

pub use config::{PostgresSection, PostgresTls};
pub use connection::{Connection, Pool, PooledConnection, PostgresError};
pub use shared::SharedConnections;
