//! Commands: an operator's change takes its place in the coupon's line, and is answered there.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::command::Change;
use coupon_domain::coupon::{FieldError, RULES_NEWEST, Window};
use coupon_domain::limits::{QUANTITY_MAX, REASON_BYTES_MAX};
use coupon_domain::{Command, CommandCode, CommandId, CommandKind, CouponId, KeyId};
use infrastructure_http::headers::{expected_version, required_idempotency_key, wait_preference};
use infrastructure_http::listener::read_body;
use infrastructure_http::openapi::{CommandCodeName, RefusalName};
use infrastructure_http::time::from_rfc3339;
use infrastructure_http::{Code, Problem, Scope};
use infrastructure_postgres::{commands, coupons, drafts};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::desk::Desk;
use crate::paths::{parse_coupon, wrong_fields};

/// Longest wait that `Prefer: wait=n` gets.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often PostgreSQL is asked while waiting for an answer that the state does not show.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// What a command is told; which fields it reads depends on the command.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandBody {
    /// Why, for the audit.
    #[serde(default)]
    reason: Option<String>,
    /// `restock`: how many more (or fewer).
    #[serde(default)]
    delta: Option<i64>,
    /// `reschedule`: the new window.
    #[serde(default)]
    #[schema(format = DateTime)]
    opens_at: Option<String>,
    /// `reschedule`: the new window.
    #[serde(default)]
    #[schema(format = DateTime)]
    closes_at: Option<String>,
}

impl CommandBody {
    /// What tells two requests under one Idempotency-Key apart: everything that they ask for, however it is spelled in JSON.
    fn fingerprint(&self, expected_version: Option<u32>) -> [u8; 32] {
        let Self { reason, delta, opens_at, closes_at } = self;
        let moment = |text: &Option<String>| match text.as_deref().map(from_rfc3339) {
            Some(Ok(moment)) => moment.ms().to_string(),
            _ => text.clone().unwrap_or_default(),
        };
        let asked = json!([reason, delta, moment(opens_at), moment(closes_at), expected_version]);
        Sha256::digest(asked.to_string()).into()
    }
}

/// What is known of a command.
#[derive(Serialize, ToSchema)]
pub(crate) struct CommandView {
    #[schema(value_type = String)]
    command_id: CommandId,
    #[schema(value_type = String)]
    coupon_id: CouponId,
    status: CommandStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CommandCodeName>)]
    code: Option<&'static str>,
    /// Why, where the code is `refused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RefusalName>)]
    refusal: Option<&'static str>,
    /// The coupon's version after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
}

/// Whether the log has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CommandStatus {
    /// Not yet, or not where we could look.
    Pending,
    /// It has.
    Answered,
}

pub(crate) async fn post(
    request: HttpRequest,
    path: Path<(String, String)>,
    body: Result<Bytes, actix_web::Error>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    let operator = desk.operator(&request, Scope::WriteCoupons).await?;
    let (coupon_id, kind) = (parse_coupon(&path.0)?, parse_kind(&path.1)?);
    let idempotency_key = required_idempotency_key(&request)?;
    let expected_version = expected_version(&request)?;
    let wait = wait_preference(&request, WAIT_MAX)?;
    let body = parse_body(&read_body(body, desk.context.config.admin.body_bytes_max)?)?;
    let key_id = desk.command_key(coupon_id, kind).await?;
    let key = desk
        .keys
        .get(&key_id)
        .ok_or_else(|| Problem::new(Code::Unavailable, "this gateway does not hold the coupon's key"))?;
    let change = desk.change(coupon_id, kind, &body, key_id).await?;
    let fingerprint = body.fingerprint(expected_version);
    let command = Command {
        command_id: key.command_id(coupon_id, kind, &idempotency_key),
        expected_version: expected_version.filter(|_| kind != CommandKind::Publish),
        reason: check_reason(body.reason)?,
        actor: operator.user_id,
        change,
    };
    // Once nothing else is wrong with it: who mends a request keeps its key.
    desk.is_the_same_request(command.command_id, fingerprint).await?;
    desk.appender.command(&command).await.map_err(|no_ticket| no_ticket.problem())?;
    tracing::info!(coupon.id = %coupon_id, command.id = %command.command_id, "{} appended", kind.as_str());
    let view = match wait {
        Some(wait) => desk.await_answer(command.command_id, wait).await,
        None => pending(command.command_id),
    };
    let location = format!("/admin/v1/commands/{}", command.command_id);
    let mut response = if view.code.is_some() { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    Ok(response.insert_header(("Location", location)).insert_header(("Cache-Control", "no-store")).json(view))
}

pub(crate) async fn get(
    request: HttpRequest,
    path: Path<String>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    desk.operator(&request, Scope::ReadCoupons).await?;
    let command_id: CommandId = path.parse().map_err(|error| Problem::invalid("command_id", error))?;
    let wait = wait_preference(&request, WAIT_MAX)?.unwrap_or(Duration::ZERO);
    let view = desk.await_answer(command_id, wait).await;
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(view))
}

