use anyhow::{Result, ensure};
use couponctl::api::Answer;
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use local_stack::{Role, Supervised};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// The same command twice has one effect, also across a crash and after the coupon is retired; of two operators who saw the same version one is told so.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(1)).await?;
        let more = Some(json!({"delta": 2}));
        let restock = async || world.try_command(&coupon_id, "restock", more.clone(), "more").await;
        let first = restock().await?;
        ensure!(first.code() == "applied" && first.body["version"] == 2, "{first:?}");
        is_the_same(&first, &restock().await?)?;
        ensure!(quantity(&world, &coupon_id).await? == 3, "the restock counted once");
        let other = world.try_command(&coupon_id, "restock", Some(json!({"delta": 5})), "more").await?;
        ensure!(other.code() == "idempotency_key_reused", "another body under the same key: {other:?}");
        ensure!(other.status == StatusCode::UNPROCESSABLE_ENTITY, "{other:?}");

        world.wait_until_stored().await?;
        let stock_consumer = world.service(Role::StockConsumer.name())?;
        stock_consumer.kill()?;
        stock_consumer.restart()?;
        world.wait_ready(Role::StockConsumer.name())?;
        is_the_same(&first, &restock().await?)?;
        ensure!(quantity(&world, &coupon_id).await? == 3, "nor does a crash forget it");

        // Two operators look at version 2, and both act on it.
        let (one, other) = tokio::join!(
            on_version(&world, &coupon_id, "pause", 2, "first operator"),
            on_version(&world, &coupon_id, "close", 2, "second operator")
        );
        let mut codes = [one?.code().to_owned(), other?.code().to_owned()];
        codes.sort();
        ensure!(codes == ["applied", "version_mismatch"], "{codes:?}");

        let closed = world.try_command(&coupon_id, "close", None, "the-end").await?;
        ensure!(["applied", "no_change"].contains(&closed.code()), "{closed:?}");
        world.command(&coupon_id, "retire", None).await?;
        world.wait_until_stored().await?;
        is_the_same(&first, &restock().await?)?;
        let late = world.try_command(&coupon_id, "restock", Some(json!({"delta": 5})), "too-late").await?;
        ensure!(late.code() == "refused", "a new command on a retired coupon: {late:?}");
        world.wait_until_stored().await?;
        ensure!(world.sql("select quantity, status from coupons")? == "3|retired");
        oracle::verify(&world).await?;
        Ok(())
    })
}

fn is_the_same(first: &Answer, again: &Answer) -> Result<()> {
    let of = |answer: &Answer| (answer.text("command_id").to_owned(), answer.code().to_owned());
    ensure!(of(first) == of(again), "{first:?} became {again:?}");
    Ok(())
}

async fn quantity(world: &World, coupon_id: &str) -> Result<u64> {
    let shown = world.operator()?.get(&format!("/admin/v1/coupons/{coupon_id}"), &[]).await?;
    Ok(shown.body.get("quantity").and_then(Value::as_u64).unwrap_or(0))
}

async fn on_version(
    world: &World,
    coupon_id: &str,
    command: &str,
    version: u32,
    key: &str,
) -> Result<Answer> {
    let (key, version) = (key.replace(' ', "-"), format!("\"{version}\""));
    let headers = [("Idempotency-Key", key.as_str()), ("If-Match", version.as_str()), ("Prefer", "wait=30")];
    let path = format!("/admin/v1/coupons/{coupon_id}/{command}");
    Ok(world.operator()?.post(&path, &headers, None).await?)
}
