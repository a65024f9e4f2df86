//! The parts of the configuration that all services share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use coupon_domain::{Key, KeyId, KeyRing};
use serde::{Deserialize, Serialize};

use crate::config::Problem;
use crate::trace::TraceSection;

/// What an installation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Refuses whatever would be careless where people rely on it.
    #[default]
    Prod,
    /// One machine, one copy of everything, secrets in the open.
    Dev,
}

impl Profile {
    /// True where people rely on it.
    #[must_use]
    pub fn is_production(self) -> bool {
        self == Self::Prod
    }
}

/// The `ops` section: the listener for probes and metrics, never behind an ingress.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpsSection {
    /// Address and port.
    pub listen: SocketAddr,
    /// A loop that has not turned for longer fails `/livez`, in ms.
    pub loop_stall_ms_max: u32,
    /// How long draining may take after a signal, in ms. Longer: exit code 4.
    pub drain_ms_max: u32,
}

impl Default for OpsSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 9090)),
            loop_stall_ms_max: 15_000,
            drain_ms_max: 15_000,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The `log` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// Unset: JSON in prod, text in dev.
    pub format: Option<LogFormat>,
    /// What is logged, as tracing's directives: `info,notifier=debug`. `PUT /log-filter` changes it while running.
    pub filter: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: None, filter: "info".to_owned() }
    }
}

/// The `keys` section: the secrets behind claim ids and coupon codes, by id.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysSection {
    /// Secrets by key id; in prod from `secret_files`.
    pub secrets: BTreeMap<String, String>,
    /// Files with secrets, by key id.
    pub secret_files: BTreeMap<String, PathBuf>,
}

impl KeysSection {
    /// The keys.
    ///
    /// # Errors
    /// Everything that is wrong with ids and secrets, at once.
    pub fn ring(&self) -> Result<KeyRing, Vec<Problem>> {
        let (mut keys, mut problems) = (BTreeMap::new(), Vec::new());
        for (id, secret) in &self.secrets {
            let path = format!("keys.secrets.{id}");
            match (id.parse::<KeyId>(), Key::from_secret(secret.as_bytes())) {
                (Ok(id), Ok(key)) => {
                    keys.insert(id, key);
                }
                (id, key) => {
                    problems.extend(id.err().map(|error| Problem::new(&path, error.to_string())));
                    problems.extend(key.err().map(|error| Problem::new(&path, error.to_string())));
                }
            }
        }
        if self.secrets.is_empty() {
            problems.push(Problem::new("keys.secrets", "must hold at least one key (or secret_files)"));
        }
        if problems.is_empty() { Ok(KeyRing::new(keys)) } else { Err(problems) }
    }
}

/// What the boot path needs of every configuration.
#[derive(Clone, Copy)]
pub struct RuntimeSections<'a> {
    /// What the installation is for.
    pub profile: Profile,
    /// The ops listener.
    pub ops: &'a OpsSection,
    /// The logs.
    pub log: &'a LogSection,
    /// Traces, where claims pass through.
    pub trace: Option<&'a TraceSection>,
}

impl RuntimeSections<'_> {
    /// Everything that is wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let ranges = [
            ("ops.loop_stall_ms_max", self.ops.loop_stall_ms_max, 3_000, 600_000),
            ("ops.drain_ms_max", self.ops.drain_ms_max, 1_000, 600_000),
        ];
        for (path, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                problems.push(Problem::new(path, format!("must be {least}..={most}, is {value}")));
            }
        }
        let production = self.profile.is_production();
        problems.extend(self.trace.into_iter().flat_map(|trace| trace.problems(production)));
        if let Err(error) = crate::logs::parse_filter(&self.log.filter) {
            problems.push(Problem::new("log.filter", format!("cannot be read: {error}")));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_key_is_named() {
        let section = KeysSection {
            secrets: [("k1".to_owned(), "x".repeat(32)), ("K 2".to_owned(), "short".to_owned())].into(),
            ..KeysSection::default()
        };
        let problems = section.ring().unwrap_err();
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().all(|problem| problem.path == "keys.secrets.K 2"));
        assert_eq!(KeysSection::default().ring().unwrap_err().len(), 1);
    }
}
