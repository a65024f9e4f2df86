//! TLS to a dependency: whom we trust, who we are, and what a refusal means for whoever configures it.
//!
//! A server's chain and name are always verified; there is no key that turns that off.

mod files;
mod remedy;

pub use files::{ClientTls, Identity, TlsFiles, TlsProblem};
pub use remedy::remedy;
