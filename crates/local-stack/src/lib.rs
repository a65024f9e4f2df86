//! Real Apache Kafka, PostgreSQL and Redis, and our four services, as child processes on loopback. No Docker.
//!
//! Three users: `local-stack up` for people and the demo, `local-stack exec` for a test run, and this library for tests and
//! benchmarks. The README beside this crate has the picture.
//!
//! - [`servers_for_tests`] and [`namespace()`]: one set of servers for a whole test run, a part of it for each test.
//! - [`Servers::start`]: an own set, for tests that kill, flush or break a server.
//! - [`Deployment`]: our services on such servers.
//! - [`Supervised`]: what can be done to each process: kill, suspend, restart, read its log.
//! - [`Stack`]: the stack that outlives the command that started it.

mod account;
mod address;
mod cargo_build;
pub mod cli;
mod command;
mod credentials;
mod deployment;
mod encryption;
mod environment;
mod error;
mod http;
mod install;
mod kafka;
mod launch;
mod lock_file;
mod log_file;
mod namespace;
mod open_files;
mod ports;
mod postgres;
mod process;
mod redis;
mod scratch;
mod server;
mod servers;
mod services;
mod spawner;
mod stack;
mod state;
mod stop_request;
mod supervisor;
mod waiting;
mod workspace;

pub use cargo_build::{BuildProfile, binary, build_services, build_services_with};
pub use credentials::{Credentials, KEY_ID};
pub use deployment::{Deployment, Services};
pub use encryption::{Encryption, write_another_authority};
pub use error::Error;
pub use namespace::{Namespace, namespace};
pub use open_files::{OpenFiles, raise_open_files};
pub use ports::{PortLease, PortWish};
pub use process::ProcessIdentity;
pub use server::Server;
pub use servers::{ExternalServers, ServerPorts, Servers, ServersOptions, servers_for_tests};
pub use services::{Role, Service, ServiceSpec};
pub use stack::{ProcessStatus, Stack, StackStatus, Up, UpOptions};
pub use supervisor::{Supervised, Supervisor};
pub use waiting::eventually;
