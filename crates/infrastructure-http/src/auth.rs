//! Bearer tokens. `sub` is the user (or the operator); `aud`, `iss` and `exp` are required; users and operators have different
//! audiences, so a user's token opens nothing on the admin listener.

use std::path::PathBuf;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use coupon_domain::UserId;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::problem::{Code, Problem};

/// Shortest HS256 secret, in bytes: as long as the hash (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The `auth` section of services that take users' tokens.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    /// Secret of HS256 tokens, for dev.
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
        match &self.hs256_secret {
            None => wrong("hs256_secret", "must be set (or hs256_secret_file)".to_owned()),
            Some(secret) if secret.len() < SECRET_BYTES_MIN => {
                wrong(
                    "hs256_secret",
                    format!("must have at least {SECRET_BYTES_MIN} bytes, has {}", secret.len()),
                );
            }
            Some(_) => {}
        }
        if production {
            let remedy = "is for dev: whoever can check an HS256 token can make one. This release takes no other tokens";
            wrong("hs256_secret", remedy.to_owned());
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
struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl UserVerifier {
    /// A verifier for the section's audience.
    #[must_use]
    pub fn new(section: &AuthSection) -> Self {
        Self(Verifier::new(section, &section.audience))
    }

    /// The user of a request's bearer token.
    ///
    /// # Errors
    /// 401 that says what is wrong with the token.
    pub fn caller(&self, request: &HttpRequest) -> Result<Caller, Problem> {
        Ok(Caller { user_id: self.0.verify(request)?.0 })
    }
}

impl AdminVerifier {
    /// A verifier for operators' own audience.
    #[must_use]
    pub fn new(section: &AuthSection, admin_audience: &str) -> Self {
        Self(Verifier::new(section, admin_audience))
    }

    /// The operator of a request's bearer token.
    ///
    /// # Errors
    /// 401 that says what is wrong with the token.
    pub fn operator(&self, request: &HttpRequest) -> Result<Operator, Problem> {
        let (user_id, scopes) = self.0.verify(request)?;
        Ok(Operator { user_id, scopes })
    }
}

impl Verifier {
    fn new(section: &AuthSection, audience: &str) -> Self {
        let secret = section.hs256_secret.as_deref().unwrap_or_default();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[&section.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.leeway = section.leeway_s.into();
        validation.validate_nbf = true;
        Self { key: DecodingKey::from_secret(secret.as_bytes()), validation }
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
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| unauthorized(refusal(error.kind())))?
            .claims;
        let user_id =
            claims.sub.parse().map_err(|error| unauthorized(format!("the token's sub: {error}")))?;
        Ok((user_id, claims.scope))
    }
}

/// Makes HS256 tokens, for dev: the command line, the load generator and tests play users and operators with it.
#[derive(Clone)]
pub struct TokenMint {
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
    /// A mint with the services' own secret.
    #[must_use]
    pub fn new(secret: &str, issuer: &str) -> Self {
        Self { key: EncodingKey::from_secret(secret.as_bytes()), issuer: issuer.to_owned() }
    }

    /// A token of `sub` for `audience`, until `expires_at`. Operators need a `scope`.
    ///
    /// # Errors
    /// It cannot be signed: never in practice, an HMAC takes every key.
    pub fn mint(
        &self,
        sub: &str,
        audience: &str,
        scope: Option<&str>,
        expires_at: coupon_domain::Timestamp,
    ) -> Result<String, String> {
        let exp = expires_at.ms() / 1_000;
        let claims = MintedClaims { sub, aud: audience, iss: &self.issuer, exp, scope };
        jsonwebtoken::encode(&Header::default(), &claims, &self.key).map_err(|error| error.to_string())
    }
}

fn unauthorized(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Code::Unauthorized, detail)
}

