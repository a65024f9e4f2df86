//! `couponctl audit`: one pass of the audit, as a table.

use std::time::{Duration, Instant};

use audit::{Begin, Findings, Installation, Pass, Progress, Spill, View, inspect};
use clap::Args;
use coupon_domain::CouponId;
use infrastructure_redis::ViewMaintenance;
use serde_json::{Value, json};

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

/// How long it waits before it looks once more for what was behind.
const REST_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Audit {
    /// Only this coupon: of PostgreSQL and Redis nothing is read but what is its own, and its partition's logs; may be repeated.
    #[arg(long, value_name = "COUPON_ID")]
    coupon: Vec<CouponId>,
    /// The installation is at rest: whatever is still behind after --rest-s-max is a violation.
    #[arg(long)]
    quiet: bool,
    /// With --quiet: how long everybody may take to come to rest, in seconds. Views and states are refreshed every 10 s.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    rest_s_max: u16,
    /// Leave Redis out.
    #[arg(long)]
    without_redis: bool,
}

pub(crate) async fn run(audit: &Audit, settings: &Settings, output: Output) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(audit.rest_s_max.into());
    let pass = loop {
        let pass = look(audit, settings).await?;
        if !pass.findings.only_late() || Instant::now() >= deadline {
            break pass;
        }
        tokio::time::sleep(REST_INTERVAL).await;
    };
    report(&pass, audit, output);
    match pass.findings.verdict() {
        verdict if verdict.is_empty() => Ok(()),
        verdict => Err(Failure::BrokenPromise(verdict)),
    }
}

async fn look(audit: &Audit, settings: &Settings) -> Result<Pass, Failure> {
    let (connection, layout) = settings.kafka()?;
    let postgres = settings.postgres()?;
    let (mut findings, spill) = (Findings::new(audit.quiet), Spill::default());
    let only = audit.coupon.iter().copied().collect();
    let maintenance = match audit.without_redis {
        true => None,
        false => Some(ViewMaintenance::new(&settings.redis()?).map_err(failed("connecting to Redis"))?),
    };
    let view = match &maintenance {
        None => None,
        Some(maintenance) => {
            Some(View::read(maintenance, &spill, &only, &mut findings).await.map_err(could_not)?)
        }
    };
    // Without keys everything but the codes of coupons is compared.
    let keys = settings.keys().ok();
    let sources = Installation {
        connection: &connection,
        layout: &layout,
        postgres: &postgres,
        view: maintenance.as_ref(),
        keys: keys.as_ref(),
        spill: &spill,
        only: &only,
    };
    inspect(&sources, view, findings, Begin::AtTheBeginning).await.map_err(could_not)
}

fn could_not(error: audit::AuditError) -> Failure {
    Failure::Failed(error.to_string())
}

fn report(pass: &Pass, audit: &Audit, output: Output) {
    let Pass { findings, progress, ledger, of_coupon, .. } = pass;
    let promises = findings.lines();
    if output == Output::Json {
        let coupons: serde_json::Map<String, Value> =
            of_coupon.iter().map(|(coupon_id, ledger)| (coupon_id.to_string(), ledger.to_json())).collect();
        output.one(&json!({
            "promises": promises,
            "partitions": progress.iter().map(Progress::to_json).collect::<Vec<_>>(),
            "ledger": ledger.to_json(),
            "coupons": coupons,
            "notes": findings.notes(),
            "peak_memory_bytes": peak_memory_bytes(),
        }));
        return;
    }
    let rows: Vec<Value> = promises.iter().map(promise_row).collect();
    output.many(&rows, &["promise", "verdict", "violations", "checked"]);
    for promise in &promises {
        for example in promise.get("examples").and_then(Value::as_array).into_iter().flatten() {
            let id = promise.get("promise").and_then(Value::as_str).unwrap_or_default();
            output.note(&format!("{id}: {}", example.as_str().unwrap_or_default()));
        }
    }
    for progress in progress {
        output.note(&progress.to_string());
    }
    for note in findings.notes() {
        output.note(&format!("note: {note}"));
    }
    output.note(&format!("ledger: {ledger}"));
    for coupon_id in &audit.coupon {
        let ledger = of_coupon.get(coupon_id).copied().unwrap_or_default();
        output.note(&format!("{coupon_id}: {ledger}"));
    }
    if findings.verdict().is_empty() {
        let known =
            if findings.quiet() { "and everybody agrees at rest" } else { "at each store's own watermark" };
        match findings.unproven() {
            unproven if unproven.is_empty() => output.note(&format!("audit: every promise holds, {known}")),
            unproven => output
                .note(&format!("audit: nothing is broken, {known}; nothing was there to prove {unproven}")),
        }
    }
}

/// The most memory that this process has had, as Linux tells it.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn promise_row(promise: &Value) -> Value {
    let checked = promise.get("checked").and_then(Value::as_object);
    let checked: Vec<String> =
        checked.into_iter().flatten().map(|(what, count)| format!("{count} {what}")).collect();
    let mut row = promise.clone();
    if let Some(members) = row.as_object_mut() {
        members.insert("checked".to_owned(), Value::String(checked.join(", ")));
    }
    row
}
