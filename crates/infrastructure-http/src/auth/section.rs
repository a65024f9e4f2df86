//! The `auth` section: whose tokens count, and by which keys they are recognised.

use std::path::PathBuf;

use infrastructure_tls::TlsFiles;
use serde::{Deserialize, Serialize};
use url::Url;

use super::jwks;
use crate::words::Words;

/// Shortest HS256 secret, in bytes: as long as the hash (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// The `auth` section of services that take users' tokens.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    /// The `iss` that tokens must have. Where it is an address and no other source of keys is named, the keys are found by discovery: its
    /// `/.well-known/openid-configuration` says where they are (OpenID Connect Discovery 1.0 §4).
    pub issuer: String,
    /// Address of the keys that may have signed tokens, as a JWK set (RFC 7517), in place of discovery.
    pub jwks_url: Option<String>,
    /// File with them.
    pub jwks_file: Option<PathBuf>,
    /// Secret of HS256 tokens, for dev, in place of keys.
    pub hs256_secret: Option<String>,
    /// File with it.
    pub hs256_secret_file: Option<PathBuf>,
    /// Keys from an address are fetched again after so many seconds, or earlier where the answer's cache headers say so.
    pub refresh_s: u32,
    /// PEM file of the certificate authorities that may have signed the issuer's certificate. Unset: the system's.
    pub ca_file: Option<PathBuf>,
    /// The values of `audience_claim` that count for users.
    pub audience: Words,
    /// The claim that says for whom a token is: `aud`, or another one where tokens have none, as `client_id`.
    pub audience_claim: String,
    /// How far clocks may be apart when `exp` and `nbf` are looked at, in s.
    pub leeway_s: u32,
    /// Operators' tokens; of use to api-gateway alone.
    pub admin: AdminAuthSection,
}

/// The `auth.admin` section: operators, by an issuer of their own or by the users'.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminAuthSection {
    /// Operators' own issuer. Without one they share the users', keys and all.
    pub issuer: Option<String>,
    /// Address of its keys, in place of discovery.
    pub jwks_url: Option<String>,
    /// File with them.
    pub jwks_file: Option<PathBuf>,
    /// The values of `audience_claim` that count for operators: others than users'.
    pub audience: Words,
    /// The claim that says for whom a token is; unset: the users' one.
    pub audience_claim: Option<String>,
    /// The claims that operators' rights are read from: each a text of words, a list, or an object whose names are the words; a dot leads into an object.
    pub rights_claims: Words,
    /// What the right to read coupons is called.
    pub read_names: Words,
    /// What the right to change coupons is called.
    pub write_names: Words,
}

impl Default for AuthSection {
    fn default() -> Self {
        Self {
            issuer: "firstcome".to_owned(),
            jwks_url: None,
            jwks_file: None,
            hs256_secret: None,
            hs256_secret_file: None,
            refresh_s: 300,
            ca_file: None,
            audience: Words::of(["firstcome"]),
            audience_claim: "aud".to_owned(),
            leeway_s: 5,
            admin: AdminAuthSection::default(),
        }
    }
}

impl Default for AdminAuthSection {
    fn default() -> Self {
        Self {
            issuer: None,
            jwks_url: None,
            jwks_file: None,
            audience: Words::of(["firstcome-admin"]),
            audience_claim: None,
            rights_claims: Words::of(["scope", "scp", "roles", "permissions", "realm_access.roles"]),
            read_names: Words::of(["coupons:read"]),
            write_names: Words::of(["coupons:write"]),
        }
    }
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    /// One HS256 secret.
    Secret(String),
    File(PathBuf),
    Url(Url),
    /// The issuer's configuration says where they are.
    Discovery(Url),
}

