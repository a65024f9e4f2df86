//! One coupon and ever more claims of it: what the next ones cost, what Redis holds, how a consumer starts again, what an audit and a reconciler take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_tests::{World, within};
use local_stack::Role;

use crate::figure::{Figure, per_second};
use crate::ground::{self, Ground};
use crate::memory::Resident;
use crate::report::Findings;
use crate::scale::Sizes;
use crate::scale::usage::{Cpu, children, load_seconds, pid_of, sum_of};
use crate::scale::work::{Crowd, PATIENCE};
use crate::screen;

const QUANTITY: u32 = 1_000;
const FLAT: f64 = 0.85;
const AGAINST_FEWEST: &str = "the same behind the fewest";

pub(crate) async fn measure(ground: &Ground, sizes: &Sizes, findings: &mut Findings) -> Result<()> {
    let mut world = ground.world_of(1)?;
    ground::start(&mut world, &[Role::StockConsumer, Role::DbWriter])?;
    let (mut claims, mut fewest) = (0, None);
    for size in &sizes.claims_of_one {
        screen::tell(&format!("a: one coupon of {size} claims"));
        let crowd = Crowd::of(&world, 1)?;
        let (mut coupons, redis) = (Vec::new(), redis_bytes(&world).await?);
        if claims == 0 {
            coupons = crowd.publish(1, QUANTITY)?;
            findings.note(&format!("a: coupon {}", coupons.first().context("no coupon")?));
        }
        let coupons = if coupons.is_empty() { vec![known(&world)?] } else { coupons };
        crowd.claim(&coupons, claims..*size)?;
        settle(&crowd, *size).await?;
        if *size > claims {
            let more = redis_bytes(&world).await? - redis;
            let per_claim = more / f64::from(*size - claims);
            findings.add(Figure::alone(format!("redis_per_claim_{size}"), "bytes", vec![per_claim]));
        }
        claims = *size;

        // What the next ones cost.
        let (cpu, began) = (Cpu::of(&world)?, Instant::now());
        crowd.claim(&coupons, claims..claims + sizes.claims_behind)?;
        claims += sizes.claims_behind;
        crowd.wait_for_outcomes(claims + 1).await?;
        let decided = began.elapsed();
        settle(&crowd, claims).await?;
        let cpu = Cpu::of(&world)?.since(cpu);
        let thousands = f64::from(sizes.claims_behind) / 1_000.0;
        let per_cpu_second = |seconds: f64| f64::from(sizes.claims_behind) / seconds.max(0.01);
        let decisions = per_second(sizes.claims_behind.into(), decided);
        let (fast, cheap) = (vec![decisions], vec![per_cpu_second(cpu.stock_consumer + cpu.db_writer)]);
        let (first_fast, first_cheap) = fewest.get_or_insert_with(|| (fast.clone(), cheap.clone())).clone();
        let fast = Figure::alone(format!("decided_behind_{size}"), "claims/s", fast);
        findings.add(fast.against(AGAINST_FEWEST, &first_fast, FLAT));
        let cheap = Figure::alone(format!("per_cpu_second_behind_{size}"), "claims", cheap);
        findings.add(cheap.against(AGAINST_FEWEST, &first_cheap, FLAT));
        for (who, seconds) in [
            ("consumer", cpu.stock_consumer),
            ("writer", cpu.db_writer),
            ("redis", cpu.redis),
            ("all", cpu.all),
        ] {
            let name = format!("cpu_{who}_behind_{size}");
            findings.add(Figure::alone(name, "ms per 1,000", vec![seconds * 1_000.0 / thousands]));
        }
        drop(crowd);
        restart(&mut world, *size, findings).await?;
        audit(&world, *size, findings).await?;
        reconcile(&mut world, *size, findings).await?;
    }
    Crowd::of(&world, 1)?.audit()?;
    Ok(world.deployment.namespace.drop_database(world.servers())?)
}

/// The one coupon, from the database.
fn known(world: &World) -> Result<coupon_domain::CouponId> {
    let unique = world.sql("select coupon_id from coupons")?;
    let partition = coupon_domain::Partition::new(0)?;
    Ok(coupon_domain::CouponId::new(partition, unique.trim().parse()?))
}

/// Everybody reflects so many claims and the command before them.
async fn settle(crowd: &Crowd<'_>, claims: u32) -> Result<()> {
    crowd.wait_for_outcomes(claims + 1).await?;
    crowd.wait_for_rows(claims + 1).await?;
    crowd.wait_for_view(claims + 1).await
}

async fn redis_bytes(world: &World) -> Result<f64> {
    let memory = world.redis(&["INFO", "memory"]).await?.context("Redis says nothing of its memory")?;
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
    used.context("Redis says nothing of what it uses")
}

/// A consumer that starts beside so many claims.
async fn restart(world: &mut World, size: u32, findings: &mut Findings) -> Result<()> {
    let name = Role::StockConsumer.name();
    world.stop(name)?;
    let began = Instant::now();
    ground::start(world, &[Role::StockConsumer])?;
    findings.add(Figure::alone(format!("ready_with_{size}"), "s", vec![began.elapsed().as_secs_f64()]));
    let loaded = load_seconds(world).await?;
    findings.add(Figure::alone(format!("checkpoint_with_{size}"), "s", vec![loaded]));
    let resident = Resident::of(pid_of(world, name)?, &format!("start {size}"), name)?;
    let peak = resident.peak_mib / resident.mib;
    findings.add(Figure::alone(format!("peak_to_resident_with_{size}"), "", vec![peak]));
    findings.resident(vec![resident]);
    Ok(())
}

/// An audit from outside, and the most memory that it had.
async fn audit(world: &World, size: u32, findings: &mut Findings) -> Result<()> {
    let began = Instant::now();
    let (mut peak, own) = (None::<Resident>, std::process::id());
    std::thread::scope(|scope| -> Result<()> {
        let auditing = scope.spawn(|| world.deployment.couponctl_within(PATIENCE, &["audit"]));
        while !auditing.is_finished() {
            for child in children(own)? {
                let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
                if name.trim() != "couponctl" {
                    continue;
                }
                if let Ok(resident) = Resident::of(child, &format!("audit {size}"), "couponctl")
                    && peak.as_ref().is_none_or(|peak| peak.peak_mib < resident.peak_mib)
                {
                    peak = Some(resident);
                }
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        // Whoever still moves is no broken promise; the end of the section asks once more, at rest.
        drop(auditing.join());
        Ok(())
    })?;
    findings.add(Figure::alone(format!("audit_of_{size}"), "s", vec![began.elapsed().as_secs_f64()]));
    findings.resident(peak.into_iter().collect());
    Ok(())
}

/// The first pass of a reconciler that starts beside so many claims.
async fn reconcile(world: &mut World, size: u32, findings: &mut Findings) -> Result<()> {
    let name = Role::Reconciler.name();
    ground::start(world, &[Role::Reconciler])?;
    let metrics = within(PATIENCE, "the reconciler has passed once", async || {
        let metrics = world.metrics(name).await?;
        let sum = |label| sum_of(&metrics, "coupon_reconcile_passes_total", label);
        let (passed, clean) = (sum(""), sum(r#"result="clean""#));
        ensure!(passed == clean, "a pass of the reconciler was not clean");
        Ok((passed > 0.0).then_some(metrics))
    })
    .await?;
    let seconds = sum_of(&metrics, "coupon_reconcile_pass_seconds", "");
    findings.add(Figure::alone(format!("reconciled_{size}"), "s", vec![seconds]));
    findings.resident(ground::resident(world, &format!("reconcile {size}"), &[name])?);
    world.stop(name)
}
