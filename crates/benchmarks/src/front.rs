//! The gateway: claims accepted and claims refused, as shares of a bare route.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use coupon_domain::limits::QUANTITY_MAX;
use e2e_tests::world::UserMint;
use e2e_tests::{CouponSpec, World, eventually};
use local_stack::Role;
use reqwest::StatusCode;
use serde_json::Value;

use crate::bare_route::BareRoute;
use crate::figure::Figure;
use crate::ground::{self, Ground};
use crate::plan::Plan;
use crate::presses::{Presses, Until};
use crate::report::Findings;
use crate::screen;

const GATEWAY: &str = "api-gateway";
/// A second gateway, whose Redis is not there.
const BLIND_GATEWAY: &str = "api-gateway-without-redis";
/// Nobody listens on the discard port: connections are refused, as by a host without Redis.
const NO_REDIS: &str = "redis://127.0.0.1:9";
const AGAINST: &str = "a bare \"ok\" route: same listener, workers and tokens";
/// At least this share of the bare route's requests.
const WANTED_ACCEPTED: f64 = 0.35;
const WANTED_REFUSED: f64 = 0.45;
const WANTED_REFUSED_BLINDLY: f64 = 0.7;

/// What is measured here.
#[derive(Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) accept: bool,
    pub(crate) refuse: bool,
}

/// Measures in turns and adds what was found. Returns the rate of accepted claims, where that was measured.
pub(crate) async fn measure(
    ground: &Ground,
    plan: &Plan,
    wishes: Wishes,
    findings: &mut Findings,
) -> Result<Option<f64>> {
    let mut world = ground.world()?;
    world.add_with(Role::ApiGateway, BLIND_GATEWAY, &[("FIRSTCOME__REDIS__URL", NO_REDIS)])?;
    ground::start(&mut world, &[Role::StockConsumer, Role::ApiGateway, Role::Notifier])?;
    world.wait_ready(BLIND_GATEWAY)?;
    let plenty = world.publish(&CouponSpec::of(QUANTITY_MAX)).await?;
    let sold_out = sell_out(&world).await?;
    // What is measured is the gateway: nobody decides meanwhile.
    world.stop(Role::StockConsumer.name())?;
    world.stop(Role::Notifier.name())?;

    let bare_route = BareRoute::start(&world.deployment.credentials).await?;
    let mint = world.user_mint();
    let (mut bare, mut accepted, mut refused, mut refused_blindly) = (vec![], vec![], vec![], vec![]);
    // The first round does not count: meanwhile Kafka compiles, on the same cores, what it will use from then on.
    for round in 0..=plan.rounds {
        screen::tell(&match round {
            0 => "accept, refuse: a round that does not count".to_owned(),
            _ => format!("accept, refuse: round {round} of {}", plan.rounds),
        });
        let tokens = tokens(&mint, &format!("round-{round}"), plan.users_per_round)?;
        let (warm_up, window) = (plan.warm_up(), plan.window());
        let presses = |address, coupon_id: &str, until| Presses {
            address,
            coupon_id: coupon_id.to_owned(),
            connections: plan.connections,
            tokens: Arc::clone(&tokens),
            until,
        };
        let again = Until::TimeIsUp { warm_up, window };
        bare.push(presses(bare_route.address(), &plenty, again).run().await?.rate_of(200)?);
        if wishes.accept {
            let once = Until::OncePerUser { warm_up, window };
            let pressed = presses(ground::address(&world, GATEWAY)?, &plenty, once).run().await?;
            accepted.push(pressed.rate_of(202)?);
        }
        if wishes.refuse {
            for (gateway, rates) in [(GATEWAY, &mut refused), (BLIND_GATEWAY, &mut refused_blindly)] {
                let pressed = presses(ground::address(&world, gateway)?, &sold_out, again).run().await?;
                rates.push(pressed.rate_of(409)?);
            }
        }
    }
    for rates in [&mut bare, &mut accepted, &mut refused, &mut refused_blindly] {
        rates.drain(..rates.len().min(1));
    }
    let mut accept_rate = None;
    if wishes.accept {
        let figure = Figure::alone("accepted", "claims/s", accepted).against(AGAINST, &bare, WANTED_ACCEPTED);
        accept_rate = Some(figure.value);
        findings.add(figure);
    }
    if wishes.refuse {
        let figure = |name, measured, wanted| {
            Figure::alone(name, "refusals/s", measured).against(AGAINST, &bare, wanted)
        };
        findings.add(figure("refused", refused, WANTED_REFUSED));
        findings.add(figure("refused_without_redis", refused_blindly, WANTED_REFUSED_BLINDLY));
    }
    findings.resident(ground::resident(&world, "accept, refuse", &[GATEWAY, BLIND_GATEWAY])?);
    Ok(accept_rate)
}

/// A coupon that is sold out, as both gateways know: one by its look at the view, one without.
async fn sell_out(world: &World) -> Result<String> {
    let coupon_id = world.publish(&CouponSpec::of(1)).await?;
    let winner = world.user("winner")?.press(&coupon_id).await?;
    ensure!(winner.status == StatusCode::ACCEPTED, "the first claim was answered {winner:?}");
    for (gateway, is_advisory) in [(GATEWAY, false), (BLIND_GATEWAY, true)] {
        let mut number = 0;
        eventually("the gateway refuses what is sold out", async || {
            number += 1;
            let answer = world.user_at(&format!("late-{number}"), gateway)?.press(&coupon_id).await?;
            let advisory = answer.body.get("advisory").and_then(Value::as_bool);
            let refuses = answer.code() == "sold_out" && advisory.unwrap_or(false) == is_advisory;
            Ok(refuses.then_some(()))
        })
        .await
        .with_context(|| gateway.to_owned())?;
    }
    Ok(coupon_id)
}

/// Tokens of so many users of this name.
pub(crate) fn tokens(mint: &UserMint, name: &str, count: u32) -> Result<Arc<[String]>> {
    (0..count).map(|number| mint.mint(&format!("{name}-{number}"))).collect()
}
