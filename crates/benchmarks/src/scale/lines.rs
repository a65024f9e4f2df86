//! Few lines and many, in one stock-consumer and one db-writer.

use std::time::Instant;

use anyhow::Result;
use local_stack::Role;

use crate::figure::{Figure, per_second};
use crate::ground::{self, Ground};
use crate::report::Findings;
use crate::scale::Sizes;
use crate::scale::usage::{pid_of, sockets, threads};
use crate::scale::work::Crowd;
use crate::screen;

const QUANTITY: u32 = 100;
/// Batches shrink with the share of a line, and each waits for its acknowledgement.
const WANTED: f64 = 0.5;
const AGAINST_FEW: &str = "as many claims in few lines";

pub(crate) async fn measure(ground: &Ground, sizes: &Sizes, findings: &mut Findings) -> Result<()> {
    let mut rates = Vec::new();
    for lines in sizes.lines {
        screen::tell(&format!("e: {lines} lines"));
        let mut world = ground.world_of(lines)?;
        let began = Instant::now();
        ground::start(&mut world, &[Role::StockConsumer, Role::DbWriter])?;
        let ready = began.elapsed().as_secs_f64();
        findings.add(Figure::alone(format!("ready_with_{lines}_lines"), "s", vec![ready]));
        let crowd = Crowd::of(&world, lines)?;
        let coupons = crowd.publish(lines, QUANTITY)?;
        crowd.wait_for_outcomes(lines).await?;
        crowd.wait_for_rows(lines).await?;
        let began = Instant::now();
        crowd.claim(&coupons, 0..sizes.claims_in_lines)?;
        crowd.wait_for_outcomes(lines + sizes.claims_in_lines).await?;
        rates.push(per_second(sizes.claims_in_lines.into(), began.elapsed()));
        crowd.wait_for_rows(lines + sizes.claims_in_lines).await?;
        for name in [Role::StockConsumer, Role::DbWriter].map(Role::name) {
            let pid = pid_of(&world, name)?;
            let counts = [("threads", threads(pid)?), ("sockets", sockets(pid)?)];
            for (what, count) in counts {
                findings.add(Figure::alone(format!("{name}_{lines}_lines"), what, vec![count.into()]));
            }
        }
        let connections =
            world.sql("select count(*) from pg_stat_activity where datname = current_database()")?;
        let connections: f64 = connections.trim().parse()?;
        findings.add(Figure::alone(format!("postgres_{lines}_lines"), "connections", vec![connections]));
        let names = [Role::StockConsumer, Role::DbWriter].map(Role::name);
        findings.resident(ground::resident(&world, &format!("{lines} lines"), &names)?);
        crowd.audit()?;
        drop(crowd);
        world.deployment.namespace.drop_database(world.servers())?;
    }
    if let [few, many] = rates[..] {
        let [_, lines] = sizes.lines;
        let rate = Figure::alone(format!("decided_in_{lines}_lines"), "claims/s", vec![many]);
        findings.add(rate.against(AGAINST_FEW, &[few], WANTED));
    }
    Ok(())
}
