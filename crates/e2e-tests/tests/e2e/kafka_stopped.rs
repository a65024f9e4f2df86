use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, User, World, WorldSpec, eventually, oracle};
use local_stack::{Role, Supervised};
use reqwest::StatusCode;
use tokio::task::JoinSet;

const USERS: usize = 40;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let settings = vec![(Role::ApiGateway, "FIRSTCOME__KAFKA__MESSAGE_TIMEOUT_MS", "1500".to_owned())];
        let world = World::start(WorldSpec { own_servers: true, settings, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(10)).await?;
        let mut winners = Vec::new();
        for name in ["before", "meanwhile", "afterwards"] {
            let user = world.user(name)?;
            let claim_id = user.win(&coupon_id).await?;
            winners.push((user, claim_id));
        }
        redeem(&winners[0]).await?;
        let kafka = world.servers().kafka()?;
        kafka.kill()?;

        let mut crowd = JoinSet::new();
        for number in 0..USERS {
            let (user, coupon_id) = (world.user(&format!("user-{number}"))?, coupon_id.clone());
            crowd.spawn(async move { user.press(&coupon_id).await });
        }
        while let Some(answer) = crowd.join_next().await {
            let answer = answer??;
            ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
            ensure!(["in_doubt", "overloaded", "not_accepted"].contains(&answer.code()), "{answer:?}");
            let claim_id = answer.text("claim_id");
            ensure!(answer.location.as_deref() == Some(world.claim_url(claim_id)?.as_str()), "{answer:?}");
        }
        // No lost dependency fails readiness or liveness: our 503 beats a proxy's 502.
        for probe in ["readyz", "livez"] {
            let url = format!("{}/{probe}", world.service(Role::ApiGateway.name())?.ops_url());
            ensure!(reqwest::get(url).await?.status() == StatusCode::OK, "{probe}");
        }

        redeeming_needs_kafka_only_on_a_new_connection(&world, &winners[1], &winners[2]).await?;

        kafka.start_again()?;
        eventually("the last winner redeems", async || Ok(redeem(&winners[2]).await.ok())).await?;
        let back = world.user("back")?;
        let pressed = eventually("claims are accepted again", async || {
            let pressed = back.press(&coupon_id).await?;
            // A press that was in doubt may have landed all the same; the next one reads its answer.
            Ok([StatusCode::ACCEPTED, StatusCode::OK].contains(&pressed.status).then_some(pressed))
        })
        .await?;
        ensure!(back.answer(pressed.text("claim_id")).await?.code() == "granted");
        // Whatever happened to the claims in doubt is found at their Location: pressing again is safe.
        for number in 0..USERS {
            let code = world.user(&format!("user-{number}"))?.press_to_the_end(&coupon_id).await?;
            ensure!(["granted", "sold_out"].contains(&code.as_str()), "user {number} was told {code}");
        }
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == 10, "{report}");
        Ok(())
    })
}

type Winner = (User, String);

async fn redeem((user, claim_id): &Winner) -> Result<()> {
    let answer = user.redeem(claim_id, "key", "order-1").await?;
    ensure!([StatusCode::CREATED, StatusCode::OK].contains(&answer.status), "{answer:?}");
    Ok(())
}

/// On a connection that was there when everything published was known, redeeming goes on. What is behind a new one nobody can tell: so nothing is
/// redeemed there.
async fn redeeming_needs_kafka_only_on_a_new_connection(
    world: &World,
    on_old: &Winner,
    on_new: &Winner,
) -> Result<()> {
    redeem(on_old).await?;
    let everybody = "select pg_terminate_backend(pid) from pg_stat_activity \
        where datname = current_database() and pid <> pg_backend_pid()";
    world.sql(everybody)?;
    let (user, claim_id) = on_new;
    eventually("the gateway is connected to PostgreSQL again", async || {
        let answer = user.redeem(claim_id, "key", "order-1").await?;
        ensure!(answer.code() == "unavailable", "{answer:?}");
        Ok(answer.text("detail").contains("coupon.persisted").then_some(()))
    })
    .await?;
    let wallet = user.wallet("").await?;
    ensure!(wallet.body["coupons"][0]["status"] == "issued", "{wallet:?}");
    Ok(())
}
