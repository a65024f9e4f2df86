//! The fold, checked from outside: against a naive reference that was written another way, against itself in other
//! batches and from checkpoints, and against golden logs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod determinism;
mod golden;
mod line;
mod reference;
