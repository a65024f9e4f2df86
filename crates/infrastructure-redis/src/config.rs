//! The `redis` section of a service's configuration.

use std::path::PathBuf;

use infrastructure_tls::TlsFiles;
use redis::{ConnectionAddr, IntoConnectionInfo};
use serde::{Deserialize, Serialize};

/// The `redis` section.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisSection {
    /// `rediss://user:password@host:port/database` through TLS, `redis://…` in the open; in prod from `url_file`.
    pub url: Option<String>,
    /// File with the URL.
    pub url_file: Option<PathBuf>,
    /// Prod refuses connections without TLS unless this says that the network is trusted.
    pub allow_plaintext: bool,
    /// Whom to trust and who we are, where the URL begins with `rediss://`.
    pub tls: TlsFiles,
    /// Put before every key, so that several installations share a server.
    pub key_prefix: String,
    /// How long a look-up may take, in ms. Beyond it the caller goes on without Redis.
    pub read_timeout_ms: u32,
    /// How long a write of the view may take, in ms.
    pub write_timeout_ms: u32,
    /// How long connecting may take, in ms.
    pub connect_timeout_ms: u32,
    /// Most look-ups waiting on one connection; beyond it the caller goes on without Redis.
    pub look_ups_in_flight_max: u32,
    /// How long a view outlives the end of its coupon, in s.
    pub keep_after_close_s: u32,
}

impl Default for RedisSection {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            allow_plaintext: false,
            tls: TlsFiles::default(),
            key_prefix: String::new(),
            read_timeout_ms: 50,
            write_timeout_ms: 2_000,
            connect_timeout_ms: 1_000,
            look_ups_in_flight_max: 4_096,
            keep_after_close_s: 24 * 60 * 60,
        }
    }
}

impl RedisSection {
    /// Everything that is wrong with the values, as (key, problem).
    #[must_use]
    pub fn problems(&self, production: bool) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, problem: String| problems.push((format!("redis.{key}"), problem));
        match self.url.as_deref().map(IntoConnectionInfo::into_connection_info) {
            None => wrong("url", "must be set (or url_file)".to_owned()),
            Some(Err(error)) => wrong("url", format!("cannot be read: {error}")),
            Some(Ok(info)) => match info.addr() {
                ConnectionAddr::TcpTls { insecure: true, .. } => {
                    wrong(
                        "url",
                        "must not end in #insecure: the server is always verified, by redis.tls.ca_file"
                            .to_owned(),
                    );
                }
                ConnectionAddr::TcpTls { .. } => {
                    for found in self.tls.load().err().unwrap_or_default() {
                        wrong(&format!("tls.{}", found.key), found.problem);
                    }
                }
                _ => {
                    if production && !self.allow_plaintext {
                        let remedy = "must be true where the network is trusted; elsewhere redis.url must begin with rediss://";
                        wrong("allow_plaintext", remedy.to_owned());
                    }
                    for key in self.tls.keys_set() {
                        wrong(
                            &format!("tls.{key}"),
                            "is set, but redis.url does not begin with rediss://".to_owned(),
                        );
                    }
                }
            },
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if self.key_prefix.len() > 100 || !self.key_prefix.bytes().all(legal) {
            wrong(
                "key_prefix",
                "must have at most 100 characters of a-z, A-Z, 0-9, '.', '_', ':' and '-'".to_owned(),
            );
        }
        let ranges = [
            ("read_timeout_ms", self.read_timeout_ms, 1, 5_000),
            ("write_timeout_ms", self.write_timeout_ms, 10, 60_000),
            ("connect_timeout_ms", self.connect_timeout_ms, 10, 60_000),
            ("look_ups_in_flight_max", self.look_ups_in_flight_max, 1, 100_000),
            ("keep_after_close_s", self.keep_after_close_s, 60, 366 * 24 * 60 * 60),
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
        let keys = |section: &RedisSection, production| {
            section.problems(production).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let good = RedisSection { url: Some("redis://cache:6379/0".to_owned()), ..RedisSection::default() };
        assert_eq!(keys(&good, false), Vec::<String>::new());
        assert_eq!(keys(&good, true), ["redis.allow_plaintext"]);
        let trusted = RedisSection { allow_plaintext: true, ..good.clone() };
        assert_eq!(keys(&trusted, true), Vec::<String>::new());
        let wrong = RedisSection {
            url: Some("http://cache".to_owned()),
            key_prefix: "{x}".to_owned(),
            read_timeout_ms: 0,
            ..good
        };
        assert_eq!(keys(&wrong, false), ["redis.url", "redis.key_prefix", "redis.read_timeout_ms"]);
    }

    #[test]
    fn the_url_says_whether_it_is_tls_and_the_files_are_looked_at() {
        let problems = |url: &str, ca_file: Option<&str>| {
            let tls = TlsFiles { ca_file: ca_file.map(PathBuf::from), ..TlsFiles::default() };
            RedisSection { url: Some(url.to_owned()), tls, ..RedisSection::default() }.problems(true)
        };
        assert_eq!(problems("rediss://view:pw@cache:6379/0", None), []);
        let found = problems("rediss://cache:6379/0#insecure", None);
        assert_eq!(found[0].0, "redis.url");
        assert!(found[0].1.contains("#insecure"), "{found:?}");
        let found = problems("rediss://cache", Some("/nowhere/ca.pem"));
        assert_eq!(found[0].0, "redis.tls.ca_file");
        assert!(found[0].1.contains("/nowhere/ca.pem cannot be read"), "{found:?}");
        let found = problems("redis://cache", Some("/nowhere/ca.pem"));
        let keys: Vec<_> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["redis.allow_plaintext", "redis.tls.ca_file"]);
    }
}
