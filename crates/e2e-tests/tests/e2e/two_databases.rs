use anyhow::{Context, Result, bail, ensure};
use e2e_tests::{CouponSpec, User, World, WorldSpec, eventually};
use infrastructure_kafka::Topic;
use local_stack::{Deployment, Role, Server, Supervised};
use reqwest::StatusCode;

/// The name of what works with the promoted copy.
const GATEWAY: &str = "api-gateway-promoted";
const WRITER: &str = "db-writer-promoted";

/// The old primary is cut off from db-writer alone, which goes over to the promoted standby. A gateway that still redeems in the old one learns
/// from db-writer's beats that nobody else sees what it redeemed there, and says so to all.
pub(crate) fn writer_moves() -> Result<()> {
    e2e_tests::world::run(async {
        let mut split = Split::start(Vec::new()).await?;
        split.world.stop(Role::DbWriter.name())?;
        split.promote().await?;
        split.redeem_on_both_sides().await?;
        let url = split.promoted_url("firstcome_writer")?;
        split.world.add_with(
            Role::DbWriter,
            WRITER,
            &[("FIRSTCOME__POSTGRES__URL", &url), ("FIRSTCOME__WRITE__IDLE_INTERVAL_MS", "500")],
        )?;
        // Nobody asks the old primary for anything any more.
        is_closed(&split.ann_promoted, &split.claim_id).await?;
        ensure!(split.world.sql("select closed_by from redemption_closures")? == "api-gateway");
        is_closed(&split.ann, &split.claim_id).await?;
        split.reopen().await
    })
}

/// A gateway alone goes over to the promoted standby; db-writer and another gateway go on with the old primary.
pub(crate) fn gateway_moves() -> Result<()> {
    e2e_tests::world::run(async {
        let split = Split::start(Vec::new()).await?;
        let db_writer = split.world.service(Role::DbWriter.name())?;
        db_writer.suspend()?;
        split.promote().await?;
        split.redeem_on_both_sides().await?;
        db_writer.resume()?;
        // Nobody asks the promoted standby for anything any more.
        is_closed(&split.ann, &split.claim_id).await?;
        ensure!(split.promoted_sql("select closed_by from redemption_closures")? == "api-gateway");
        is_closed(&split.ann_promoted, &split.claim_id).await
    })
}

/// With db-writer down each gateway raises the beat of its own database, to the same number.
pub(crate) fn without_writer() -> Result<()> {
    e2e_tests::world::run(async {
        let interval = (Role::ApiGateway, "FIRSTCOME__WALLET__BEAT_INTERVAL_MS", "1000".to_owned());
        let split = Split::start(vec![interval]).await?;
        split.world.stop(Role::DbWriter.name())?;
        split.promote().await?;
        split.redeem_on_both_sides().await?;
        eventually("redeeming is closed on one side by itself", async || {
            let closures = "select count(*) from redemption_closures";
            Ok((split.world.sql(closures)? == "1" || split.promoted_sql(closures)? == "1").then_some(()))
        })
        .await?;
        is_closed(&split.ann, &split.claim_id).await?;
        is_closed(&split.ann_promoted, &split.claim_id).await
    })
}

/// A world with a second PostgreSQL, and a gateway that works with it.
struct Split {
    world: World,
    standby: Server,
    /// The world, as seen by whoever works with the copy.
    promoted: Deployment,
    /// Ann at the old gateway, and at the other.
    ann: User,
    ann_promoted: User,
    /// What she won.
    claim_id: String,
}

