//! `couponctl claim` and `couponctl token`: playing a user.

use std::ops::ControlFlow;

use clap::Args;
use reqwest::StatusCode;
use serde_json::Value;

use crate::api::Client;
use crate::coupon::expect;
use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Args)]
pub(crate) struct Token {
    /// The user, or with --admin the operator.
    sub: String,
    /// Make an operator's token.
    #[arg(long)]
    admin: bool,
    /// What an operator may do.
    #[arg(long, default_value = "coupons:read coupons:write", requires = "admin")]
    scope: String,
    /// Seconds that it is valid.
    #[arg(long, default_value_t = 3_600)]
    valid_s: u32,
}

/// Prints a token and nothing else, for `$(…)`.
pub(crate) fn token(token: &Token, settings: &Settings) -> Result<(), Failure> {
    let text = if token.admin {
        settings.operator_token(&token.sub, &token.scope, token.valid_s)?
    } else {
        settings.user_token(&token.sub, token.valid_s)?
    };
    Output::text(&text);
    Ok(())
}

#[derive(Args)]
pub(crate) struct Claim {
    /// Which coupon.
    coupon_id: String,
    /// Who presses the button.
    #[arg(long)]
    user: String,
    /// A name of the user's own for this claim, where they may hold several.
    #[arg(long)]
    idempotency_key: Option<String>,
}

pub(crate) async fn run(claim: &Claim, settings: &Settings, output: Output) -> Result<(), Failure> {
    let token = settings.user_token(&claim.user, 3_600)?;
    let gateway = Client::new(&settings.api_url, &token).map_err(failed("preparing requests"))?;
    let notifier = Client::new(&settings.notifier_url, &token).map_err(failed("preparing requests"))?;
    let headers: Vec<(&str, &str)> =
        claim.idempotency_key.as_deref().map(|key| ("Idempotency-Key", key)).into_iter().collect();
    let path = format!("/v1/coupons/{}/claims", claim.coupon_id);
    let pressed = gateway.post(&path, &headers, None).await.map_err(failed("pressing the button"))?;
    let pressed = expect(pressed, &[StatusCode::ACCEPTED, StatusCode::OK])?;
    let claim_id = pressed.text("claim_id").to_owned();
    if pressed.status == StatusCode::OK {
        return finish(&pressed.body, output);
    }
    output.note(&format!("accepted: {claim_id}"));
    let answer = follow(&notifier, &pressed.body, &claim_id, output).await?;
    finish(&answer, output)
}

/// Follows the claim by its event stream to the end; the last word is asked for once more, with the coupon's code.
async fn follow(
    notifier: &Client,
    accepted: &Value,
    claim_id: &str,
    output: Output,
) -> Result<Value, Failure> {
    let token = accepted.get("stream_token").and_then(Value::as_str).unwrap_or_default();
    let path = format!("/v1/claims/{claim_id}/events?token={token}");
    let each = |event: &str, data: &Value| {
        match event {
            "position" => {
                let ahead = data.get("ahead").and_then(Value::as_u64).unwrap_or(0);
                output.note(&format!("position: at most {ahead} ahead"));
            }
            "decided" | "persisted" => output.note(event),
            "waiting" => output.note("granted; the code follows as soon as PostgreSQL holds it"),
            _ => {}
        }
        if event == "end" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let status = notifier.events(&path, each).await.map_err(failed("following the claim"))?;
    if status != StatusCode::OK {
        return Err(Failure::Failed(format!("following the claim: status {status}")));
    }
    let headers = [("Prefer", "wait=10")];
    let answer = notifier.get(&format!("/v1/claims/{claim_id}"), &headers).await.map_err(failed("asking"))?;
    expect(answer, &[StatusCode::OK]).map(|answer| answer.body)
}

fn finish(answer: &Value, output: Output) -> Result<(), Failure> {
    output.one(answer);
    match answer.get("code").and_then(Value::as_str) {
        Some("granted") => Ok(()),
        code => Err(Failure::SaidNo(format!("not granted: {}", code.unwrap_or("no answer yet")))),
    }
}