fn refusal(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the token is not valid yet".to_owned(),
        ErrorKind::InvalidSignature => "the token's signature is wrong".to_owned(),
        ErrorKind::InvalidAudience => "the token's aud is another one".to_owned(),
        ErrorKind::InvalidIssuer => "the token's iss is another one".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the token has no {claim}"),
        _ => "the token cannot be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use jsonwebtoken::encode;
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn section() -> AuthSection {
        AuthSection { hs256_secret: Some(SECRET.to_owned()), ..AuthSection::default() }
    }

    fn claims() -> Value {
        json!({"sub": "ann", "aud": "firstcome", "iss": "firstcome", "exp": 4_000_000_000u64, "scope": "coupons:read"})
    }

    fn token(claims: &Value, secret: &str) -> String {
        encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn request(token: &str) -> HttpRequest {
        TestRequest::default().insert_header((AUTHORIZATION, format!("Bearer {token}"))).to_http_request()
    }

    fn with(key: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[key] = value;
        claims
    }

    #[test]
    fn a_good_token_names_its_user() {
        let caller = UserVerifier::new(&section()).caller(&request(&token(&claims(), SECRET))).unwrap();
        assert_eq!(caller.user_id.as_str(), "ann");
    }

    #[test]
    fn every_other_token_is_refused_with_its_reason() {
        let verifier = UserVerifier::new(&section());
        let mut without_aud = claims();
        without_aud.as_object_mut().unwrap().remove("aud");
        let cases = [
            (token(&claims(), "another secret of thirty-two bytes"), "signature is wrong"),
            (token(&with("exp", json!(1)), SECRET), "has expired"),
            (token(&with("nbf", json!(4_000_000_000u64)), SECRET), "not valid yet"),
            (token(&with("aud", json!("firstcome-admin")), SECRET), "aud is another"),
            (token(&with("iss", json!("somebody")), SECRET), "iss is another"),
            (token(&without_aud, SECRET), "has no aud"),
            (token(&with("sub", json!("an\u{0}n")), SECRET), "sub: a user id must not contain control"),
            (token(&with("sub", json!("x".repeat(3_000))), SECRET), "sub: a user id has at most"),
            ("x.y.z".to_owned(), "cannot be read"),
            ("x".repeat(TOKEN_BYTES_MAX + 1), "more than"),
        ];
        for (token, expected) in cases {
            let problem = verifier.caller(&request(&token)).unwrap_err();
            assert_eq!(problem.code(), Code::Unauthorized);
            assert!(problem.to_string().contains(expected), "{problem} should say {expected:?}");
        }
        let bare = TestRequest::default().to_http_request();
        assert_eq!(verifier.caller(&bare).unwrap_err().code(), Code::Unauthorized);
    }

    #[test]
    fn an_operator_has_another_audience_and_its_scopes() {
        let verifier = AdminVerifier::new(&section(), "firstcome-admin");
        assert!(verifier.operator(&request(&token(&claims(), SECRET))).is_err());
        let token = token(&with("aud", json!("firstcome-admin")), SECRET);
        let operator = verifier.operator(&request(&token)).unwrap();
        assert!(operator.demand(Scope::ReadCoupons).is_ok());
        assert_eq!(operator.demand(Scope::WriteCoupons).unwrap_err().code(), Code::Forbidden);
    }

    #[test]
    fn unsigned_tokens_do_not_count() {
        let header = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        let signed = token(&claims(), SECRET);
        let body = signed.split('.').nth(1).unwrap();
        assert!(UserVerifier::new(&section()).caller(&request(&format!("{header}.{body}."))).is_err());
    }

    #[test]
    fn prod_takes_no_hs256() {
        let keys = |section: &AuthSection, production| {
            section.problems(production).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(&section(), false), Vec::<String>::new());
        assert_eq!(keys(&section(), true), ["auth.hs256_secret"]);
        let short =
            AuthSection { hs256_secret: Some("short".to_owned()), issuer: String::new(), ..section() };
        assert_eq!(keys(&short, false), ["auth.hs256_secret", "auth.issuer"]);
    }
}
