//! A user with a token, at some gateway and the notifier.

use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use couponctl::api::{Answer, Client};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::waiting::GENEROUS;
use crate::world::UserMint;

/// A user.
#[derive(Clone)]
pub struct User {
    /// The token's `sub`.
    pub name: String,
    /// The token.
    pub token: String,
    /// Where the button is.
    pub gateway: Client,
    /// Where answers are.
    pub notifier: Client,
}

/// The events of a stream, in their order.
pub type Events = Vec<(String, Value)>;

impl User {
    /// Somebody else at the same gateway and notifier.
    ///
    /// # Errors
    /// The token cannot be signed.
    pub fn as_somebody_else(&self, mint: &UserMint, name: &str) -> Result<Self> {
        let token = mint.mint(name)?;
        Ok(Self {
            name: name.to_owned(),
            gateway: self.gateway.with_token(&token),
            notifier: self.notifier.with_token(&token),
            token,
        })
    }

    /// Presses the button.
    ///
    /// # Errors
    /// No answer at all; every status is one.
    pub async fn press(&self, coupon_id: &str) -> Result<Answer> {
        self.press_with(coupon_id, &[]).await
    }

    /// Presses the button with further headers.
    ///
    /// # Errors
    /// No answer at all; every status is one.
    pub async fn press_with(&self, coupon_id: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        Ok(self.gateway.post(&format!("/v1/coupons/{coupon_id}/claims"), headers, None).await?)
    }

    /// Presses the button, which must be accepted; the claim's id.
    ///
    /// # Errors
    /// It was not.
    pub async fn claim(&self, coupon_id: &str) -> Result<String> {
        let answer = self.press(coupon_id).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{} was answered {answer:?}", self.name);
        Ok(answer.text("claim_id").to_owned())
    }

    /// The id of this user's claim, pressed or not: it can be computed.
    ///
    /// # Errors
    /// The gateway does not say.
    pub async fn claim_id(&self, coupon_id: &str) -> Result<String> {
        let answer = self.gateway.get(&format!("/v1/coupons/{coupon_id}/claims/mine"), &[]).await?;
        ensure!(!answer.text("claim_id").is_empty(), "{} was answered {answer:?}", self.name);
        Ok(answer.text("claim_id").to_owned())
    }

    /// The claim's final answer, asked for until it is there.
    ///
    /// # Errors
    /// There is none after a while.
    pub async fn final_answer(&self, claim_id: &str) -> Result<String> {
        let path = format!("/v1/claims/{claim_id}");
        crate::eventually("the claim has its final answer", async || {
            let answer = self.notifier.get(&path, &[]).await?;
            Ok((answer.body.get("final") == Some(&Value::Bool(true))).then(|| answer.code().to_owned()))
        })
        .await
    }

    /// The claim's answer, waited for.
    ///
    /// # Errors
    /// There is none within the notifier's longest wait.
    pub async fn answer(&self, claim_id: &str) -> Result<Answer> {
        let path = format!("/v1/claims/{claim_id}");
        let answer = self.notifier.get(&path, &[("Prefer", "wait=30")]).await?;
        ensure!(!answer.code().is_empty(), "{} has no answer: {answer:?}", self.name);
        Ok(answer)
    }

    /// The answer to this very press, waited for: what was said to an earlier one is none.
    ///
    /// # Errors
    /// There is none within the notifier's longest wait.
    pub async fn answer_to(&self, pressed: &Answer) -> Result<Answer> {
        ensure!(pressed.status == StatusCode::ACCEPTED, "{} has no ticket: {pressed:?}", self.name);
        let offset = pressed.body.pointer("/ticket/offset").context("the ticket names its place")?;
        let path = format!("/v1/claims/{}?after={offset}", pressed.text("claim_id"));
        let answer = self.notifier.get(&path, &[("Prefer", "wait=30")]).await?;
        ensure!(!answer.code().is_empty(), "{} has no answer: {answer:?}", self.name);
        Ok(answer)
    }

    /// Presses and waits: the code that the log or the gateway answers.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn press_to_the_end(&self, coupon_id: &str) -> Result<String> {
        let pressed = self.press(coupon_id).await?;
        if pressed.status != StatusCode::ACCEPTED {
            return Ok(pressed.code().to_owned());
        }
        Ok(self.answer_to(&pressed).await?.code().to_owned())
    }

    /// Presses, wins and waits until PostgreSQL holds the coupon; the claim's id.
    ///
    /// # Errors
    /// There was nothing to win, or it was never stored.
    pub async fn win(&self, coupon_id: &str) -> Result<String> {
        let claim_id = self.claim(coupon_id).await?;
        let events = self.events(&claim_id, None).await?;
        ensure!(event(&events, "decided")?["code"] == "granted", "{} did not win: {events:?}", self.name);
        event(&events, "persisted")?;
        Ok(claim_id)
    }

    /// A page of what the user holds.
    ///
    /// # Errors
    /// No answer at all; every status is one.
    pub async fn wallet(&self, query: &str) -> Result<Answer> {
        Ok(self.gateway.get(&format!("/v1/me/coupons{query}"), &[]).await?)
    }

    /// Redeems a coupon.
    ///
    /// # Errors
    /// No answer at all; every status is one.
    pub async fn redeem(&self, claim_id: &str, key: &str, order_ref: &str) -> Result<Answer> {
        let path = format!("/v1/me/coupons/{claim_id}/redemptions");
        let body = json!({ "order_ref": order_ref });
        Ok(self.gateway.post(&path, &[("Idempotency-Key", key)], Some(&body)).await?)
    }

    /// Follows a claim's event stream to its end; `token` is the stream token of the 202, if it is to be used.
    ///
    /// # Errors
    /// No stream, or it ended without `end`.
    pub async fn events(&self, claim_id: &str, token: Option<&str>) -> Result<Events> {
        self.events_until(claim_id, token, "end").await
    }

    /// Follows a claim's event stream to this event.
    ///
    /// # Errors
    /// No stream, or it ended without that.
    pub async fn events_until(&self, claim_id: &str, token: Option<&str>, until: &str) -> Result<Events> {
        let query = token.map_or_else(String::new, |token| format!("?token={token}"));
        let mut events = Events::new();
        let path = format!("/v1/claims/{claim_id}/events{query}");
        let listening = self.notifier.events(&path, |event, data| {
            events.push((event.to_owned(), data.clone()));
            if event == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let status = tokio::time::timeout(GENEROUS, listening)
            .await
            .with_context(|| format!("the stream of {claim_id} has no {until}"))??;
        ensure!(status == StatusCode::OK, "the stream of {claim_id} was answered {status}");
        let last = events.last().map(|(event, _)| event.as_str());
        ensure!(last == Some(until), "the stream of {claim_id} ended without {until}: {events:?}");
        Ok(events)
    }
}

/// The data of an event, which must be there.
///
/// # Errors
/// It is not.
pub fn event<'a>(events: &'a Events, name: &str) -> Result<&'a Value> {
    let found = events.iter().find(|(event, _)| event == name);
    found.map(|(_, data)| data).with_context(|| format!("there is no {name} in {events:?}"))
}
