//! `couponctl coupon`

use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::api::{Answer, Client};
use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

/// Seconds that a token made for one command is valid.
const TOKEN_S: u32 = 300;
const SCOPE: &str = "coupons:read coupons:write";
/// Seconds that a command waits for its answer in the log.
const WAIT: &str = "wait=30";

/// Coupons on a page of the list.
const PAGE: u16 = 100;
/// Retiring is done once: the same key each time makes every further run a repetition.
const RETIRE_KEY: &str = "retire";

#[derive(Subcommand)]
pub(crate) enum Coupon {
    /// Make a draft.
    Create(Create),
    /// Put a draft on offer.
    Publish(Change),
    /// Defer all claims until resumed.
    Pause(Change),
    /// End a pause.
    Resume(Change),
    /// Add to the quantity (starting a new round), or take from what is not granted.
    Restock(Restock),
    /// Move the window of a coupon that has not opened yet.
    Reschedule(Reschedule),
    /// End the offer.
    Close(Change),
    /// Let line, state and view forget a coupon that is over; what was issued stays. One, or all that have been over for a while.
    Retire(Retire),
    /// Show one coupon.
    Show(Show),
    /// Count its claims: accepted = granted + rejected + deferred + undecided + dead_lettered.
    Ledger(Show),
    /// Show who changed it, when and why, the newest first.
    Events(Show),
    /// List coupons, the newest first.
    List(List),
}

#[derive(Args)]
pub(crate) struct Create {
    /// What people read.
    #[arg(long)]
    name: String,
    /// How many there are.
    #[arg(long)]
    quantity: u64,
    /// How many one user may hold.
    #[arg(long, default_value_t = 1)]
    per_user_limit: u64,
    /// When it opens, like 2026-11-21T10:00:00Z; now if left out.
    #[arg(long)]
    opens_at: Option<String>,
    /// When it closes; a day after opening if left out.
    #[arg(long)]
    closes_at: Option<String>,
    /// When issued coupons expire, all at once.
    #[arg(long, conflicts_with = "expires_after_days")]
    expires_at: Option<String>,
    /// How many days after its issue a coupon expires.
    #[arg(long)]
    expires_after_days: Option<u16>,
    /// Publish it at once.
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    request: Request,
}

#[derive(Args)]
pub(crate) struct Change {
    /// Which coupon.
    coupon_id: String,
    #[command(flatten)]
    request: Request,
    /// Why, for the audit.
    #[arg(long)]
    reason: Option<String>,
    /// The version that you saw; another one refuses the command.
    #[arg(long)]
    if_version: Option<u32>,
}

#[derive(Args)]
pub(crate) struct Restock {
    #[command(flatten)]
    change: Change,
    /// How many more, or fewer if negative.
    #[arg(long, allow_negative_numbers = true)]
    delta: i64,
}

#[derive(Args)]
pub(crate) struct Reschedule {
    #[command(flatten)]
    change: Change,
    /// When it opens, like 2026-11-21T10:00:00Z.
    #[arg(long)]
    opens_at: String,
    /// When it closes.
    #[arg(long)]
    closes_at: String,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["coupon_id", "closed_for"]))]
