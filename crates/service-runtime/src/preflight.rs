//! Checks before work starts. What is not there yet is waited for, with the reason on `/startupz`; what is wrong is refused.

use std::time::Duration;

use infrastructure_kafka::{Connection, TopicAdmin};
use infrastructure_postgres::PostgresSection;
use infrastructure_postgres::migrations::{SchemaFit, schema_fit};

use crate::boot::Context;
use crate::exit::Ended;

const RETRY: Duration = Duration::from_secs(1);

/// Waits until all topics exist with enough partitions, as `/startupz` tells meanwhile. False: the process was asked to end.
///
/// # Errors
/// [`Ended::Refused`]: topics are kept in a way that breaks promises, all of them named at once.
pub async fn await_topics<C>(
    context: &Context<C>,
    connection: &Connection,
    production: bool,
) -> Result<bool, Ended> {
    let layout = connection.section().layout(production);
    let admin =
        TopicAdmin::new(connection, layout).map_err(|error| Ended::Configuration(error.to_string()))?;
    let condition = context.health.startup_condition("topics", "not checked yet");
    let turn = context.health.watch_loop("preflight-topics");
    loop {
        turn.turn();
        match admin.problems().await {
            Ok(problems) if problems.is_empty() => {
                condition.met();
                return Ok(true);
            }
            Ok(problems) => {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                if problems.iter().any(|problem| !problem.is_awaited()) {
                    return Err(Ended::Refused(lines.join("; ")));
                }
                tracing::warn!("waiting for topics: {}", lines.join("; "));
                condition.unmet(lines.join("; "));
            }
            Err(error) => {
                tracing::warn!("waiting for Kafka: {error}");
                condition.unmet(error.to_string());
            }
        }
        if ended_while_waiting(context).await {
            return Ok(false);
        }
    }
}

/// Waits until the schema is one that this release works with. False: the process was asked to end.
///
/// # Errors
/// [`Ended::Refused`]: it has moved on beyond what this release can work with.
pub async fn await_schema<C>(context: &Context<C>, section: &PostgresSection) -> Result<bool, Ended> {
    let condition = context.health.startup_condition("schema", "not checked yet");
    let turn = context.health.watch_loop("preflight-schema");
    loop {
        turn.turn();
        let fit = match infrastructure_postgres::Connection::open(section).await {
            Ok(mut connection) => schema_fit(&mut connection).await,
            Err(error) => Err(error),
        };
        match fit {
            Ok(SchemaFit::Fits) => {
                condition.met();
                return Ok(true);
            }
            Ok(SchemaFit::Older { found }) => {
                let reason = format!("the schema has version {found}: run `couponctl migrate`");
                tracing::warn!("waiting: {reason}");
                condition.unmet(reason);
            }
            Ok(SchemaFit::TooNew { found, compatible_from }) => {
                return Err(Ended::Refused(format!(
                    "the schema has version {found} and works with releases of schema {compatible_from} on: deploy a newer release"
                )));
            }
            Err(error) => {
                tracing::warn!("waiting for PostgreSQL: {error}");
                condition.unmet(error.to_string());
            }
        }
        if ended_while_waiting(context).await {
            return Ok(false);
        }
    }
}

/// Waits a second; true where the process was asked to end meanwhile.
async fn ended_while_waiting<C>(context: &Context<C>) -> bool {
    tokio::select! {
        () = context.shutdown.requested() => true,
        () = tokio::time::sleep(RETRY) => false,
    }
}