/// A key of the section, and what is wrong with its value.
type Wrong = (&'static str, String);

impl AuthSection {
    /// Everything that is wrong with the values, as (key, problem).
    #[must_use]
    pub fn problems(&self, production: bool) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, problem: String| problems.push((format!("auth.{key}"), problem));
        match self.source() {
            Err((key, problem)) => wrong(key, problem),
            Ok(source) => source_problems(&source, production)
                .into_iter()
                .for_each(|(key, problem)| wrong(key, problem)),
        }
        if self.issuer.is_empty() {
            wrong("issuer", "must not be empty".to_owned());
        }
        if self.audience.is_empty() {
            wrong("audience", "must name an audience".to_owned());
        }
        if self.audience_claim.is_empty() {
            wrong("audience_claim", "must not be empty: aud is the standard one".to_owned());
        }
        if self.leeway_s > 300 {
            wrong("leeway_s", format!("must be 0..=300, is {}", self.leeway_s));
        }
        if !(30..=86_400).contains(&self.refresh_s) {
            wrong("refresh_s", format!("must be 30..=86400, is {}", self.refresh_s));
        }
        if self.ca_file.is_some() {
            for problem in self.tls_files().load().err().into_iter().flatten() {
                wrong(problem.key, problem.problem);
            }
        }
        problems
    }

    /// Everything that is wrong with the values of `auth.admin`, as (key, problem).
    #[must_use]
    pub fn admin_problems(&self, production: bool) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, problem: String| problems.push((format!("auth.admin.{key}"), problem));
        let admin = &self.admin;
        match admin.source() {
            Ok(None) if admin.jwks_url.is_some() || admin.jwks_file.is_some() => {
                wrong("issuer", "must be set beside keys of operators' own".to_owned());
            }
            Ok(None) => {
                let is_users = |audience: &str| self.audience.contains(audience);
                let is_same_claim =
                    admin.audience_claim.as_ref().is_none_or(|claim| *claim == self.audience_claim);
                if is_same_claim && admin.audience.iter().any(is_users) {
                    wrong(
                        "audience",
                        "must be another one than auth.audience: else users' tokens open the admin API"
                            .to_owned(),
                    );
                }
            }
            Err((key, problem)) => wrong(key, problem),
            Ok(Some(source)) => source_problems(&source, production)
                .into_iter()
                .for_each(|(key, problem)| wrong(key, problem)),
        }
        if admin.issuer.as_deref() == Some("") {
            wrong(
                "issuer",
                "must not be empty: leave it out where operators share the users' issuer".to_owned(),
            );
        }
        if admin.audience_claim.as_deref() == Some("") {
            wrong(
                "audience_claim",
                "must not be empty: leave it out where it is auth.audience_claim".to_owned(),
            );
        }
        for (key, words) in [
            ("audience", &admin.audience),
            ("rights_claims", &admin.rights_claims),
            ("read_names", &admin.read_names),
            ("write_names", &admin.write_names),
        ] {
            if words.is_empty() {
                wrong(key, "must name at least one: else no operator is let in".to_owned());
            }
        }
        problems
    }

    /// Whom we trust to be the issuer.
    pub(super) fn tls_files(&self) -> TlsFiles {
        TlsFiles { ca_file: self.ca_file.clone(), ..TlsFiles::default() }
    }

    /// Where users' keys come from.
    pub(super) fn source(&self) -> Result<KeySource, Wrong> {
        let keys = match (&self.jwks_file, &self.jwks_url, &self.hs256_secret) {
            (None, None, Some(secret)) => return Ok(KeySource::Secret(secret.clone())),
            (None, None, None) | (Some(_), None, None) | (None, Some(_), None) => {
                source_of(self.jwks_file.as_ref(), self.jwks_url.as_deref(), &self.issuer)
            }
            (Some(_), Some(_), _) => {
                Err(("jwks_file", "and jwks_url are both set: leave one out".to_owned()))
            }
            (Some(_), _, Some(_)) => {
                Err(("jwks_file", "and hs256_secret are both set: leave one out".to_owned()))
            }
            (_, Some(_), Some(_)) => {
                Err(("jwks_url", "and hs256_secret are both set: leave one out".to_owned()))
            }
        };
        keys?.ok_or_else(|| {
            let remedy = "must be set, or jwks_url, or an issuer that is an address (https://…) and says where its keys are; or hs256_secret, for dev";
            ("jwks_file", remedy.to_owned())
        })
    }
}

impl AdminAuthSection {
    /// Where operators' keys come from; none where they share the users'.
    pub(super) fn source(&self) -> Result<Option<KeySource>, Wrong> {
        let Some(issuer) = self.issuer.as_deref().filter(|issuer| !issuer.is_empty()) else {
            return Ok(None);
        };
        if self.jwks_file.is_some() && self.jwks_url.is_some() {
            return Err(("jwks_file", "and jwks_url are both set: leave one out".to_owned()));
        }
        let keys = source_of(self.jwks_file.as_ref(), self.jwks_url.as_deref(), issuer)?;
        let remedy = "is no address: set jwks_file or jwks_url beside it";
        keys.map(Some).ok_or_else(|| ("issuer", remedy.to_owned()))
    }
}

fn source_of(file: Option<&PathBuf>, url: Option<&str>, issuer: &str) -> Result<Option<KeySource>, Wrong> {
    let address = |key, text: &str| match Url::parse(text) {
        Ok(url) if url.host().is_some() && matches!(url.scheme(), "https" | "http") => Ok(url),
        Ok(_) => Err((key, "must be an address that begins with https://".to_owned())),
        Err(error) => Err((key, format!("must be an address that begins with https://: {error}"))),
    };
    match (file, url) {
        (Some(file), _) => Ok(Some(KeySource::File(file.clone()))),
        (None, Some(url)) => Ok(Some(KeySource::Url(address("jwks_url", url)?))),
        (None, None) if issuer.contains("://") => Ok(Some(KeySource::Discovery(address("issuer", issuer)?))),
        (None, None) => Ok(None),
    }
}

/// What is wrong with a source of keys, as (key, problem). Files are read; addresses are asked by whoever runs.
fn source_problems(source: &KeySource, production: bool) -> Vec<Wrong> {
    match source {
        KeySource::Secret(secret) => {
            let mut problems = Vec::new();
            if secret.len() < SECRET_BYTES_MIN {
                let problem = format!("must have at least {SECRET_BYTES_MIN} bytes, has {}", secret.len());
                problems.push(("hs256_secret", problem));
            }
            if production {
                let remedy = "is for dev: whoever can check an HS256 token can make one. Set auth.issuer, auth.jwks_url or auth.jwks_file";
                problems.push(("hs256_secret", remedy.to_owned()));
            }
            problems
        }
        KeySource::File(file) => {
            jwks::read(file).err().into_iter().map(|problem| ("jwks_file", problem)).collect()
        }
        KeySource::Url(url) => {
            unencrypted(url, production).into_iter().map(|problem| ("jwks_url", problem)).collect()
        }
        KeySource::Discovery(url) => {
            unencrypted(url, production).into_iter().map(|problem| ("issuer", problem)).collect()
        }
    }
}

fn unencrypted(url: &Url, production: bool) -> Option<String> {
    let remedy = "must begin with https:// in prod: whoever answers in its place could sign tokens";
    (production && url.scheme() != "https").then(|| remedy.to_owned())
}