fn parse_kind(name: &str) -> Result<CommandKind, Problem> {
    CommandKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == name)
        .ok_or_else(|| Problem::new(Code::NotFound, format!("there is no command {name}")))
}

fn parse_body(body: &[u8]) -> Result<CommandBody, Problem> {
    if body.is_empty() {
        return Ok(CommandBody::default());
    }
    serde_json::from_slice(body).map_err(|error| Problem::invalid("body", error))
}

fn check_reason(reason: Option<String>) -> Result<Option<Arc<str>>, Problem> {
    match reason {
        Some(reason) if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) => {
            Err(Problem::invalid(
                "reason",
                format!("must have at most {REASON_BYTES_MAX} bytes and no control characters"),
            ))
        }
        reason => Ok(reason.map(Arc::from)),
    }
}

fn delta(body: &CommandBody) -> Result<i32, Problem> {
    let most = i64::from(QUANTITY_MAX);
    body.delta
        .filter(|delta| *delta != 0 && (-most..=most).contains(delta))
        .and_then(|delta| i32::try_from(delta).ok())
        .ok_or_else(|| Problem::invalid("delta", format!("must be -{most}..={most} and not 0")))
}

fn window(body: &CommandBody) -> Result<Window, Problem> {
    let moment = |field: &'static str, text: &Option<String>| {
        let text = text.as_deref().ok_or_else(|| "must be given".to_owned());
        text.and_then(from_rfc3339).map_err(|problem| FieldError { field, problem })
    };
    let window = moment("opens_at", &body.opens_at)
        .and_then(|opens_at| Window::new(opens_at, moment("closes_at", &body.closes_at)?));
    window.map_err(|error| wrong_fields(vec![error]))
}

fn pending(command_id: CommandId) -> CommandView {
    let coupon_id = command_id.coupon_id;
    CommandView {
        command_id,
        coupon_id,
        status: CommandStatus::Pending,
        code: None,
        refusal: None,
        version: None,
    }
}

impl Desk {
    /// The key behind a command's id: the coupon's own, also once it is retired, so that the same command is the same for ever; or the active
    /// one for a coupon that is to be published.
    async fn command_key(&self, coupon_id: CouponId, kind: CommandKind) -> Result<KeyId, Problem> {
        if let Some(known) = self.look_for(coupon_id)? {
            return Ok(known.state.definition.key_id().clone());
        }
        let find = async |connection: &mut _| coupons::find_many(connection, &[coupon_id]).await;
        let stored = self.ask_postgres("find_coupon", find).await?;
        match (stored.first(), kind) {
            (Some(state), _) => Ok(state.definition.key_id().clone()),
            (None, CommandKind::Publish) => Ok(self.active_key.clone()),
            (None, _) => {
                Err(Problem::new(Code::UnknownCoupon, format!("no coupon {coupon_id} is published")))
            }
        }
    }

