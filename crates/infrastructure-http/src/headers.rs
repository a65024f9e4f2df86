//! Request headers with a meaning of their own.

use std::time::Duration;

use actix_web::HttpRequest;
use coupon_domain::IdempotencyKey;

use crate::problem::Problem;

/// The `Idempotency-Key`, if there is one.
///
/// # Errors
/// 400: it is malformed.
pub fn idempotency_key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(value) = request.headers().get("Idempotency-Key") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    text.parse().map(Some).map_err(|error| Problem::invalid("Idempotency-Key", error))
}

/// The `Idempotency-Key`, where a request must have one.
///
/// # Errors
/// 400: it is missing or malformed.
pub fn required_idempotency_key(request: &HttpRequest) -> Result<IdempotencyKey, Problem> {
    idempotency_key(request)?
        .ok_or_else(|| Problem::invalid("Idempotency-Key", "is required: a key of your own for this request"))
}

/// How long the caller prefers to wait for a result (`Prefer: wait=5`, RFC 7240), at most `most`.
///
/// # Errors
/// 400: the number cannot be read.
pub fn wait_preference(request: &HttpRequest, most: Duration) -> Result<Option<Duration>, Problem> {
    for value in request.headers().get_all("Prefer") {
        for preference in value.to_str().unwrap_or_default().split([',', ';']) {
            let Some((name, seconds)) = preference.split_once('=') else {
                continue;
            };
            if name.trim().eq_ignore_ascii_case("wait") {
                let seconds: u32 = seconds
                    .trim()
                    .parse()
                    .map_err(|_| Problem::invalid("Prefer", "wait takes a whole number of seconds"))?;
                return Ok(Some(Duration::from_secs(seconds.into()).min(most)));
            }
        }
    }
    Ok(None)
}

/// The version in `If-Match: "3"`, if there is one. `*` is any.
///
/// # Errors
/// 400: it is no version.
pub fn expected_version(request: &HttpRequest) -> Result<Option<u32>, Problem> {
    let Some(value) = request.headers().get("If-Match") else {
        return Ok(None);
    };
    match value.to_str().unwrap_or_default().trim() {
        "*" => Ok(None),
        text => {
            let version: Option<u32> = text.trim_matches('"').parse().ok();
            let version = version.filter(|version| i32::try_from(*version).is_ok());
            version
                .map(Some)
                .ok_or_else(|| Problem::invalid("If-Match", "takes the coupon's version, as in \"3\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn request(name: &'static str, value: &'static str) -> HttpRequest {
        TestRequest::default().insert_header((name, value)).to_http_request()
    }

    #[test]
    fn the_wait_preference_is_capped() {
        let most = Duration::from_secs(30);
        let wait = |value| wait_preference(&request("Prefer", value), most);
        assert_eq!(wait("wait=5").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(wait("respond-async, Wait=600").unwrap(), Some(most));
        assert_eq!(wait("respond-async").unwrap(), None);
        assert!(wait("wait=soon").is_err());
    }

    #[test]
    fn versions_are_entity_tags() {
        assert_eq!(expected_version(&request("If-Match", "\"3\"")).unwrap(), Some(3));
        assert_eq!(expected_version(&request("If-Match", "*")).unwrap(), None);
        assert!(expected_version(&request("If-Match", "\"x\"")).is_err());
        assert!(expected_version(&request("If-Match", "\"4294967295\"")).is_err());
    }

    #[test]
    fn an_idempotency_key_is_named_when_it_is_wrong_or_missing() {
        assert!(
            idempotency_key(&request("Idempotency-Key", "a b"))
                .unwrap_err()
                .to_string()
                .contains("Idempotency-Key")
        );
        assert!(required_idempotency_key(&TestRequest::default().to_http_request()).is_err());
        assert!(required_idempotency_key(&request("Idempotency-Key", "k")).is_ok());
    }
}
