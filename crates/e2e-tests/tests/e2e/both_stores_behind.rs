use anyhow::{Context, Result, ensure};
use e2e_tests::user::event;
use e2e_tests::{CouponSpec, World, WorldSpec, eventually};
use infrastructure_kafka::Topic;
use local_stack::{Role, Supervised};

/// Redis hangs and the writer stands still, so neither store knows anything. Whoever listens before the outcome falls is told by the tail, between
/// registering and looking up as at any other moment; whoever comes after it has passed is told as soon as a store catches up.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, own_servers: true, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        world.wait_until_quiet().await?;
        let (stock_consumer, db_writer) =
            (world.service(Role::StockConsumer.name())?, world.service(Role::DbWriter.name())?);
        db_writer.suspend()?;
        world.servers().redis()?.suspend()?;

        // Her stream is registered and has looked, in vain, before anything is decided.
        let ann = world.user("ann")?;
        stock_consumer.suspend()?;
        let hers = ann.claim(&coupon_id).await?;
        let decide = async {
            world.wait_for_streams(1).await?;
            Ok(stock_consumer.resume()?)
        };
        let (told, ()) = tokio::try_join!(ann.events_until(&hers, None, "waiting"), decide)?;
        ensure!(event(&told, "decided")?["code"] == "granted", "{told:?}");
        ensure!(event(&told, "waiting")?["for"] == "code", "nothing is in PostgreSQL: {told:?}");

        // His outcome has passed the tail before he listens, and no store has it yet.
        let bob = world.user("bob")?;
        let his = bob.claim(&coupon_id).await?;
        eventually("his claim is decided", async || {
            let outcomes = world.records(Topic::Outcomes, 0)?;
            Ok(outcomes.iter().any(|outcome| outcome["claim_id"] == his.as_str()).then_some(()))
        })
        .await?;
        eventually("the tail has passed it, and nobody else knows", async || {
            let asked = bob.notifier.get(&format!("/v1/claims/{his}"), &[("Prefer", "wait=2")]).await?;
            let pending = asked.status == 503 || asked.text("status") == "pending";
            ensure!(pending || asked.code() == "granted", "{asked:?}");
            Ok(pending.then_some(()))
        })
        .await?;
        let catch_up = async {
            world.wait_for_streams(1).await?;
            Ok(db_writer.resume()?)
        };
        let (told, ()) = tokio::try_join!(bob.events(&his, None), catch_up)?;
        ensure!(event(&told, "decided")?["code"] == "granted", "{told:?}");
        ensure!(event(&told, "persisted")?["coupon_code"].is_string(), "{told:?}");
        world.servers().redis()?.resume()?;
        e2e_tests::oracle::verify(&world).await.context("afterwards")?;
        Ok(())
    })
}