    /// Refuses a request that asks for something else under the key of another one. Without PostgreSQL nobody remembers: then the log answers what it
    /// answered the first.
    async fn is_the_same_request(&self, command_id: CommandId, fingerprint: [u8; 32]) -> Result<(), Problem> {
        let note =
            async |connection: &mut _| commands::note_request(connection, command_id, fingerprint).await;
        match self.ask_postgres("note_command", note).await {
            Ok(noted) if noted != fingerprint => Err(Problem::new(
                Code::IdempotencyKeyReused,
                "this Idempotency-Key came with another command of this kind before: use a new key for a new command",
            )),
            _ => Ok(()),
        }
    }

    async fn change(
        &self,
        coupon_id: CouponId,
        kind: CommandKind,
        body: &CommandBody,
        key_id: KeyId,
    ) -> Result<Change, Problem> {
        Ok(match kind {
            CommandKind::Publish => {
                let partition = coupon_id.partition();
                if self.line_is_late(partition.index()) {
                    let detail = format!(
                        "partition {partition}, where this draft has its place, stands still: make the draft anew, it gets another one, \
                         or publish it once the line moves"
                    );
                    return Err(Problem::new(Code::Unavailable, detail));
                }
                let find = async |connection: &mut _| drafts::find(connection, coupon_id).await;
                let draft = self.ask_postgres("find_draft", find).await?.ok_or_else(|| {
                    Problem::new(Code::UnknownCoupon, format!("there is no draft {coupon_id}"))
                })?;
                let definition = draft.definition(RULES_NEWEST, key_id).check().map_err(wrong_fields)?;
                definition.outlives(definition.window()).map_err(|error| wrong_fields(vec![error]))?;
                Change::Publish(Arc::new(definition))
            }
            CommandKind::Reschedule => {
                let window = window(body)?;
                if let Some(known) = self.look_for(coupon_id)? {
                    known.state.definition.outlives(window).map_err(|error| wrong_fields(vec![error]))?;
                }
                Change::Reschedule(window)
            }
            CommandKind::Restock => Change::Restock(delta(body)?),
            CommandKind::Pause => Change::Pause,
            CommandKind::Resume => Change::Resume,
            CommandKind::Close => Change::Close,
            CommandKind::Retire => Change::Retire,
        })
    }

    /// The answer to a command, as soon as the state or PostgreSQL shows it, but no later than after `wait`. The state is looked at whenever it changes;
    /// PostgreSQL is asked by interval, however many records go by.
    async fn await_answer(&self, command_id: CommandId, wait: Duration) -> CommandView {
        let deadline = tokio::time::Instant::now() + wait;
        let mut changes = self.states.changes();
        let mut ask = tokio::time::interval(ASK_INTERVAL);
        ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Why a command was refused the state does not show.
            let shown = self.answer_in_state(command_id);
            let refused = Some(CommandCode::Refused.as_str());
            if let Some(view) = shown.filter(|view| view.code != refused) {
                return view;
            }
            tokio::select! {
                biased;
                () = self.context.shutdown.requested() => return pending(command_id),
                _ = ask.tick() => {
                    if let Some(view) = self.answer_in_postgres(command_id).await {
                        return view;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    return self.answer_in_state(command_id).unwrap_or_else(|| pending(command_id));
                }
                _ = changes.changed() => {}
            }
        }
    }

    async fn answer_in_postgres(&self, command_id: CommandId) -> Option<CommandView> {
        let find = async |connection: &mut _| commands::find(connection, command_id).await;
        let stored = self.ask_postgres("find_command", find).await.ok().flatten()?;
        Some(CommandView {
            status: CommandStatus::Answered,
            code: Some(stored.code.as_str()),
            refusal: stored.refusal.map(|refusal| refusal.as_str()),
            version: Some(stored.version),
            ..pending(command_id)
        })
    }

    fn answer_in_state(&self, command_id: CommandId) -> Option<CommandView> {
        let known = self.states.get(command_id.coupon_id)?;
        let last = known.state.last_command;
        (last.command_id == command_id).then(|| CommandView {
            status: CommandStatus::Answered,
            code: Some(last.code.as_str()),
            version: Some(known.state.version),
            ..pending(command_id)
        })
    }
}
