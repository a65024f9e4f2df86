//! Bearer tokens. `sub` is the user (or the operator); `aud`, `iss` and `exp` are required; users and operators have different
//! audiences, so a user's token opens nothing on the admin listener.
//!
//! What tokens are checked against is either a file of public keys, each good for one algorithm ([`jwks`]), or for dev one HS256 secret. The
//! algorithm is the key's, never the token's choice.

pub mod jwks;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use coupon_domain::UserId;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode_header};
use serde::{Deserialize, Serialize};

use crate::access;
use crate::problem::{Code, Problem};

/// Shortest HS256 secret, in bytes: as long as the hash (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The `auth` section of services that take users' tokens.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    /// File with the public keys that may have signed tokens, as a JWK set (RFC 7517): RS256, ES256 and EdDSA, found by their `kid`.
    pub jwks_file: Option<PathBuf>,
    /// Secret of HS256 tokens, for dev. Either this or `jwks_file`.
    pub hs256_secret: Option<String>,
    /// File with it.
    pub hs256_secret_file: Option<PathBuf>,
    /// The `iss` that tokens must have.
    pub issuer: String,
    /// The `aud` that users' tokens must have.
    pub audience: String,
    /// How far clocks may be apart when `exp` and `nbf` are looked at, in s.
    pub leeway_s: u32,
}

impl Default for AuthSection {
    fn default() -> Self {
        Self {
            jwks_file: None,
            hs256_secret: None,
            hs256_secret_file: None,
            issuer: "firstcome".to_owned(),
            audience: "firstcome".to_owned(),
            leeway_s: 5,
        }
    }
}

impl AuthSection {
    /// Everything that is wrong with the values, as (key, problem).
    #[must_use]
    pub fn problems(&self, production: bool) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, problem: String| problems.push((format!("auth.{key}"), problem));
        if let Some(secret) = &self.hs256_secret {
            if secret.len() < SECRET_BYTES_MIN {
                let problem = format!("must have at least {SECRET_BYTES_MIN} bytes, has {}", secret.len());
                wrong("hs256_secret", problem);
            }
            if production {
                let remedy = "is for dev: whoever can check an HS256 token can make one. Set auth.jwks_file";
                wrong("hs256_secret", remedy.to_owned());
            }
        }
        match (&self.jwks_file, &self.hs256_secret) {
            (Some(_), Some(_)) => {
                wrong("jwks_file", "and auth.hs256_secret are both set: leave one out".to_owned());
            }
            (None, None) if production => wrong("jwks_file", "must be set".to_owned()),
            (None, None) => wrong("jwks_file", "must be set (or hs256_secret, for dev)".to_owned()),
            (None, Some(_)) => {}
            (Some(file), None) => {
                jwks::read(file).err().into_iter().flatten().for_each(|problem| wrong("jwks_file", problem));
            }
        }
        for (key, value) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if value.is_empty() {
                wrong(key, "must not be empty".to_owned());
            }
        }
        if self.leeway_s > 300 {
            wrong("leeway_s", format!("must be 0..=300, is {}", self.leeway_s));
        }
        problems
    }
}

/// A user who was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's `sub`.
    pub user_id: UserId,
}

/// An operator who was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The token's `sub`.
    pub user_id: UserId,
    scopes: String,
}

/// What an operator may do; the words of the token's `scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `coupons:read`
    ReadCoupons,
    /// `coupons:write`
    WriteCoupons,
}

impl Scope {
    /// The word in the token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadCoupons => "coupons:read",
            Self::WriteCoupons => "coupons:write",
        }
    }
}