pub(crate) struct Retire {
    /// Which coupon.
    coupon_id: Option<String>,
    /// All coupons whose window ended at least so long ago, like 24h. Meant to run on a schedule: the same again has no effect.
    #[arg(long, value_parser = humantime::parse_duration)]
    closed_for: Option<Duration>,
    #[command(flatten)]
    request: Request,
    /// Why, for the audit.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Args)]
pub(crate) struct Request {
    /// A name of your own for this request: the same again has no second effect. Drawn at random if left out.
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Who you are, in tokens made with the secret.
    #[arg(long, default_value = "couponctl")]
    operator: String,
}

#[derive(Args)]
pub(crate) struct Show {
    /// Which coupon.
    coupon_id: String,
}

#[derive(Args)]
pub(crate) struct List {
    /// How many.
    #[arg(long, default_value_t = 50)]
    limit: u16,
    /// Only those before this coupon id.
    #[arg(long)]
    before: Option<String>,
}

impl Request {
    fn key(&self) -> String {
        self.idempotency_key.clone().unwrap_or_else(random_key)
    }
}

pub(crate) fn random_key() -> String {
    Uuid::from_u128(rand::random()).simple().to_string()
}

pub(crate) async fn run(coupon: Coupon, settings: &Settings, output: Output) -> Result<(), Failure> {
    match coupon {
        Coupon::Create(create) => {
            let admin = Admin::open(settings, &create.request.operator)?;
            let draft = admin.create(&create).await?;
            if !create.publish {
                output.one(&draft);
                return Ok(());
            }
            let coupon_id = draft.get("coupon_id").and_then(Value::as_str).unwrap_or_default().to_owned();
            admin.change(&coupon_id, "publish", &random_key(), None, Map::new()).await?;
            output.one(&admin.show(&coupon_id).await?);
            Ok(())
        }
        Coupon::Publish(change) => change.carry_out("publish", settings, output, Map::new()).await,
        Coupon::Pause(change) => change.carry_out("pause", settings, output, Map::new()).await,
        Coupon::Resume(change) => change.carry_out("resume", settings, output, Map::new()).await,
        Coupon::Close(change) => change.carry_out("close", settings, output, Map::new()).await,
        Coupon::Restock(restock) => {
            let body = Map::from_iter([("delta".to_owned(), json!(restock.delta))]);
            restock.change.carry_out("restock", settings, output, body).await
        }
        Coupon::Reschedule(reschedule) => {
            let Reschedule { change, opens_at, closes_at } = reschedule;
            let times = [("opens_at", opens_at), ("closes_at", closes_at)];
            let body = times.into_iter().map(|(key, time)| (key.to_owned(), Value::String(time))).collect();
            change.carry_out("reschedule", settings, output, body).await
        }
        Coupon::Retire(retire) => retire.carry_out(settings, output).await,
        Coupon::Show(show) => {
            output.one(&Admin::open(settings, "couponctl")?.show(&show.coupon_id).await?);
            Ok(())
        }
        Coupon::Ledger(show) => {
            let admin = Admin::open(settings, "couponctl")?;
            let ledger = admin.get(&format!("/admin/v1/coupons/{}/ledger", show.coupon_id)).await?;
            output.one(&ledger.body);
            Ok(())
        }
        Coupon::Events(show) => {
            let admin = Admin::open(settings, "couponctl")?;
            let events = admin.events(&show.coupon_id).await?;
            output.many(&events, &["appended_at", "actor", "kind", "code", "reason", "offset"]);
            Ok(())
        }
        Coupon::List(list) => {
            let admin = Admin::open(settings, "couponctl")?;
            let before = list.before.map_or_else(String::new, |id| format!("&before={id}"));
            let answer = admin.get(&format!("/admin/v1/coupons?limit={}{before}", list.limit)).await?;
            let coupons = answer.body.get("coupons").and_then(Value::as_array).cloned().unwrap_or_default();
            output.many(&coupons, &["coupon_id", "status", "name", "quantity", "issued", "round", "version"]);
            Ok(())
        }
    }
}

impl Change {
    async fn carry_out(
        self,
        command: &str,
        settings: &Settings,
        output: Output,
        mut body: Map<String, Value>,
    ) -> Result<(), Failure> {
        let admin = Admin::open(settings, &self.request.operator)?;
        if let Some(reason) = self.reason {
            body.insert("reason".to_owned(), Value::String(reason));
        }
        let answer =
            admin.change(&self.coupon_id, command, &self.request.key(), self.if_version, body).await?;
        output.one(&answer);
        Ok(())
    }
}

impl Retire {
    async fn carry_out(self, settings: &Settings, output: Output) -> Result<(), Failure> {
        let admin = Admin::open(settings, &self.request.operator)?;
        let coupons = match (self.coupon_id, self.closed_for) {
            (Some(coupon_id), _) => vec![coupon_id],
            (None, closed_for) => admin.over_for(closed_for.unwrap_or_default()).await?,
        };
        let key = self.request.idempotency_key.unwrap_or_else(|| RETIRE_KEY.to_owned());
        let mut answers = Vec::with_capacity(coupons.len());
        for coupon_id in coupons {
            let body = self.reason.iter().map(|reason| ("reason".to_owned(), json!(reason))).collect();
            answers.push(admin.change(&coupon_id, "retire", &key, None, body).await?);
        }
        output.many(&answers, &["coupon_id", "code", "version"]);
        Ok(())
    }
}

/// The admin API, as the command line uses it.
pub(crate) struct Admin(Client);

impl Admin {
    pub(crate) fn open(settings: &Settings, operator: &str) -> Result<Self, Failure> {
        let token = settings.operator_token(operator, SCOPE, TOKEN_S)?;
        Client::new(&settings.admin_url, &token).map(Self).map_err(failed("preparing requests"))
    }

