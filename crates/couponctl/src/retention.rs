//! `couponctl retention`: what is over goes.

use clap::{Args, Subcommand};
use infrastructure_kafka::{Topic, TopicAdmin};
use infrastructure_postgres::retention::{self, Deleted, Due, Periods};
use infrastructure_postgres::{Connection, PooledConnection};
use serde_json::{Value, json};

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

#[derive(Subcommand)]
pub(crate) enum Retention {
    /// Delete what is over: of retired coupons the answers that won nothing, and issued coupons that were used or have expired, each after its time. Nothing of a
    /// coupon that is not retired.
    Apply(Apply),
}

#[derive(Args)]
pub(crate) struct Apply {
    /// Days after a coupon was retired until the answers go that won nothing.
    #[arg(long, env = "RETENTION_CLAIMS_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3_650))]
    claims_days: u16,
    /// Days after an issued coupon was used, or expired unused, until it goes, with its claim and its redemption.
    #[arg(long, env = "RETENTION_COUPONS_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3_650))]
    coupons_days: u16,
    /// Most rows deleted in one commit.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_rows: u32,
    /// Only tell how much would go.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(retention: &Retention, settings: &Settings, output: Output) -> Result<(), Failure> {
    let Retention::Apply(apply) = retention;
    apply.is_longer_than_the_logs(settings).await?;
    let mut connection =
        Connection::open(&settings.postgres()?).await.map_err(failed("connecting to PostgreSQL"))?;
    let connection = connection.as_pooled();
    let due =
        retention::due(connection, apply.periods()).await.map_err(failed("looking for what is over"))?;
    let (mut rows, mut all) = (Vec::new(), Deleted::default());
    for due in due {
        let gone = match apply.dry_run {
            true => retention::count(connection, due, apply.periods()).await.map_err(failed("counting"))?,
            false => apply.delete(connection, due).await?,
        };
        if gone != Deleted::default() {
            rows.push(json!({ "coupon_id": due.coupon_id, "losing_claims": gone.losing, "issued_coupons": gone.issued }));
        }
        all = Deleted { losing: all.losing + gone.losing, issued: all.issued + gone.issued };
    }
    report(apply, rows, all, output);
    Ok(())
}

impl Apply {
    fn periods(&self) -> Periods {
        Periods { claims_days: self.claims_days, coupons_days: self.coupons_days }
    }

    /// What the logs still hold is compared with the tables, and written again after a restore: it has to stay.
    async fn is_longer_than_the_logs(&self, settings: &Settings) -> Result<(), Failure> {
        let (connection, layout) = settings.kafka()?;
        let admin = TopicAdmin::new(&connection, layout.clone()).map_err(failed("connecting to Kafka"))?;
        for topic in [Topic::Claims, Topic::Outcomes] {
            let kept = admin.retention_ms(topic).await.map_err(failed("asking for the logs' retention"))?;
            for (flag, days) in [("--claims-days", self.claims_days), ("--coupons-days", self.coupons_days)] {
                if kept.is_none_or(|kept_ms| u64::from(days) * DAY_MS < kept_ms) {
                    let name = layout.name(topic);
                    let kept = kept.map_or("for ever".to_owned(), |kept_ms| {
                        format!("{} days (retention.ms={kept_ms})", kept_ms.div_ceil(DAY_MS))
                    });
                    return Err(Failure::Usage(format!(
                        "{flag} {days}: must be at least as long as {name} keeps its records, which is {kept}"
                    )));
                }
            }
        }
        Ok(())
    }

    async fn delete(&self, connection: &mut PooledConnection, due: Due) -> Result<Deleted, Failure> {
        let mut deleted = Deleted::default();
        let mut losing_left = due.losing;
        while losing_left {
            let rows = retention::delete_losing(connection, due.coupon_id, self.batch_rows)
                .await
                .map_err(failed("deleting claims"))?;
            deleted.losing += rows;
            losing_left = rows > 0;
        }
        let mut issued_left = due.issued;
        while issued_left {
            let rows =
                retention::delete_issued(connection, due.coupon_id, self.coupons_days, self.batch_rows)
                    .await
                    .map_err(failed("deleting issued coupons"))?;
            deleted.issued += rows;
            issued_left = rows > 0;
        }
        Ok(deleted)
    }
}

fn report(apply: &Apply, rows: Vec<Value>, all: Deleted, output: Output) {
    let would = if apply.dry_run { "would be deleted" } else { "deleted" };
    let Deleted { losing, issued } = all;
    match output {
        Output::Json => output.one(&json!({
            "dry_run": apply.dry_run, "losing_claims": losing, "issued_coupons": issued, "coupons": rows
        })),
        Output::Table => {
            if !rows.is_empty() {
                output.many(&rows, &["coupon_id", "losing_claims", "issued_coupons"]);
                output.note("");
            }
            output.note(&format!("{losing} answers that won nothing and {issued} issued coupons {would}"));
        }
    }
}