impl Split {
    async fn start(settings: Vec<(Role, &'static str, String)>) -> Result<Self> {
        let spec = WorldSpec { partitions: 1, settings, own_servers: true };
        let mut world = World::start(spec)?;
        let coupon_id = world.publish(&CouponSpec::of(5)).await?;
        let ann = world.user("ann")?;
        let claim_id = ann.win(&coupon_id).await?;
        let standby = world.servers().start_standby()?;
        let mut promoted = world.deployment.clone();
        let (primary, copy) = (world.servers().postgres()?.port(), standby.port());
        let (primary, copy) = primary.zip(copy).context("both servers have ports")?;
        let url = &world.deployment.namespace.database_url;
        promoted.namespace.database_url = url.replace(&format!(":{primary}/"), &format!(":{copy}/"));
        let gateway_url = promoted.namespace.database_url_as("firstcome_gateway")?;
        world.add_with(Role::ApiGateway, GATEWAY, &[("FIRSTCOME__POSTGRES__URL", &gateway_url)])?;
        world.wait_ready(GATEWAY)?;
        let ann_promoted = world.user_at("ann", GATEWAY)?;
        Ok(Self { world, standby, promoted, ann, ann_promoted, claim_id })
    }

    /// The standby has followed to the end, and is a primary from now on; the old one does not know.
    async fn promote(&self) -> Result<()> {
        let end = self.world.sql("select pg_current_wal_flush_lsn()")?;
        eventually("the standby has followed", async || {
            let query = format!("select pg_last_wal_replay_lsn() >= '{end}'");
            Ok((self.promoted_sql(&query)? == "t").then_some(()))
        })
        .await?;
        ensure!(self.promoted_sql("select pg_promote()")? == "t");
        let identifier = "select system_identifier from pg_control_system()";
        ensure!(
            self.promoted_sql(identifier)? == self.world.sql(identifier)?,
            "they are told apart by nothing"
        );
        ensure!(self.standby.pid() != self.world.servers().postgres()?.pid());
        Ok(())
    }

    /// The same coupon twice, before anybody can know.
    async fn redeem_on_both_sides(&self) -> Result<()> {
        for (user, order) in [(&self.ann, "here"), (&self.ann_promoted, "there")] {
            eventually("the coupon is redeemed", async || {
                let answer = user.redeem(&self.claim_id, order, order).await?;
                match (answer.status, answer.code()) {
                    (StatusCode::CREATED, _) => Ok(Some(())),
                    (_, "unavailable") => Ok(None),
                    _ => bail!("{order} it was answered {answer:?}"),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// An operator has looked, and everybody works with the promoted one: redeeming is open there, and there alone.
    async fn reopen(&self) -> Result<()> {
        self.promoted.couponctl(&["redemptions", "reopen"])?;
        let answer = self.ann_promoted.redeem(&self.claim_id, "there", "there").await?;
        ensure!(answer.status == StatusCode::OK, "she redeemed it there: {answer:?}");
        is_closed(&self.ann, &self.claim_id).await?;
        let newest = self.world.records(Topic::Persisted, 0)?.pop().context("something is published")?;
        eventually("db-writer goes on", async || {
            let now = self.world.records(Topic::Persisted, 0)?.pop();
            Ok((now.as_ref() != Some(&newest)).then_some(()))
        })
        .await?;
        let answer = self.ann_promoted.redeem(&self.claim_id, "there", "there").await?;
        ensure!(answer.status == StatusCode::OK, "it stays open: {answer:?}");
        Ok(())
    }

    fn promoted_url(&self, role: &str) -> Result<String> {
        Ok(self.promoted.namespace.database_url_as(role)?)
    }

    fn promoted_sql(&self, query: &str) -> Result<String> {
        let url = &self.promoted.namespace.database_url;
        Ok(self.world.servers().run_sql(url, query)?.trim().to_owned())
    }
}

/// Waits until the request that was answered before is refused, since nobody knows any more what was redeemed.
async fn is_closed(user: &User, claim_id: &str) -> Result<()> {
    eventually("redeeming is closed", async || {
        let answer = user.redeem(claim_id, "there", "there").await?;
        match (answer.status, answer.code()) {
            (StatusCode::SERVICE_UNAVAILABLE, "store_restored") => Ok(Some(())),
            (_, "unavailable" | "already_used" | "rate_limited") | (StatusCode::OK, _) => Ok(None),
            _ => bail!("it was answered {answer:?}"),
        }
    })
    .await
}
