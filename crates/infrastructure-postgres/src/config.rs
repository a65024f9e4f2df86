//! The `postgres` section of a service's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The `postgres` section.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresSection {
    /// `postgres://user:password@host:port/database`; in prod from `url_file`.
    pub url: Option<String>,
    /// File with the URL.
    pub url_file: Option<PathBuf>,
    /// Prod refuses connections without TLS unless this says that the network is trusted.
    pub allow_plaintext: bool,
    /// How long connecting may take, in ms.
    pub connect_timeout_ms: u32,
    /// How long PostgreSQL may work on one statement, in ms; it is cancelled there.
    pub statement_timeout_ms: u32,
    /// How long a request waits for its answer, connection included, in ms. Beyond it the request goes without PostgreSQL.
    pub request_timeout_ms: u32,
    /// Most connections of a service's pool for requests.
    pub pool_size_max: u32,
}

impl Default for PostgresSection {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            allow_plaintext: false,
            connect_timeout_ms: 2_000,
            statement_timeout_ms: 30_000,
            request_timeout_ms: 2_000,
            pool_size_max: 8,
        }
    }
}

impl PostgresSection {
    /// Everything that is wrong with the values, as (key, problem).
    #[must_use]
    pub fn problems(&self, production: bool) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, problem: String| problems.push((format!("postgres.{key}"), problem));
        match self.url.as_deref().map(str::parse::<tokio_postgres::Config>) {
            None => wrong("url", "must be set (or url_file)".to_owned()),
            Some(Err(error)) => wrong("url", format!("cannot be read: {error}")),
            Some(Ok(_)) => {}
        }
        if production && !self.allow_plaintext {
            let remedy = "set postgres.allow_plaintext where the network is trusted: this release speaks no TLS to PostgreSQL";
            wrong("allow_plaintext", remedy.to_owned());
        }
        let ranges = [
            ("connect_timeout_ms", self.connect_timeout_ms, 100, 60_000),
            ("statement_timeout_ms", self.statement_timeout_ms, 1_000, 600_000),
            ("request_timeout_ms", self.request_timeout_ms, 100, 60_000),
            ("pool_size_max", self.pool_size_max, 1, 100),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                wrong(key, format!("must be {least}..={most}, is {value}"));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_is_named() {
        let keys = |section: &PostgresSection, production| {
            section.problems(production).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let good = PostgresSection {
            url: Some("postgres://app@db:5432/app".to_owned()),
            ..PostgresSection::default()
        };
        assert_eq!(keys(&good, false), Vec::<String>::new());
        assert_eq!(keys(&good, true), ["postgres.allow_plaintext"]);
        assert_eq!(keys(&PostgresSection::default(), false), ["postgres.url"]);
        let wrong = PostgresSection { url: Some("db".to_owned()), pool_size_max: 0, ..good };
        assert_eq!(keys(&wrong, false), ["postgres.url", "postgres.pool_size_max"]);
    }
}
