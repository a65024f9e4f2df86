//! The verdict on a world: `couponctl audit`, and the oracle, a program that shares no code with us; both recompute everything and must count the same.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use coupon_domain::CouponId;
use infrastructure_kafka::Topic;
use serde_json::Value;

use crate::world::World;

/// Audits the world, which must be at rest, and asks the oracle, which must find the same ledgers. The oracle's report.
///
/// # Errors
/// Either found something, with everything that it found.
pub async fn verify(world: &World) -> Result<Value> {
    world.wait_until_quiet().await?;
    let audited = world.deployment.couponctl(&["audit", "--quiet", "--output", "json"])?;
    let audited: Value = serde_json::from_str(&audited).context("the audit said no JSON")?;
    let report = judge(world, &["--quiet"])?;
    for counted in ["ledger", "coupons"] {
        let (audit, oracle) = (audited.get(counted), report.get(counted));
        ensure!(audit == oracle, "{counted}: the audit counts {audit:?}, the oracle {oracle:?}");
    }
    for (coupon_id, counted) in report.get("coupons").and_then(Value::as_object).into_iter().flatten() {
        // What retention took from the log only PostgreSQL still counts.
        let partition = coupon_id.trim_start_matches('c').split('-').next().unwrap_or_default();
        let whole = report.get("partitions").and_then(|lines| lines.get(partition)?.get("folded"));
        if whole == Some(&Value::Bool(true)) {
            compare_ledger(world, coupon_id, counted).await?;
        }
    }
    Ok(report)
}

/// The gateway counts the same, where there is one, of a coupon that it knows: what comes after the end of a retired one is counted nowhere.
async fn compare_ledger(world: &World, coupon_id: &str, counted: &Value) -> Result<()> {
    let Ok(operator) = world.operator() else { return Ok(()) };
    let Ok(coupon) = operator.get(&format!("/admin/v1/coupons/{coupon_id}"), &[]).await else {
        return Ok(());
    };
    if coupon.status.as_u16() != 200 || coupon.text("status") == "retired" {
        return Ok(());
    }
    let served = world.ledger(coupon_id).await?;
    let forgotten = answered_anew(world, coupon_id)?;
    for (column, count) in counted.as_object().into_iter().flatten() {
        let kept = match column.as_str() {
            "accepted" | "rejected" => count.as_u64().map(|count| count - forgotten),
            _ => count.as_u64(),
        };
        ensure!(
            served.get(column).and_then(Value::as_u64) == kept,
            "{column} of {coupon_id}: {served}, not {counted} without {forgotten} that are remembered nowhere"
        );
    }
    Ok(())
}

/// How many claims of the coupon were answered by what their user holds: in the log, and nowhere else.
fn answered_anew(world: &World, coupon_id: &str) -> Result<u64> {
    let partition = coupon_id.parse::<CouponId>()?.partition();
    let mut claims = HashSet::new();
    for outcome in world.records(Topic::Outcomes, partition.number())? {
        let is = |field: &str, value: Value| outcome.get(field) == Some(&value);
        if is("coupon_id", coupon_id.into())
            && is("code", "already_issued".into())
            && is("final", false.into())
        {
            claims.extend(outcome.get("claim_id").and_then(Value::as_str).map(str::to_owned));
        }
    }
    Ok(u64::try_from(claims.len())?)
}

/// Dumps the world and asks the oracle. Its report.
///
/// # Errors
/// It found something, with everything that it found.
pub fn judge(world: &World, arguments: &[&str]) -> Result<Value> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().display().to_string();
    world.deployment.couponctl(&["dump", "--out", &out])?;
    ask(directory.path(), arguments)
}

/// Asks the oracle about a dump.
///
/// # Errors
/// It found something, with everything that it found.
pub fn ask(dump: &Path, arguments: &[&str]) -> Result<Value> {
    let asked = Command::new("python3")
        .arg(program())
        .arg(dump)
        .arg("--json")
        .args(arguments)
        .output()
        .context("python3 could not be run")?;
    let report: Value = serde_json::from_slice(&asked.stdout)
        .with_context(|| format!("the oracle said no JSON: {}", String::from_utf8_lossy(&asked.stderr)))?;
    if !asked.status.success() {
        bail!("the oracle found something: {}", serde_json::to_string_pretty(&report)?);
    }
    Ok(report)
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../couponctl/oracle/oracle.py")
}
