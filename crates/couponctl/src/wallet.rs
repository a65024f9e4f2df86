//! `couponctl wallet` and `couponctl redeem`: what a user holds, and using it.

use clap::Args;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::api::Client;
use crate::coupon::{expect, random_key};
use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

/// Seconds that a token made for one request is valid.
const TOKEN_S: u32 = 300;

#[derive(Args)]
pub(crate) struct Wallet {
    /// Whose.
    #[arg(long)]
    user: String,
    /// Coupons on a page.
    #[arg(long, default_value_t = 50)]
    limit: u16,
    /// What the page before gave as `next`.
    #[arg(long)]
    before: Option<String>,
}

pub(crate) async fn list(wallet: &Wallet, settings: &Settings, output: Output) -> Result<(), Failure> {
    let before = wallet.before.as_deref().map_or_else(String::new, |place| format!("&before={place}"));
    let path = format!("/v1/me/coupons?limit={}{before}", wallet.limit);
    let answer = client(settings, &wallet.user)?.get(&path, &[]).await.map_err(failed("asking"))?;
    let page = expect(answer, &[StatusCode::OK])?.body;
    if output == Output::Json {
        output.one(&page);
        return Ok(());
    }
    let coupons = page.get("coupons").and_then(Value::as_array).cloned().unwrap_or_default();
    output.many(
        &coupons,
        &["claim_id", "status", "coupon_code", "issued_at", "expires_at", "used_at", "order_ref"],
    );
    if let Some(next) = page.get("next").and_then(Value::as_str) {
        output.note(&format!("more: --before {next}"));
    }
    Ok(())
}

#[derive(Args)]
pub(crate) struct Redeem {
    /// The claim that won the coupon.
    claim_id: String,
    /// Who holds it.
    #[arg(long)]
    user: String,
    /// What it is used for.
    #[arg(long)]
    order_ref: String,
    /// A name for this request: repeated under it, it is answered alike. Else one is made.
    #[arg(long)]
    idempotency_key: Option<String>,
}

pub(crate) async fn redeem(redeem: &Redeem, settings: &Settings, output: Output) -> Result<(), Failure> {
    let key = redeem.idempotency_key.clone().unwrap_or_else(random_key);
    let path = format!("/v1/me/coupons/{}/redemptions", redeem.claim_id);
    let body = json!({ "order_ref": redeem.order_ref });
    let answer = client(settings, &redeem.user)?
        .post(&path, &[("Idempotency-Key", key.as_str())], Some(&body))
        .await
        .map_err(failed("redeeming"))?;
    output.one(&expect(answer, &[StatusCode::CREATED, StatusCode::OK])?.body);
    Ok(())
}

fn client(settings: &Settings, user: &str) -> Result<Client, Failure> {
    let token = settings.user_token(user, TOKEN_S)?;
    Client::new(&settings.api_url, &token).map_err(failed("preparing requests"))
}
