//! What prod refuses of every service: secrets in the open, secrets that everybody knows, limits of 0.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Problem, tree};

/// Words in the secrets of examples and images.
const DEFAULT_WORDS: [&str; 12] = [
    "admin",
    "changeme",
    "change-me",
    "change_me",
    "default",
    "example",
    "kafka",
    "password",
    "placeholder",
    "postgres",
    "redis",
    "secret",
];
/// A secret of fewer different bytes was typed, not made.
const DIFFERENT_BYTES_MIN: usize = 5;

/// Everything that is wrong in prod alone, whatever the service.
pub(super) fn problems(
    defaults: &Value,
    effective: &Value,
    sources: &BTreeMap<String, String>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, value) in tree::all_leaves(effective) {
        if path.ends_with("_max") && value == 0 {
            problems.push(Problem::new(&path, "must not be 0 in prod: a limit of 0 lets nothing through"));
        }
        let Value::String(secret) = &value else { continue };
        if !tree::is_secret(defaults, &path) {
            continue;
        }
        if sources.get(&path).is_some_and(|source| !source.starts_with("file ")) {
            // What stands in a file of settings or in the environment ends up in listings.
            let remedy = "must come from a file in prod: use the key that ends in _file (or _files)";
            problems.push(Problem::new(&path, remedy));
        } else if password(&path, secret).is_some_and(looks_like_a_default) {
            let remedy =
                "looks like a default or an example in prod: make one, as with `openssl rand -base64 48`";
            problems.push(Problem::new(&path, remedy));
        }
    }
    problems
}

/// The part of a setting that nobody else may know; URLs need not have one.
fn password<'a>(path: &str, secret: &'a str) -> Option<&'a str> {
    if !path.ends_with(".url") {
        return Some(secret);
    }
    match secret.split_once("://") {
        Some((_, rest)) => {
            let authority = rest.split(['/', '?', '#']).next()?;
            Some(authority.rsplit_once('@')?.0.split_once(':')?.1)
        }
        None => secret.split_whitespace().find_map(|word| word.strip_prefix("password=")),
    }
}

fn looks_like_a_default(secret: &str) -> bool {
    let mut bytes: Vec<u8> = secret.bytes().collect();
    bytes.sort_unstable();
    bytes.dedup();
    let lower = secret.to_lowercase();
    bytes.len() < DIFFERENT_BYTES_MIN || DEFAULT_WORDS.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_part_of_a_url_is_its_password() {
        let of = |secret| password("postgres.url", secret);
        assert_eq!(of("postgres://writer:pw:2@db:5432/postgres?x=y@z"), Some("pw:2"));
        assert_eq!(of("redis://:pw@cache"), Some("pw"));
        assert_eq!(of("postgres://writer@db/firstcome"), None);
        assert_eq!(of("redis://cache:6379/0"), None);
        assert_eq!(of("host=db user=writer password=pw"), Some("pw"));
        assert_eq!(of("host=db user=postgres"), None);
        assert_eq!(password("kafka.sasl_password", "a://b"), Some("a://b"));
    }

    #[test]
    fn what_everybody_knows_is_no_secret() {
        for known in
            ["postgres", "ChangeMe-0123456789-0123456789-0123", "", "00000000000000000000000000000000000"]
        {
            assert!(looks_like_a_default(known), "{known}");
        }
        for made in ["8Zq4yT0vMhbd1sXo9pKw2LrUeC7nGfJt", "0f3a9c41d27be865", "kfr7-Wq2"] {
            assert!(!looks_like_a_default(made), "{made}");
        }
    }
}
