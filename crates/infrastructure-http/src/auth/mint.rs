//! Making tokens.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// Makes tokens: the command line, the load generator and tests play users and operators with it.
#[derive(Clone)]
pub struct TokenMint {
    header: Header,
    key: EncodingKey,
    issuer: String,
}

#[derive(Serialize)]
struct MintedClaims<'a> {
    sub: &'a str,
    aud: &'a str,
    iss: &'a str,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
}

impl TokenMint {
    /// A mint with the services' own secret (HS256), for dev.
    #[must_use]
    pub fn new(secret: &str, issuer: &str) -> Self {
        let key = EncodingKey::from_secret(secret.as_bytes());
        Self { header: Header::default(), key, issuer: issuer.to_owned() }
    }

    /// A mint with a private key in PEM: Ed25519 (EdDSA), P-256 (ES256) or RSA (RS256). The services know the public one by `kid`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn with_private_key(pem: &[u8], kid: &str, issuer: &str) -> Result<Self, String> {
        let known = [
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem)),
            (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
        ];
        let Some((algorithm, key)) =
            known.into_iter().find_map(|(algorithm, key)| Some((algorithm, key.ok()?)))
        else {
            return Err("is no private key in PEM: Ed25519, P-256 (PKCS #8) or RSA".to_owned());
        };
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        Ok(Self { header, key, issuer: issuer.to_owned() })
    }

    /// A token of `sub` for `audience`, until `expires_at`. Operators need a `scope`.
    ///
    /// # Errors
    /// It cannot be signed: a private key of another curve than its algorithm's.
    pub fn mint(
        &self,
        sub: &str,
        audience: &str,
        scope: Option<&str>,
        expires_at: coupon_domain::Timestamp,
    ) -> Result<String, String> {
        let exp = expires_at.ms() / 1_000;
        let claims = MintedClaims { sub, aud: audience, iss: &self.issuer, exp, scope };
        jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|error| error.to_string())
    }
}
