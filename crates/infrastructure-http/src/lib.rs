//! What api-gateway and notifier share of HTTP: listeners with named limits, bearer tokens, problem details, how times, preferences and
//! idempotency keys are spelled, and the OpenAPI document that says so.

mod access;
pub mod auth;
pub mod claim_view;
mod connection;
mod cors;
pub mod headers;
pub mod listener;
pub mod openapi;
pub mod problem;
pub mod time;
pub mod trace;
mod user_rates;
mod words;

pub use access::AccessLog;
pub use auth::{AdminVerifier, AuthSection, Caller, Operator, Scope, TokenMint, UserVerifier};
pub use claim_view::ClaimView;
pub use cors::CorsSection;
pub use listener::{Farewell, HttpSection};
pub use problem::{Code, Problem};
pub use user_rates::{RateMetrics, RateSettings, UserRates};
pub use words::Words;
