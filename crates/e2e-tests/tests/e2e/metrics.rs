use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually};
use local_stack::Role;
use service_runtime::catalogue;

/// Most series of a process.
const SERIES_MAX: usize = 3_000;

/// Each process shows exactly its rows of the catalogue, with its own name and the catalogue's types, and not too many series.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec::default())?;
        world.add(Role::Reconciler, Role::Reconciler.name())?;
        world.wait_ready(Role::Reconciler.name())?;
        let coupon_id = world.publish(&CouponSpec::of(1)).await?;
        // Routes, operations and coupons have series once they were met.
        world.user("winner")?.win(&coupon_id).await?;
        for role in Role::ALL.into_iter().chain([Role::Reconciler]) {
            let name = role.name();
            let rows: BTreeSet<String> = catalogue::ALL
                .iter()
                .filter(|metric| metric.is_of(name))
                .map(|metric| format!("coupon_{}", metric.name))
                .collect();
            // Brokers have theirs with the client's first statistics.
            let metrics = eventually(&format!("{name} shows its rows"), async || {
                let metrics = world.metrics(name).await?;
                let shown = shown(&metrics);
                let unknown: Vec<&String> = shown.difference(&rows).collect();
                ensure!(unknown.is_empty(), "{name} shows what the catalogue does not give it: {unknown:?}");
                Ok((shown == rows).then_some(metrics))
            })
            .await;
            let metrics = match metrics {
                Ok(metrics) => metrics,
                Err(error) => {
                    let missing: Vec<String> =
                        rows.difference(&shown(&world.metrics(name).await?)).cloned().collect();
                    anyhow::bail!("{error}; missing: {missing:?}");
                }
            };
            let series: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
            ensure!(series.len() <= SERIES_MAX, "{name} has {} series", series.len());
            let label = format!(r#"service="{name}""#);
            for line in series.iter().filter(|line| line.starts_with("coupon_")) {
                ensure!(line.contains(&label), "{line}");
            }
        }
        Ok(())
    })
}

/// The names that have series; those of the process itself left out.
fn shown(metrics: &str) -> BTreeSet<String> {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| !name.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}
