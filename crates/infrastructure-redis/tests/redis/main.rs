//! The view in a real Redis: what is written together, what expires together, and what callers get while Redis is of no use.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod encrypted;
mod installation;
mod outages;
mod writing;