impl Operator {
    /// Refuses an operator without this scope.
    ///
    /// # Errors
    /// 403 that names the scope.
    pub fn demand(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.split(' ').any(|word| word == scope.as_str()) {
            Ok(())
        } else {
            Err(Problem::new(Code::Forbidden, format!("the token's scope lacks {}", scope.as_str())))
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    scope: String,
}

/// Recognises users.
#[derive(Clone)]
pub struct UserVerifier(Verifier);

/// Recognises operators.
#[derive(Clone)]
pub struct AdminVerifier(Verifier);

#[derive(Clone)]
struct Verifier(Keys);

#[derive(Clone)]
enum Keys {
    Secret(Arc<Checker>),
    ByKid(Arc<HashMap<String, Checker>>),
}

/// One key, and what its tokens must look like: their algorithm is part of it.
struct Checker {
    key: DecodingKey,
    validation: Validation,
}

impl UserVerifier {
    /// A verifier for the section's audience.
    ///
    /// # Errors
    /// The file of keys cannot be used (any more): [`AuthSection::problems`] has said why at boot.
    pub fn new(section: &AuthSection) -> Result<Self, String> {
        Ok(Self(Verifier::new(section, &section.audience)?))
    }

    /// The user of a request's bearer token.
    ///
    /// # Errors
    /// 401 that says what is wrong with the token.
    pub fn caller(&self, request: &HttpRequest) -> Result<Caller, Problem> {
        let (user_id, _) = self.0.verify(request)?;
        access::note_user(request, &user_id);
        Ok(Caller { user_id })
    }
}

impl AdminVerifier {
    /// A verifier for operators' own audience.
    ///
    /// # Errors
    /// As for users.
    pub fn new(section: &AuthSection, admin_audience: &str) -> Result<Self, String> {
        Ok(Self(Verifier::new(section, admin_audience)?))
    }

    /// The operator of a request's bearer token.
    ///
    /// # Errors
    /// 401 that says what is wrong with the token.
    pub fn operator(&self, request: &HttpRequest) -> Result<Operator, Problem> {
        let (user_id, scopes) = self.0.verify(request)?;
        access::note_user(request, &user_id);
        Ok(Operator { user_id, scopes })
    }
}

impl Verifier {
    fn new(section: &AuthSection, audience: &str) -> Result<Self, String> {
        let checker = |key, algorithm| {
            let mut validation = Validation::new(algorithm);
            validation.set_audience(&[audience]);
            validation.set_issuer(&[&section.issuer]);
            validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
            validation.leeway = section.leeway_s.into();
            validation.validate_nbf = true;
            Checker { key, validation }
        };
        match (&section.jwks_file, &section.hs256_secret) {
            (None, Some(secret)) => {
                let key = DecodingKey::from_secret(secret.as_bytes());
                Ok(Self(Keys::Secret(Arc::new(checker(key, Algorithm::HS256)))))
            }
            (Some(file), None) => {
                let keys =
                    jwks::read(file).map_err(|wrong| format!("auth.jwks_file: {}", wrong.join("; ")))?;
                let by_kid = keys.into_iter().map(|key| (key.kid, checker(key.key, key.algorithm)));
                Ok(Self(Keys::ByKid(Arc::new(by_kid.collect()))))
            }
            _ => Err("auth: either jwks_file or hs256_secret must be set".to_owned()),
        }
    }

    fn verify(&self, request: &HttpRequest) -> Result<(UserId, String), Problem> {
        let header = request
            .headers()
            .get(AUTHORIZATION)
            .ok_or_else(|| unauthorized("there is no Authorization header"))?;
        let text = header.to_str().map_err(|_| unauthorized("the Authorization header is no ASCII"))?;
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(unauthorized("the Authorization header must read: Bearer <token>")),
        };
        self.verify_token(token)
    }

    fn verify_token(&self, token: &str) -> Result<(UserId, String), Problem> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(unauthorized(format!("the token has more than {TOKEN_BYTES_MAX} bytes")));
        }
        let refused = |error: jsonwebtoken::errors::Error| unauthorized(refusal(error.kind()));
        let checker = match &self.0 {
            Keys::Secret(checker) => checker,
            Keys::ByKid(checkers) => {
                let kid = decode_header(token).map_err(refused)?.kid;
                let kid = kid.ok_or_else(|| unauthorized("the token's header names no kid"))?;
                let checker = checkers.get(&kid);
                checker.ok_or_else(|| unauthorized("the token's kid is none of the keys that count here"))?
            }
        };
        let token =
            jsonwebtoken::decode::<Claims>(token, &checker.key, &checker.validation).map_err(refused)?;
        if token.header.crit.is_some() {
            // RFC 7515 §4.1.11: what must be understood and is not makes the token invalid.
            return Err(unauthorized("the token's crit names header fields that are not understood here"));
        }
        let claims = token.claims;
        let user_id =
            claims.sub.parse().map_err(|error| unauthorized(format!("the token's sub: {error}")))?;
        Ok((user_id, claims.scope))
    }
}

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

fn unauthorized(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Code::Unauthorized, detail)
}

fn refusal(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the token is not valid yet".to_owned(),
        ErrorKind::InvalidAlgorithm => "the token's alg is not the one that its key is for".to_owned(),
        ErrorKind::InvalidSignature => "the token's signature is wrong".to_owned(),
        ErrorKind::InvalidAudience => "the token's aud is another one".to_owned(),
        ErrorKind::InvalidIssuer => "the token's iss is another one".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the token has no {claim}"),
        _ => "the token cannot be read".to_owned(),
    }
}

#[cfg(test)]
mod tests;
