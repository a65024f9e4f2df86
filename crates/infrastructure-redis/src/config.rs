//! The `redis` section of a service's configuration.

use std::path::PathBuf;

use redis::IntoConnectionInfo;
use serde::{Deserialize, Serialize};

/// The `redis` section.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisSection {
    /// `redis://user:password@host:port/database`; in prod from `url_file`.
    pub url: Option<String>,
    /// File with the URL.
    pub url_file: Option<PathBuf>,
    /// Prod refuses connections without TLS unless this says that the network is trusted.
    pub allow_plaintext: bool,
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
    /// How long a deferral (`not_open`, `paused`) stays in the view, in s.
    pub keep_deferral_s: u32,
}

impl Default for RedisSection {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            allow_plaintext: false,
            key_prefix: String::new(),
            read_timeout_ms: 50,
            write_timeout_ms: 2_000,
            connect_timeout_ms: 1_000,
            look_ups_in_flight_max: 4_096,
            keep_after_close_s: 24 * 60 * 60,
            keep_deferral_s: 60,
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
            Some(Ok(_)) => {}
        }
        if production && !self.allow_plaintext {
            let remedy =
                "set redis.allow_plaintext where the network is trusted: this release speaks no TLS to Redis";
            wrong("allow_plaintext", remedy.to_owned());
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
            ("keep_deferral_s", self.keep_deferral_s, 1, 24 * 60 * 60),
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
        let wrong = RedisSection {
            url: Some("http://cache".to_owned()),
            key_prefix: "{x}".to_owned(),
            read_timeout_ms: 0,
            ..good
        };
        assert_eq!(keys(&wrong, false), ["redis.url", "redis.key_prefix", "redis.read_timeout_ms"]);
    }
}
