use anyhow::{Context, Result, ensure};
use e2e_tests::world::random;
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use local_stack::{Role, ServiceSpec, Supervised};
use reqwest::StatusCode;

const KEY_A: &str = "FIRSTCOME__KEYS__SECRETS__K1";
const KEY_B: &str = "FIRSTCOME__KEYS__SECRETS__K2";
const GATEWAY_B: &str = "api-gateway-b";
const WRITER_B: &str = "db-writer-b";

/// A coupon keeps the key it was published with. Whoever does not hold it serves the coupons of other keys, and says by name what it lacks: a
/// gateway 503, a db-writer by halting the coupon's partition until it gets the key.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let secret_b = random();
        let settings =
            vec![(Role::Notifier, KEY_B, secret_b.clone()), (Role::DbWriter, KEY_B, secret_b.clone())];
        let mut world = World::start(WorldSpec { settings, ..WorldSpec::default() })?;
        let coupon_a = world.publish(&CouponSpec::of(2)).await?;

        let gateway_b = ServiceSpec::new(Role::ApiGateway).instance(GATEWAY_B).without(KEY_A);
        world.add_spec(gateway_b.env(KEY_B, secret_b).env("FIRSTCOME__KEYS__ACTIVE_ID", "k2"))?;
        world.wait_ready(GATEWAY_B)?;
        let coupon_b = world.draft(&CouponSpec::of(2)).await?;
        publish_at_b(&world, &coupon_b).await?;
        ensure!(partition(&coupon_a)? != partition(&coupon_b)?, "each has a line of its own");

        gateways(&world, &coupon_a, &coupon_b).await?;
        writer(&mut world, &coupon_a, &coupon_b).await?;
        oracle::verify(&world).await?;
        Ok(())
    })
}

async fn publish_at_b(world: &World, coupon_b: &str) -> Result<()> {
    let path = format!("/admin/v1/coupons/{coupon_b}/publish");
    let headers = [("Idempotency-Key", "publish"), ("Prefer", "wait=30")];
    let published = world.operator_at(GATEWAY_B)?.post(&path, &headers, None).await?;
    ensure!(published.code() == "applied", "{published:?}");
    for gateway in [Role::ApiGateway.name(), GATEWAY_B] {
        let operator = world.operator_at(gateway)?;
        eventually("the gateway knows the coupon", async || {
            let shown = operator.get(&format!("/admin/v1/coupons/{coupon_b}"), &[]).await?;
            Ok((shown.text("key_id") == "k2").then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Each gateway takes claims of the coupon whose key it holds, and says what it lacks for the other.
async fn gateways(world: &World, coupon_a: &str, coupon_b: &str) -> Result<()> {
    let cases = [(GATEWAY_B, coupon_a, coupon_b), (Role::ApiGateway.name(), coupon_b, coupon_a)];
    for (gateway, without_key, with_key) in cases {
        let (user, operator) = (world.user_at("ann", gateway)?, world.operator_at(gateway)?);
        let pause = format!("/admin/v1/coupons/{without_key}/pause");
        let refusals = [
            user.press(without_key).await?,
            user.gateway.get(&format!("/v1/coupons/{without_key}/claims/mine"), &[]).await?,
            operator.post(&pause, &[("Idempotency-Key", "pause")], None).await?,
        ];
        for refused in refusals {
            ensure!(refused.status == StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
            ensure!(refused.code() == "unavailable", "{refused:?}");
            ensure!(refused.text("detail") == "this gateway does not hold the coupon's key", "{refused:?}");
        }
        let shown = user.gateway.get(&format!("/v1/coupons/{without_key}"), &[]).await?;
        ensure!(shown.status == StatusCode::OK && shown.text("status") == "open", "{shown:?}");
        ensure!(user.press_to_the_end(with_key).await? == "granted");
    }
    Ok(())
}

/// A db-writer without the key cannot mint the coupon's codes: it writes nothing of that line, goes on with the others, and catches up.
async fn writer(world: &mut World, coupon_a: &str, coupon_b: &str) -> Result<()> {
    world.wait_until_stored().await?;
    world.stop(Role::DbWriter.name())?;
    world.add_spec(ServiceSpec::new(Role::DbWriter).instance(WRITER_B).without(KEY_A))?;
    let bob_at_a = world.user("bob")?;
    let bob_at_b = world.user_at("bob", GATEWAY_B)?;
    ensure!(bob_at_a.press_to_the_end(coupon_a).await? == "granted", "deciding needs no key");
    ensure!(bob_at_b.press_to_the_end(coupon_b).await? == "granted");

    let series = format!(
        r#"coupon_partition_halted{{partition="{}",reason="key_missing",service="db-writer"}} 1"#,
        partition(coupon_a)?
    );
    eventually("the partition halts by name", async || {
        Ok(world.metrics(WRITER_B).await?.contains(&series).then_some(()))
    })
    .await?;
    let unready = world.wait_until_unready(WRITER_B, "key_missing").await?;
    ensure!(unready.contains("needs key k1"), "{unready}");
    eventually("the other line is written", async || {
        let query = "select count(*), count(distinct coupon_id) from issued_coupons where user_id = 'bob'";
        Ok((world.sql(query)? == "1|1").then_some(()))
    })
    .await?;

    world.stop(WRITER_B)?;
    world.service(Role::DbWriter.name())?.restart()?;
    world.wait_ready(Role::DbWriter.name())?;
    world.wait_until_stored().await?;
    let issued = world.sql("select count(*) from issued_coupons")?;
    ensure!(issued == "4", "{issued} coupons are issued");
    Ok(())
}

fn partition(coupon_id: &str) -> Result<&str> {
    let named = coupon_id.strip_prefix('c').and_then(|rest| rest.split_once('-'));
    Ok(named.context("a coupon id names its partition")?.0)
}
