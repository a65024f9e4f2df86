//! What end-to-end scenarios are made of: a world of its own for each (namespace, services, clients), a way to look behind the API, a burst of
//! users, and the oracle's verdict.

pub mod burst;
pub mod contract;
pub mod oracle;
pub mod redis;
pub mod user;
pub mod waiting;
pub mod world;

pub use burst::Burst;
pub use user::User;
pub use waiting::{eventually, within};
pub use world::{CouponSpec, World, WorldSpec};
