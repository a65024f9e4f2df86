//! The HTTP API, as a client sees it.

use std::time::Duration;

use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// Longest wait for an answer that is not a stream.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An answer: its status and its body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The `Location` header.
    pub location: Option<String>,
    /// The body; null where there is none.
    pub body: Value,
}

impl Answer {
    /// The problem's code or the claim's code, whichever the body has.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body.get("code").and_then(Value::as_str).unwrap_or_default()
    }

    /// A member of the body that is a text.
    #[must_use]
    pub fn text(&self, member: &str) -> &str {
        self.body.get(member).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Speaks to one base URL with one token.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    token: String,
}

/// A request could not be made, or its answer not be read.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url}: {reason}")]
pub struct ApiError {
    method: Method,
    url: String,
    reason: String,
}

impl Client {
    /// A client.
    ///
    /// # Errors
    /// The system gives no sockets.
    pub fn new(base_url: &str, token: &str) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
        Ok(Self { http, base_url: base_url.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// The same connections with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// GET.
    ///
    /// # Errors
    /// [`ApiError`]; every status is an answer.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, ApiError> {
        self.send(Method::GET, path, headers, None).await
    }

    /// POST, with a body where there is one.
    ///
    /// # Errors
    /// [`ApiError`]; every status is an answer.
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, ApiError> {
        self.send(Method::POST, path, headers, body).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, ApiError> {
        let url = format!("{}{path}", self.base_url);
        let failed = |reason: reqwest::Error| ApiError {
            method: method.clone(),
            url: url.clone(),
            reason: spell(&reason),
        };
        let mut request = self.http.request(method.clone(), &url).bearer_auth(&self.token).timeout(TIMEOUT);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let location =
            response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = response.bytes().await.map_err(failed)?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status, location, body })
    }

    /// Reads an event stream, event by event, until `each` has seen enough or the stream ends.
    ///
    /// # Errors
    /// [`ApiError`]: no stream, or it broke.
    pub async fn events(
        &self,
        path: &str,
        mut each: impl FnMut(&str, &Value) -> std::ops::ControlFlow<()>,
    ) -> Result<StatusCode, ApiError> {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base_url) };
        let failed = |reason: String| ApiError { method: Method::GET, url: url.clone(), reason };
        let response = self
            .http
            .get(&url)
            .bearer_auth(&self.token)
            .send()
            .await
            .map_err(|error| failed(spell(&error)))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Ok(status);
        }
        let mut events = response.bytes_stream().eventsource();
        while let Some(event) = events.next().await {
            let event = event.map_err(|error| failed(error.to_string()))?;
            let data = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            if each(&event.event, &data).is_break() {
                break;
            }
        }
        Ok(status)
    }
}

/// reqwest hides the cause behind the URL.
fn spell(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
