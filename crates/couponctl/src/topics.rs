//! `couponctl topics`

use std::time::{Duration, Instant};

use clap::Subcommand;
use infrastructure_kafka::topic_admin::Applied;
use infrastructure_kafka::{TopicAdmin, TopicProblem};
use serde_json::json;

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

/// How long a cluster may take to show new topics and partitions.
const SETTLE: Duration = Duration::from_secs(15);

#[derive(Subcommand)]
pub(crate) enum Topics {
    /// Create what is missing and grow what is too small.
    Apply,
    /// Name everything that is not as it must be; exit 3 if anything is.
    Check,
}

pub(crate) async fn run(topics: &Topics, settings: &Settings, output: Output) -> Result<(), Failure> {
    let (connection, layout) = settings.kafka()?;
    let admin = TopicAdmin::new(&connection, layout).map_err(failed("connecting to Kafka"))?;
    match topics {
        Topics::Apply => {
            let done = admin.apply().await.map_err(failed("creating topics"))?;
            let rows: Vec<_> = done
                .into_iter()
                .map(|(topic, applied)| {
                    let result = match applied {
                        Applied::Created => "created".to_owned(),
                        Applied::Grown { from } => format!("grown from {from} partitions"),
                        Applied::Unchanged => "unchanged".to_owned(),
                    };
                    json!({ "topic": topic, "result": result })
                })
                .collect();
            output.many(&rows, &["topic", "result"]);
            refuse(settled_problems(&admin).await?)
        }
        Topics::Check => {
            let problems = admin.problems().await.map_err(failed("checking topics"))?;
            if problems.is_empty() {
                output.note("all topics are as they must be");
            }
            refuse(problems)
        }
    }
}

/// What is wrong once the cluster has had time to show new topics to everybody.
async fn settled_problems(admin: &TopicAdmin) -> Result<Vec<TopicProblem>, Failure> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let problems = admin.problems().await.map_err(failed("checking topics"))?;
        if !problems.iter().any(TopicProblem::is_awaited) || Instant::now() >= deadline {
            return Ok(problems);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn refuse(problems: Vec<TopicProblem>) -> Result<(), Failure> {
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    Err(Failure::Refused(format!("topics are not as they must be:{}", lines.concat())))
}
