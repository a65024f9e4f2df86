//! Bearer tokens. `sub` is the user (or the operator); `iss`, `exp` and an audience are required; users and operators have different
//! audiences or issuers, so a user's token opens nothing on the admin listener.
//!
//! What tokens are checked against are the public keys of their issuer ([`IssuerKeys`]), or for dev one HS256 secret. Which algorithms a key is good for is the
//! key's, never the token's choice.

pub mod jwks;
mod keys;
mod mint;
mod rights;
mod section;

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use coupon_domain::UserId;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode_header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use keys::{
    FETCH_INTERVAL_MIN, FETCH_RETRY, FILE_INTERVAL, IssuerKeys, KeyMetrics, UNKNOWN_KEY_INTERVAL,
    UNKNOWN_KEY_WAITERS_MAX,
};
pub use mint::TokenMint;
pub use rights::Scope;
pub use section::{AdminAuthSection, AuthSection, SECRET_BYTES_MIN};

use crate::access;
use crate::problem::{Code, Problem};
use crate::words::Words;
use jwks::PublicKey;
use rights::Rights;

/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

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
    rights: Rights,
}

impl Operator {
    /// Refuses an operator without this right.
    ///
    /// # Errors
    /// 403 that names the right.
    pub fn demand(&self, scope: Scope) -> Result<(), Problem> {
        if self.rights.include(scope) {
            return Ok(());
        }
        let detail = format!(
            "the token gives no right {}: auth.admin says in which claims rights are looked for, and what they are called",
            scope.as_str()
        );
        Err(Problem::new(Code::Forbidden, detail))
    }
}

/// Recognises users.
#[derive(Clone)]
pub struct UserVerifier(Verifier);

/// Recognises operators.
#[derive(Clone)]
pub struct AdminVerifier {
    verifier: Verifier,
    section: AdminAuthSection,
}

#[derive(Clone)]
struct Verifier {
    keys: IssuerKeys,
    /// For each kind of key in [`jwks::ACCEPTED`].
    validations: Vec<Validation>,
    audiences: Audiences,
}

/// For whom tokens must be.
#[derive(Clone)]
enum Audiences {
    /// `aud`, which the library checks.
    Standard,
    /// Another claim, which has one of these values.
    Claim(String, Words),
}

/// What a user's token must have; nothing else of it is looked at.
#[derive(Deserialize)]
struct UserClaims {
    sub: String,
}

impl UserVerifier {
    /// A verifier for users' audiences.
    #[must_use]
    pub fn new(section: &AuthSection, keys: IssuerKeys) -> Self {
        Self(Verifier::new(section, keys, &section.issuer, &section.audience, &section.audience_claim))
    }

    /// The user of a request's bearer token.
    ///
    /// # Errors
    /// 401 that says what is wrong with the token.
    pub async fn caller(&self, request: &HttpRequest) -> Result<Caller, Problem> {
        let token = bearer(request)?;
        let sub = match &self.0.audiences {
            Audiences::Standard => self.0.verify::<UserClaims>(token).await?.sub,
            Audiences::Claim(..) => self.0.verify_all(token).await?.0,
        };
        let user_id = user_id(&sub)?;
        access::note_user(request, &user_id);
        Ok(Caller { user_id })
    }
}

impl AdminVerifier {
    /// A verifier for operators: of their own issuer, if these are its keys, else of the users'.
    #[must_use]
    pub fn new(section: &AuthSection, users: IssuerKeys, own: Option<IssuerKeys>) -> Self {
        let admin = &section.admin;
        let issuer = admin.issuer.as_deref().filter(|_| own.is_some()).unwrap_or(&section.issuer);
        let audience_claim = admin.audience_claim.as_deref().unwrap_or(&section.audience_claim);
        let keys = own.unwrap_or(users);
        let verifier = Verifier::new(section, keys, issuer, &admin.audience, audience_claim);
        Self { verifier, section: admin.clone() }
    }

    /// The operator of a request's bearer token.
    ///
    /// # Errors
    /// 401 that says what is wrong with the token.
    pub async fn operator(&self, request: &HttpRequest) -> Result<Operator, Problem> {
        let (sub, claims) = self.verifier.verify_all(bearer(request)?).await?;
        let user_id = user_id(&sub)?;
        access::note_user(request, &user_id);
        Ok(Operator { user_id, rights: Rights::of(&claims, &self.section) })
    }
}

