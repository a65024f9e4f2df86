//! How much is measured. Every count and every time is bounded here.

use std::time::Duration;

use serde::Serialize;

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Connections that press at once, each one request at a time.
    pub connections: u32,
    /// Times that the routes are measured, in turn.
    pub rounds: u32,
    /// A round's time before anything counts, in ms.
    pub warm_up_ms: u32,
    /// A round's time that counts, in ms.
    pub window_ms: u32,
    /// Users of a round. Once each of them has claimed the round is over.
    pub users_per_round: u32,
    /// Claims that wait in line before the stock-consumer is let at them.
    pub claims_in_line: u32,
    /// How many of the coupon there are for them: a line for each.
    pub quantities: Vec<u32>,
    /// Times that each of those lines is made anew and measured.
    pub lines: u32,
    /// Claims that are sent through the whole pipeline.
    pub claims_through: u32,
    /// Seconds of users who arrive one by one and listen for their answer.
    pub listening_s: u32,
}

impl Plan {
    /// For figures: some minutes.
    #[must_use]
    pub fn full() -> Self {
        Self {
            connections: 512,
            rounds: 5,
            warm_up_ms: 1_000,
            window_ms: 3_000,
            users_per_round: 250_000,
            claims_in_line: 1_000_000,
            quantities: vec![1_000, 500_000],
            lines: 3,
            claims_through: 100_000,
            listening_s: 10,
        }
    }

    /// To see that everything is measured: some seconds, and figures that mean nothing.
    #[must_use]
    pub fn smoke() -> Self {
        Self {
            connections: 8,
            rounds: 1,
            warm_up_ms: 20,
            window_ms: 200,
            users_per_round: 2_000,
            claims_in_line: 500,
            quantities: vec![10, 250],
            lines: 1,
            claims_through: 200,
            listening_s: 1,
        }
    }

    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_millis(self.warm_up_ms.into())
    }

    pub(crate) fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms.into())
    }
}
