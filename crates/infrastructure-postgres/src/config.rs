//! The `postgres` section of a service's configuration.

use std::path::PathBuf;

use infrastructure_tls::TlsFiles;
use serde::{Deserialize, Serialize};
use tokio_postgres::config::SslMode;

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
    /// Encryption.
    pub tls: PostgresTls,
    /// How long connecting may take, in ms.
    pub connect_timeout_ms: u32,
    /// How long PostgreSQL may work on one statement, in ms; it is cancelled there.
    pub statement_timeout_ms: u32,
    /// How long a request waits for its answer, connection included, in ms. Beyond it the request goes without PostgreSQL.
    pub request_timeout_ms: u32,
    /// Most connections that a service shares: a gateway or notifier for its requests, a db-writer for its partitions.
    pub pool_size_max: u32,
}

/// The `tls` part of the `postgres` section.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresTls {
    /// Connections go through TLS or not at all, and the server's certificate must be signed by an authority that we trust, for the
    /// host of the URL. The URL's own `sslmode` says less.
    pub enabled: bool,
    /// PEM file of the certificate authorities that may have signed the server's certificate. Unset: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our own certificate, for servers that ask for one.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
}

impl PostgresTls {
    pub(crate) fn files(&self) -> TlsFiles {
        TlsFiles {
            ca_file: self.ca_file.clone(),
            certificate_file: self.certificate_file.clone(),
            key_file: self.key_file.clone(),
        }
    }

    /// Everything that is wrong with the files, as (key, problem); files without TLS are wrong, too.
    fn problems(&self) -> Vec<(String, String)> {
        let files = self.files();
        if !self.enabled {
            let unused =
                |key| (format!("tls.{key}"), "is set, but postgres.tls.enabled is not true".to_owned());
            return files.keys_set().map(unused).collect();
        }
        let problems = files.load().err().unwrap_or_default();
        problems.into_iter().map(|problem| (format!("tls.{}", problem.key), problem.problem)).collect()
    }
}

impl Default for PostgresSection {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            allow_plaintext: false,
            tls: PostgresTls::default(),
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
            Some(Err(error)) => {
                let text = crate::connector::causes(&error);
                wrong("url", format!("cannot be read: {text}{}", sslmode_remedy(self.url.as_deref())));
            }
            Some(Ok(config)) => {
                match (self.tls.enabled, config.get_ssl_mode()) {
                    (true, SslMode::Disable) => {
                        wrong(
                            "url",
                            "says sslmode=disable, but postgres.tls.enabled is true: leave one out"
                                .to_owned(),
                        );
                    }
                    (false, SslMode::Require) => {
                        wrong("url", "says sslmode=require: set postgres.tls.enabled, which verifies the server as well".to_owned());
                    }
                    _ => {}
                }
            }
        }
        if production && !self.tls.enabled && !self.allow_plaintext {
            let remedy = "must be true in prod, or set postgres.allow_plaintext where the network is trusted";
            wrong("tls.enabled", remedy.to_owned());
        }
        for (key, problem) in self.tls.problems() {
            wrong(&key, problem);
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

/// Other clients verify by words in the URL.
fn sslmode_remedy(url: Option<&str>) -> &'static str {
    let url = url.unwrap_or_default();
    if url.contains("sslmode=") || url.contains("sslrootcert=") {
        "; leave sslmode and sslrootcert out: postgres.tls.enabled verifies the server, by postgres.tls.ca_file"
    } else {
        ""
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
        assert_eq!(keys(&good, true), ["postgres.tls.enabled"]);
        let trusted = PostgresSection { allow_plaintext: true, ..good.clone() };
        assert_eq!(keys(&trusted, true), Vec::<String>::new());
        assert_eq!(keys(&PostgresSection::default(), false), ["postgres.url"]);
        let wrong = PostgresSection { url: Some("db".to_owned()), pool_size_max: 0, ..good };
        assert_eq!(keys(&wrong, false), ["postgres.url", "postgres.pool_size_max"]);
    }

    #[test]
    fn tls_is_asked_for_in_one_place_and_its_files_are_looked_at() {
        let problems = |url: &str, tls: PostgresTls| {
            PostgresSection { url: Some(url.to_owned()), tls, ..PostgresSection::default() }.problems(true)
        };
        let on = PostgresTls { enabled: true, ..PostgresTls::default() };
        assert_eq!(problems("postgres://app@db/app", on.clone()), []);
        assert_eq!(problems("postgres://app@db/app?sslmode=require", on.clone()), []);
        for url in ["postgres://app@db/app?sslmode=disable", "postgres://app@db/app?sslmode=verify-full"] {
            let found = problems(url, on.clone());
            assert_eq!(found[0].0, "postgres.url", "{url}");
            assert!(found[0].1.contains("leave"), "{found:?}");
        }
        let found = problems("postgres://app@db/app?sslmode=require", PostgresTls::default());
        assert_eq!(found[0].0, "postgres.url");
        assert!(found[0].1.contains("set postgres.tls.enabled"), "{found:?}");

        let missing = PostgresTls { ca_file: Some("/nowhere/ca.pem".into()), ..on };
        let found = problems("postgres://app@db/app", missing.clone());
        assert_eq!(found[0].0, "postgres.tls.ca_file");
        assert!(found[0].1.contains("/nowhere/ca.pem cannot be read"), "{found:?}");
        let found = problems("postgres://app@db/app", PostgresTls { enabled: false, ..missing });
        let keys: Vec<_> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["postgres.tls.enabled", "postgres.tls.ca_file"]);
    }
}