    async fn create(&self, create: &Create) -> Result<Value, Failure> {
        let now = service_runtime::Clock::system().now();
        let spell = infrastructure_http::time::to_rfc3339;
        let opens_at = create.opens_at.clone().unwrap_or_else(|| spell(now));
        let opening = infrastructure_http::time::from_rfc3339(&opens_at)
            .map_err(|problem| Failure::Usage(format!("--opens-at {problem}")))?;
        let closes_at = create.closes_at.clone().unwrap_or_else(|| spell(opening.plus_days(1)));
        let mut body = json!({
            "name": create.name,
            "quantity": create.quantity,
            "per_user_limit": create.per_user_limit,
            "opens_at": opens_at,
            "closes_at": closes_at,
        });
        if let Some(members) = body.as_object_mut() {
            members.extend(create.expires_at.as_ref().map(|at| ("expires_at".to_owned(), json!(at))));
            let days = create.expires_after_days;
            members.extend(days.map(|days| ("expires_after_days".to_owned(), json!(days))));
        }
        self.draft(&body, &create.request.key()).await
    }

    /// Makes a draft of this body.
    pub(crate) async fn draft(&self, body: &Value, idempotency_key: &str) -> Result<Value, Failure> {
        let headers = [("Idempotency-Key", idempotency_key)];
        let answer = self
            .0
            .post("/admin/v1/coupons", &headers, Some(body))
            .await
            .map_err(failed("creating a draft"))?;
        expect(answer, &[StatusCode::OK, StatusCode::CREATED]).map(|answer| answer.body)
    }

    /// Appends a command and waits for its answer in the log.
    pub(crate) async fn change(
        &self,
        coupon_id: &str,
        command: &str,
        idempotency_key: &str,
        if_version: Option<u32>,
        body: Map<String, Value>,
    ) -> Result<Value, Failure> {
        let version = if_version.map(|version| format!("\"{version}\""));
        let mut headers = vec![("Idempotency-Key", idempotency_key), ("Prefer", WAIT)];
        headers.extend(version.as_deref().map(|version| ("If-Match", version)));
        let path = format!("/admin/v1/coupons/{coupon_id}/{command}");
        let answer = self
            .0
            .post(&path, &headers, Some(&Value::Object(body)))
            .await
            .map_err(failed(&format!("sending {command}")))?;
        let answer = expect(answer, &[StatusCode::OK, StatusCode::ACCEPTED])?;
        match answer.code() {
            "applied" | "no_change" => Ok(answer.body),
            "" => Err(Failure::Failed(format!(
                "{command} is in the log, but was not answered within 30 s: {}",
                answer.body
            ))),
            code => {
                let refusal = answer.text("refusal");
                Err(Failure::SaidNo(format!("{command}: {code} {refusal}").trim_end().to_owned()))
            }
        }
    }

    /// The published coupons whose window ended at least so long ago.
    async fn over_for(&self, closed_for: Duration) -> Result<Vec<String>, Failure> {
        let patience_ms = i64::try_from(closed_for.as_millis()).unwrap_or(i64::MAX);
        let latest_end = service_runtime::Clock::system().now().plus_ms(patience_ms.saturating_neg());
        let (mut over, mut before) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/admin/v1/coupons?limit={PAGE}{before}")).await?.body;
            for coupon in page.get("coupons").and_then(Value::as_array).into_iter().flatten() {
                let text = |key: &str| coupon.get(key).and_then(Value::as_str).unwrap_or_default();
                let ended =
                    infrastructure_http::time::from_rfc3339(text("closes_at")).map_err(|problem| {
                        Failure::Failed(format!("{}: closes_at {problem}", text("coupon_id")))
                    })?;
                if text("status") == "closed" && ended <= latest_end {
                    over.push(text("coupon_id").to_owned());
                }
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(over),
            }
        }
    }

    /// All events of a coupon, page by page.
    async fn events(&self, coupon_id: &str) -> Result<Vec<Value>, Failure> {
        let (mut events, mut before) = (Vec::new(), String::new());
        loop {
            let path = format!("/admin/v1/coupons/{coupon_id}/events?limit={PAGE}{before}");
            let page = self.get(&path).await?.body;
            events.extend(page.get("events").and_then(Value::as_array).into_iter().flatten().cloned());
            match page.get("next").and_then(Value::as_i64) {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(events),
            }
        }
    }

    pub(crate) async fn show(&self, coupon_id: &str) -> Result<Value, Failure> {
        self.get(&format!("/admin/v1/coupons/{coupon_id}")).await.map(|answer| answer.body)
    }

    async fn get(&self, path: &str) -> Result<Answer, Failure> {
        let answer = self.0.get(path, &[]).await.map_err(failed("asking"))?;
        expect(answer, &[StatusCode::OK])
    }
}

/// Makes a failure of every other status, with the problem's own words.
pub(crate) fn expect(answer: Answer, statuses: &[StatusCode]) -> Result<Answer, Failure> {
    if statuses.contains(&answer.status) {
        return Ok(answer);
    }
    let words = format!("{} {}: {}", answer.status.as_u16(), answer.code(), answer.text("detail"));
    if answer.status.is_client_error() { Err(Failure::SaidNo(words)) } else { Err(Failure::Failed(words)) }
}
