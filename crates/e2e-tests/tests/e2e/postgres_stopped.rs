use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use local_stack::Supervised;
use reqwest::StatusCode;
use serde_json::json;

/// Without PostgreSQL claims are taken, decided and told, and operators pause, resume and restock; only what is born there says 503. Afterwards every row is
/// there.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, own_servers: true, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        let won = world.user("before")?.win(&coupon_id).await?;
        let postgres = world.servers().postgres()?;
        postgres.kill()?;

        ensure!(world.user("meanwhile")?.press_to_the_end(&coupon_id).await? == "granted");
        world.command(&coupon_id, "pause", None).await?;
        world.command(&coupon_id, "resume", None).await?;
        world.command(&coupon_id, "restock", Some(json!({"delta": 1}))).await?;
        ensure!(world.user("restocked")?.press_to_the_end(&coupon_id).await? == "granted");
        let draft = world.draft(&CouponSpec::of(1)).await.unwrap_err().to_string();
        ensure!(draft.contains("503") && draft.contains("unavailable"), "{draft}");
        let list = world.operator()?.get("/admin/v1/coupons", &[]).await?;
        ensure!(list.status == StatusCode::SERVICE_UNAVAILABLE, "{list:?}");

        let before = world.user("before")?;
        for answer in [before.wallet("").await?, before.redeem(&won, "key", "order-1").await?] {
            ensure!(
                answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.code() == "unavailable",
                "{answer:?}"
            );
        }

        postgres.start_again()?;
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["granted"] == 3, "{report}");
        ensure!(world.sql("select count(*) from issued_coupons")? == "3");
        // It is the same database, no younger than it was: nobody closes anything.
        let redeemed = before.redeem(&won, "key", "order-1").await?;
        ensure!(redeemed.status == StatusCode::CREATED, "{redeemed:?}");
        Ok(())
    })
}
