//! `couponctl smoke`: the whole pipeline, tried with a coupon of its own.

use clap::Args;
use reqwest::StatusCode;
use serde_json::{Map, json};

use crate::api::Client;
use crate::coupon::{Admin, random_key};
use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Args)]
pub(crate) struct Smoke {
    /// How many coupons there are; two users more than that press the button.
    #[arg(long, default_value_t = 2)]
    quantity: u32,
}

pub(crate) async fn run(smoke: &Smoke, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = Admin::open(settings, "couponctl-smoke")?;
    let now = service_runtime::Clock::system().now();
    let spell = infrastructure_http::time::to_rfc3339;
    let draft = json!({
        "name": "smoke test",
        "quantity": smoke.quantity,
        "opens_at": spell(now.plus_ms(-60_000)),
        "closes_at": spell(now.plus_ms(3_600_000)),
    });
    let draft = admin.draft(&draft, &random_key()).await?;
    let coupon_id = draft.get("coupon_id").and_then(|id| id.as_str()).unwrap_or_default().to_owned();
    admin.change(&coupon_id, "publish", &random_key(), None, Map::new()).await?;
    output.note(&format!("published {coupon_id}, {} on offer", smoke.quantity));

    let result = press_all(smoke, settings, &coupon_id, output).await;
    // Whatever was found, nothing is left on offer.
    let closed = admin.change(&coupon_id, "close", &random_key(), None, Map::new()).await;
    result?;
    closed?;
    let shown = admin.show(&coupon_id).await?;
    let issued = shown.get("issued").and_then(|issued| issued.as_u64()).unwrap_or(0);
    if issued != u64::from(smoke.quantity) {
        return Err(Failure::BrokenPromise(format!(
            "NO-OVERSELL: {issued} of {} are issued",
            smoke.quantity
        )));
    }
    output.one(
        &json!({ "coupon_id": coupon_id, "quantity": smoke.quantity, "issued": issued, "result": "ok" }),
    );
    Ok(())
}

async fn press_all(
    smoke: &Smoke,
    settings: &Settings,
    coupon_id: &str,
    output: Output,
) -> Result<(), Failure> {
    let (mut granted, mut refused) = (0, 0);
    for number in 0..smoke.quantity + 2 {
        let token = settings.user_token(&format!("smoke-{number}"), 300)?;
        let client = Client::new(&settings.api_url, &token).map_err(failed("preparing requests"))?;
        let code = press(&client, settings, &token, coupon_id).await?;
        if code == "granted" {
            let again = press(&client, settings, &token, coupon_id).await?;
            if again != "granted" {
                return Err(Failure::BrokenPromise(format!("ONE-OUTCOME: granted, then {again}")));
            }
            granted += 1;
        } else if code == "sold_out" {
            refused += 1;
        } else {
            return Err(Failure::Failed(format!("user {number} was told {code}")));
        }
        output.note(&format!("user {number}: {code}"));
    }
    if (granted, refused) != (smoke.quantity, 2) {
        return Err(Failure::BrokenPromise(format!("FIRST-COME: {granted} granted, {refused} refused")));
    }
    Ok(())
}

/// Presses the button and waits for the log's answer.
async fn press(
    client: &Client,
    settings: &Settings,
    token: &str,
    coupon_id: &str,
) -> Result<String, Failure> {
    let path = format!("/v1/coupons/{coupon_id}/claims");
    let pressed = client.post(&path, &[], None).await.map_err(failed("pressing the button"))?;
    match pressed.status {
        StatusCode::OK | StatusCode::CONFLICT => Ok(pressed.code().to_owned()),
        StatusCode::ACCEPTED => {
            let notifier =
                Client::new(&settings.notifier_url, token).map_err(failed("preparing requests"))?;
            let path = format!("/v1/claims/{}", pressed.text("claim_id"));
            let answer = notifier.get(&path, &[("Prefer", "wait=20")]).await.map_err(failed("asking"))?;
            if answer.code().is_empty() {
                return Err(Failure::BrokenPromise("TOLD: no answer within 20 s".to_owned()));
            }
            Ok(answer.code().to_owned())
        }
        status => Err(Failure::Failed(format!("pressing the button: {status} {}", pressed.code()))),
    }
}
