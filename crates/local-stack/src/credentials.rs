//! Secrets of a local stack: random, and the same for as long as its data.

use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};

/// The id of the only key; services hold it as `FIRSTCOME__KEYS__SECRETS__K1`.
pub const KEY_ID: &str = "k1";

/// What services sign and check with. Claim ids and coupon codes are made from the key, so it belongs to the data.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// HS256 secret of user and admin tokens.
    pub jwt_secret: String,
    /// `iss` of tokens.
    pub jwt_issuer: String,
    /// `aud` of user tokens.
    pub jwt_audience: String,
    /// `aud` of admin tokens.
    pub admin_jwt_audience: String,
    /// The key with the id [`KEY_ID`].
    pub key_secret: String,
}

impl Credentials {
    /// Fresh secrets of 48 characters each.
    #[must_use]
    pub fn random() -> Self {
        Self {
            jwt_secret: random_text(48),
            jwt_issuer: "local-stack".to_owned(),
            jwt_audience: "firstcome".to_owned(),
            admin_jwt_audience: "firstcome-admin".to_owned(),
            key_secret: random_text(48),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("jwt_issuer", &self.jwt_issuer).finish_non_exhaustive()
    }
}

/// Random letters and digits, safe in URLs, shells and configuration files.
pub(crate) fn random_text(length: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), length)
}
