//! What of the stack runs, and whether it answers.

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;
use url::Url;

use super::Stack;
use crate::encryption::Encryption;
use crate::error::Error;
use crate::http;
use crate::kafka;
use crate::postgres;
use crate::redis;
use crate::state::{Phase, State};

/// One server or service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// Its name in the stack.
    pub name: String,
    /// Its pid; `None` if it does not run or somebody else runs it.
    pub pid: Option<u32>,
    /// Whether it answered just now.
    pub ready: bool,
    /// What is to be said about it: `ready`, `ended`, or its last answer.
    pub state: String,
    /// Where its clients find it.
    pub address: String,
}

/// The stack as `local-stack status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackStatus {
    /// Whether `up` came to its end, all its processes run, and each answers.
    pub up: bool,
    /// Whether an `up` is at work or was interrupted.
    pub starting: bool,
    /// The state directory.
    pub directory: String,
    /// Every server and service.
    pub processes: Vec<ProcessStatus>,
}

/// Name in the stack, and the variable of `local-stack env` that has its address.
const ADDRESSES: [(&str, &str); 7] = [
    ("kafka", "KAFKA_BOOTSTRAP"),
    ("postgres", "DATABASE_URL"),
    ("redis", "REDIS_URL"),
    ("stock-consumer", "STOCK_CONSUMER_OPS_URL"),
    ("db-writer", "DB_WRITER_OPS_URL"),
    ("notifier", "NOTIFIER_OPS_URL"),
    ("api-gateway", "GATEWAY_OPS_URL"),
];

impl Stack {
    /// Asks every server and service, in its own protocol, whether it works.
    pub fn status(&self) -> Result<StackStatus, Error> {
        let state = self.state()?;
        let processes = state.as_ref().map(statuses).unwrap_or_default();
        let came_up = state.as_ref().is_some_and(|state| state.phase == Phase::Up);
        Ok(StackStatus {
            up: came_up && processes.iter().all(|process| process.ready),
            starting: state.is_some() && !came_up,
            directory: self.directory.display().to_string(),
            processes,
        })
    }
}

/// While `up` is at work there are processes without an address yet; an external server has an address and no process.
fn statuses(state: &State) -> Vec<ProcessStatus> {
    let authority = state.environment.get("FIRSTCOME__KAFKA__SSL_CA_FILE");
    let encryption = authority.and_then(|file| Encryption::of_authority(Path::new(file)));
    let of = |(name, variable): (&str, &str)| {
        let record = state.processes.iter().find(|record| record.name == name);
        let address = state.environment.get(variable);
        if record.is_none() && address.is_none() {
            return None;
        }
        let is_running = record.is_none_or(|record| state.is_running(record));
        let answer = match address {
            _ if !is_running => Err("ended".to_owned()),
            None => Err("starting".to_owned()),
            Some(address) => ask(name, address, encryption.as_ref()),
        };
        Some(ProcessStatus {
            name: name.to_owned(),
            pid: record.filter(|_| is_running).map(|record| record.identity.pid()),
            ready: answer.is_ok(),
            state: answer.err().unwrap_or_else(|| "ready".to_owned()),
            address: address.map(|address| without_password(address)).unwrap_or_default(),
        })
    };
    ADDRESSES.into_iter().filter_map(of).collect()
}

fn ask(name: &str, address: &str, encryption: Option<&Encryption>) -> Result<(), String> {
    match name {
        "kafka" => {
            address.split(',').try_for_each(|broker| kafka::ask_for_brokers(resolve(broker)?, encryption))
        }
        "postgres" => postgres::ask_for_login(resolve(&host_and_port(address, 5432)?)?, encryption),
        "redis" => {
            let url = Url::parse(address).map_err(|error| error.to_string())?;
            redis::ping(resolve(&host_and_port(address, 6379)?)?, url.password(), encryption)
        }
        _ => http::get(&format!("{address}/readyz")),
    }
}

fn host_and_port(url: &str, default_port: u16) -> Result<String, String> {
    let url = Url::parse(url).map_err(|error| error.to_string())?;
    let host = url.host_str().ok_or("no host in its URL")?;
    Ok(format!("{host}:{}", url.port().unwrap_or(default_port)))
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    use std::net::ToSocketAddrs as _;
    let mut found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    found.next().ok_or_else(|| format!("{address} has no address"))
}

fn without_password(address: &str) -> String {
    match Url::parse(address) {
        Ok(mut url) if url.password().is_some() => {
            // Refused only for URLs that cannot have a password.
            let _ = url.set_password(Some("***"));
            url.into()
        }
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords() {
        assert_eq!(without_password("redis://:secret@127.0.0.1:1"), "redis://:***@127.0.0.1:1");
        assert_eq!(without_password("127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(host_and_port("postgres://a@[::1]/b", 5432).unwrap(), "[::1]:5432");
    }
}
