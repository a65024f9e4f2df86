//! Many live coupons on one line, with a little traffic each, beside one coupon with all of it.

use std::time::Instant;

use anyhow::Result;
use infrastructure_kafka::Topic;
use local_stack::Role;

use crate::figure::{Figure, per_second};
use crate::ground::{self, Ground};
use crate::report::Findings;
use crate::scale::Sizes;
use crate::scale::work::Crowd;
use crate::screen;

const QUANTITY: u32 = 20;
const WANTED: f64 = 0.5;
const AGAINST_ONE: &str = "as many claims of one coupon";

pub(crate) async fn measure(ground: &Ground, sizes: &Sizes, findings: &mut Findings) -> Result<()> {
    let mut rates = Vec::new();
    for coupons in [1, sizes.coupons] {
        screen::tell(&format!("d: {coupons} live coupons"));
        let mut world = ground.world_of(1)?;
        ground::start(&mut world, &[Role::StockConsumer, Role::DbWriter, Role::Notifier, Role::ApiGateway])?;
        let crowd = Crowd::of(&world, 1)?;
        let published = crowd.publish(coupons, QUANTITY)?;
        crowd.wait_for_outcomes(coupons).await?;
        crowd.wait_for_rows(coupons).await?;
        let states = world.bounds(Topic::State, 0)?.end;
        let began = Instant::now();
        crowd.claim(&published, 0..sizes.claims_spread)?;
        crowd.wait_for_outcomes(coupons + sizes.claims_spread).await?;
        let took = began.elapsed();
        let states = u64::try_from(world.bounds(Topic::State, 0)?.end - states)?;
        crowd.wait_for_rows(coupons + sizes.claims_spread).await?;
        rates.push(per_second(sizes.claims_spread.into(), took));
        let name = format!("states_of_{coupons}");
        findings.add(Figure::alone(name, "records/s", vec![per_second(states, took)]));
        let roles = [Role::ApiGateway, Role::StockConsumer, Role::DbWriter, Role::Notifier];
        let names = roles.map(Role::name);
        findings.resident(ground::resident(&world, &format!("{coupons} coupons"), &names)?);
        crowd.audit()?;
        drop(crowd);
        world.deployment.namespace.drop_database(world.servers())?;
    }
    if let [one, many] = rates[..] {
        let name = format!("decided_over_{}", sizes.coupons);
        findings.add(Figure::alone(name, "claims/s", vec![many]).against(AGAINST_ONE, &[one], WANTED));
    }
    Ok(())
}