impl Verifier {
    fn new(
        section: &AuthSection,
        keys: IssuerKeys,
        issuer: &str,
        audience: &Words,
        audience_claim: &str,
    ) -> Self {
        let is_standard = audience_claim == "aud";
        let wanted: Vec<&str> = audience.iter().collect();
        let validation_of = |algorithms: &&[jsonwebtoken::Algorithm]| {
            let mut validation = Validation {
                algorithms: algorithms.to_vec(),
                leeway: section.leeway_s.into(),
                validate_nbf: true,
                validate_aud: is_standard,
                ..Validation::default()
            };
            validation.set_issuer(&[issuer]);
            validation.set_required_spec_claims(&["exp", "iss", "sub"]);
            if is_standard {
                validation.set_audience(&wanted);
                validation.required_spec_claims.insert("aud".to_owned());
            }
            validation
        };
        let audiences = if is_standard {
            Audiences::Standard
        } else {
            Audiences::Claim(audience_claim.to_owned(), audience.clone())
        };
        Self { keys, validations: jwks::ACCEPTED.iter().map(validation_of).collect(), audiences }
    }

    /// All claims of a token that counts here, and its `sub`.
    async fn verify_all(&self, token: &str) -> Result<(String, Map<String, Value>), Problem> {
        let claims = self.verify::<Map<String, Value>>(token).await?;
        if let Audiences::Claim(name, wanted) = &self.audiences {
            let counts = |value: &Value| value.as_str().is_some_and(|value| wanted.contains(value));
            match rights::claim_at(&claims, name) {
                None => return Err(unauthorized(format!("the token has no {name}"))),
                Some(Value::Array(values)) if values.iter().any(counts) => {}
                Some(value) if counts(value) => {}
                Some(_) => return Err(unauthorized(format!("the token's {name} is another one"))),
            }
        }
        let sub = claims.get("sub").and_then(Value::as_str).map(str::to_owned);
        Ok((sub.ok_or_else(|| unauthorized("the token has no sub"))?, claims))
    }

    async fn verify<C: DeserializeOwned>(&self, token: &str) -> Result<C, Problem> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(unauthorized(format!("the token has more than {TOKEN_BYTES_MAX} bytes")));
        }
        let refused = |error: jsonwebtoken::errors::Error| unauthorized(refusal(error.kind()));
        let key = match self.keys.secret() {
            Some(secret) => secret,
            None => self.key_of(decode_header(token).map_err(refused)?.kid.as_deref()).await?,
        };
        let validation = self.validations.get(key.accepts);
        let validation =
            validation.ok_or_else(|| unauthorized("the token's key is of no kind that counts"))?;
        let token = jsonwebtoken::decode::<C>(token, &key.key, validation).map_err(refused)?;
        if token.header.crit.is_some() {
            // RFC 7515 §4.1.11: what must be understood and is not makes the token invalid.
            return Err(unauthorized("the token's crit names header fields that are not understood here"));
        }
        Ok(token.claims)
    }

    /// The key that a token names.
    async fn key_of(&self, kid: Option<&str>) -> Result<Arc<PublicKey>, Problem> {
        let found = match self.keys.find(kid) {
            Some(key) => Some(key),
            None => self.keys.find_anew(kid).await.map_err(|_| {
                Problem::new(
                    Code::Unavailable,
                    "as many tokens of unknown keys as this process looks into wait already; nothing happened",
                )
            })?,
        };
        found.ok_or_else(|| match kid {
            _ if !self.keys.are_known() => {
                let detail = "the keys of the tokens' issuer could not be read yet; nothing happened";
                Problem::new(Code::Unavailable, detail)
            }
            None => unauthorized("the token's header names no kid"),
            Some(_) => unauthorized("the token's kid is none of the keys that count here"),
        })
    }
}

fn bearer(request: &HttpRequest) -> Result<&str, Problem> {
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .ok_or_else(|| unauthorized("there is no Authorization header"))?;
    let text = header.to_str().map_err(|_| unauthorized("the Authorization header is no ASCII"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(unauthorized("the Authorization header must read: Bearer <token>")),
    }
}

fn user_id(sub: &str) -> Result<UserId, Problem> {
    sub.parse().map_err(|error| unauthorized(format!("the token's sub: {error}")))
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
mod provider_tests;
#[cfg(test)]
mod tests;
