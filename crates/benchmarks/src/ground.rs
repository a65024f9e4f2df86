//! The servers of a run, and worlds on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e_tests::{World, WorldSpec};
use local_stack::{ExternalServers, Role, Servers, ServersOptions, Supervised};

use crate::memory::Resident;

/// A deadline that only a broken system misses.
pub(crate) const GENEROUS: Duration = Duration::from_secs(120);
/// One coupon is decided by one line: everything here is about one.
const PARTITIONS: u32 = 1;

/// Kafka, PostgreSQL and Redis: those that the environment names, else our own for this run.
pub(crate) struct Ground(Arc<Servers>);

impl Ground {
    pub(crate) fn start() -> Result<Self> {
        let external = ExternalServers::from_environment();
        // As in production, a commit waits for the disk.
        let options = ServersOptions { external, sync: true, ..ServersOptions::default() };
        Ok(Self(Arc::new(Servers::start(options)?)))
    }

    /// A world of its own, without services.
    pub(crate) fn world(&self) -> Result<World> {
        self.world_of(PARTITIONS)
    }

    /// The same with so many lines.
    pub(crate) fn world_of(&self, partitions: u32) -> Result<World> {
        World::prepare_on(Arc::clone(&self.0), WorldSpec { partitions, ..WorldSpec::default() })
    }
}

/// Starts services under the names of their roles, and waits until they are ready.
pub(crate) fn start(world: &mut World, roles: &[Role]) -> Result<()> {
    for role in roles {
        let notifier = world.service(Role::Notifier.name()).ok().and_then(local_stack::Service::api_url);
        match (role, notifier) {
            (Role::ApiGateway, Some(url)) => {
                world.add_with(*role, role.name(), &[("FIRSTCOME__CLAIMS__NOTIFIER_URL", url.as_str())])?;
            }
            _ => world.add_with(*role, role.name(), &[])?,
        }
    }
    for role in roles {
        world.service(role.name())?.wait_ready(GENEROUS)?;
    }
    Ok(())
}

/// What the services hold at the end of a phase.
pub(crate) fn resident(world: &World, phase: &str, names: &[&str]) -> Result<Vec<Resident>> {
    names
        .iter()
        .map(|name| {
            let pid = world.service(name)?.pid().with_context(|| format!("{name} does not run"))?;
            Resident::of(pid, phase, name)
        })
        .collect()
}

/// Where a service's user API listens.
pub(crate) fn address(world: &World, name: &str) -> Result<SocketAddr> {
    let url = world.service(name)?.api_url().with_context(|| format!("{name} has no user API"))?;
    url.trim_start_matches("http://").parse().with_context(|| url.clone())
}
