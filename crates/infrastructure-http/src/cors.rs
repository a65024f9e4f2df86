//! Pages of other origins that may read answers (CORS), by configuration.
//!
//! Who may do what is said by the bearer token or the stream token that a page has, never by a cookie: credentials are not allowed, so any origin could be.

use actix_cors::{Cors, CorsError};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, LINK, LOCATION,
    RETRY_AFTER,
};
use actix_web::middleware::Condition;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::problem::Problem;
use crate::words::Words;

/// Headers that a page may send.
const ASKED: [HeaderName; 10] = [
    ACCEPT,
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_TYPE,
    IF_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Headers that a page may read, besides those that every page may.
const TOLD: [HeaderName; 5] =
    [ETAG, LINK, LOCATION, RETRY_AFTER, HeaderName::from_static("preference-applied")];

/// The `cors` part of a listener's section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsSection {
    /// Origins whose pages may read answers: `https://shop.example`, all subdomains as `https://*.shop.example`, or `*` for any. None: no page of another origin may.
    pub origins: Words,
    /// How long a browser may keep what it was told of them, in s.
    pub max_age_s: u32,
}

impl Default for CorsSection {
    fn default() -> Self {
        Self { origins: Words::default(), max_age_s: 3_600 }
    }
}

/// An origin, or all that are below it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Allowed {
    Any,
    Exactly(String),
    /// What origins begin with, and what they end with behind a subdomain.
    Below(String, String),
}

impl CorsSection {
    /// Everything that is wrong with the values of the section called `name`, as (key, problem).
    pub(crate) fn problems(&self, name: &str) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        for origin in self.origins.iter() {
            if let Err(problem) = allowed(origin) {
                problems.push((format!("{name}.cors.origins"), problem));
            }
        }
        if self.max_age_s > 86_400 {
            let problem = format!("must be 0..=86400, is {}", self.max_age_s);
            problems.push((format!("{name}.cors.max_age_s"), problem));
        }
        problems
    }

    /// What a listener wraps its routes in; nothing where no origin is allowed.
    pub(crate) fn middleware(&self) -> Condition<Cors> {
        let mut cors = Cors::default()
            .allowed_methods([
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allowed_headers(ASKED)
            .expose_headers(TOLD)
            .max_age(usize::try_from(self.max_age_s).unwrap_or(0));
        for origin in self.origins.iter().filter_map(|origin| allowed(origin).ok()) {
            cors = match origin {
                Allowed::Any => cors.allow_any_origin().send_wildcard(),
                Allowed::Exactly(origin) => cors.allowed_origin(&origin),
                Allowed::Below(begin, end) => cors.allowed_origin_fn(move |origin, _| {
                    let text = origin.to_str().unwrap_or_default();
                    is_below(text, &begin, &end)
                }),
            };
        }
        Condition::new(!self.origins.is_empty(), cors)
    }
}

/// What a refused preflight is answered.
pub(crate) fn refusal(error: &CorsError) -> Problem {
    let field = match error {
        CorsError::OriginNotAllowed | CorsError::MissingOrigin => "Origin",
        CorsError::HeadersNotAllowed | CorsError::BadRequestHeaders => "Access-Control-Request-Headers",
        _ => "Access-Control-Request-Method",
    };
    Problem::invalid(field, format!("{error}; http.cors says which origins may read answers"))
}

fn is_below(origin: &str, begin: &str, end: &str) -> bool {
    let subdomain = origin.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    subdomain.is_some_and(|subdomain| subdomain.split('.').all(is_label))
}

fn allowed(text: &str) -> Result<Allowed, String> {
    if text == "*" {
        return Ok(Allowed::Any);
    }
    let wrong = || {
        format!(
            "{text} must be an origin, as browsers send it: https://shop.example, https://*.shop.example, with a port where it is not the scheme's, and no path"
        )
    };
    let (begin, end) = match text.split_once("*.") {
        Some((begin, end)) => (begin, Some(end)),
        None => (text, None),
    };
    if end.is_some() && !begin.ends_with("://") || end.unwrap_or(begin).contains('*') {
        return Err(wrong());
    }
    let sample = end.map_or_else(|| text.to_owned(), |end| format!("{begin}any.{end}"));
    let url = Url::parse(&sample).map_err(|_| wrong())?;
    // Browsers spell it this way, and it is compared letter by letter.
    if url.origin().ascii_serialization() != sample || !matches!(url.scheme(), "https" | "http") {
        return Err(wrong());
    }
    Ok(match end {
        Some(end) => Allowed::Below(begin.to_owned(), format!(".{end}")),
        None => Allowed::Exactly(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_spelled_as_browsers_do() {
        for right in [
            "https://shop.example",
            "http://localhost:5173",
            "https://*.shop.example",
            "https://*.shop.example:8443",
            "*",
        ] {
            assert!(allowed(right).is_ok(), "{right}");
        }
        for wrong in [
            "shop.example",
            "https://shop.example/",
            "https://shop.example/page",
            "https://shop.example:443",
            "https://Shop.example",
            "https://*",
            "https://shop.*",
            "ftp://shop.example",
            "null",
            "https://a*.shop.example",
        ] {
            let section = CorsSection { origins: Words::of([wrong]), ..CorsSection::default() };
            assert_eq!(section.problems("http").len(), 1, "{wrong}");
        }
        let long = CorsSection { max_age_s: 86_401, ..CorsSection::default() };
        assert_eq!(long.problems("http")[0].0, "http.cors.max_age_s");
    }

    #[test]
    fn a_subdomain_is_below_and_nothing_else() {
        let Ok(Allowed::Below(begin, end)) = allowed("https://*.shop.example") else { panic!("a wildcard") };
        for below in ["https://www.shop.example", "https://a.b-1.shop.example"] {
            assert!(is_below(below, &begin, &end), "{below}");
        }
        for other in [
            "https://shop.example",
            "https://.shop.example",
            "https://evilshop.example",
            "https://evil.example/.shop.example",
            "https://evil.example#.shop.example",
            "https://evil.example:1.shop.example",
            "https://a@b.shop.example",
            "http://www.shop.example",
            "https://www.shop.example:8443",
            "https://www.shop.example.evil.example",
        ] {
            assert!(!is_below(other, &begin, &end), "{other}");
        }
    }
}
