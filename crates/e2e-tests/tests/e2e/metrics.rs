use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually};
use local_stack::Role;
use service_runtime::catalogue;

/// Most series of a process.
const SERIES_MAX: usize = 3_000;

/// Metrics whose labels are closed sets: all of their series exist from the start.
const CLOSED: [&str; 9] = [
    "http_request_seconds_count",
    "postgres_seconds_count",
    "redis_seconds_count",
    "kafka_delivery_seconds_count",
    "limit_hits_total",
    "queue_depth",
    "claims_total",
    "decisions_total",
    "rows_written_total",
];

/// Some of them, by process: what is quiet reads 0.
const QUIET: [(&str, &str); 10] = [
    (
        "api-gateway",
        r#"http_request_seconds_count{route="/v1/me/coupons",service="api-gateway",status="5xx"} 0"#,
    ),
    ("api-gateway", r#"http_request_seconds_count{route="none",service="api-gateway",status="4xx"} 0"#),
    ("api-gateway", r#"postgres_seconds_count{operation="redeem",result="timeout",service="api-gateway"} 0"#),
    ("api-gateway", r#"redis_seconds_count{operation="prefilter",result="error",service="api-gateway"} 0"#),
    ("api-gateway", r#"limit_hits_total{limit="producer_messages",service="api-gateway"} 0"#),
    ("stock-consumer", r#"queue_limit{queue="producer_messages",service="stock-consumer"} 200000"#),
    ("stock-consumer", r#"queue_depth{queue="view_deferrals",service="stock-consumer"} 0"#),
    ("db-writer", r#"queue_limit{queue="handover_batches",service="db-writer"} 2"#),
    ("db-writer", r#"postgres_seconds_count{operation="write_batch",result="error",service="db-writer"} 0"#),
    ("notifier", r#"queue_limit{queue="postgres_pool",service="notifier"} 8"#),
];

/// Each process shows exactly its rows of the catalogue, with its own name and the catalogue's types, and not too many series. Those of
/// closed sets are there before anything happens, and no other ones come.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec::default())?;
        world.add(Role::Reconciler, Role::Reconciler.name())?;
        world.wait_ready(Role::Reconciler.name())?;
        let mut at_first = BTreeMap::new();
        for role in Role::ALL {
            let metrics = world.metrics(role.name()).await?;
            for (_, series) in QUIET.iter().filter(|(service, _)| *service == role.name()) {
                let series = format!("coupon_{series}");
                ensure!(metrics.lines().any(|line| line == series), "{} lacks {series}", role.name());
            }
            at_first.insert(role.name(), closed_series(&metrics));
        }
        let coupon_id = world.publish(&CouponSpec::of(1)).await?;
        // Coupons have series once they were met.
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
            if let Some(at_first) = at_first.get(name) {
                let later = closed_series(&metrics);
                let came: Vec<&String> = later.difference(at_first).collect();
                ensure!(came.is_empty(), "{name} did not have from the start: {came:?}");
            }
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

/// The series of closed sets, without their values.
fn closed_series(metrics: &str) -> BTreeSet<String> {
    let of_closed_sets = metrics.lines().filter(|line| {
        let name = line.strip_prefix("coupon_").and_then(|rest| rest.split('{').next());
        name.is_some_and(|name| CLOSED.contains(&name))
    });
    of_closed_sets.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
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
