//! The requests, over one pool of connections for the whole crowd.

use std::net::SocketAddr;
use std::time::Duration;

use coupon_domain::{ClaimId, CouponId};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, Request, Response, Url};

use crate::answers::{self, Asked, CouponView, Pressed};

/// Longest wait for the answer to a press, and for the head of a stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a GET asks the notifier to wait.
const PREFERRED_WAIT: Duration = Duration::from_secs(10);
const PREFER_WAIT: &str = "wait=10";
/// Shorter than the services keep idle connections, or requests would meet closed ones.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const PREFER: HeaderName = HeaderName::from_static("prefer");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Where the services are, and what their tokens are made with.
#[derive(Clone)]
pub struct Target {
    /// Base URLs of gateways; users are dealt out among them.
    pub api_urls: Vec<String>,
    /// Base URLs of notifiers; users are dealt out among them.
    pub notifier_urls: Vec<String>,
    /// The HS256 secret of a dev installation.
    pub jwt_secret: String,
    /// The issuer of tokens.
    pub jwt_issuer: String,
    /// The audience of users' tokens.
    pub jwt_audience: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("api_urls", &self.api_urls)
            .field("notifier_urls", &self.notifier_urls)
            .finish_non_exhaustive()
    }
}

/// Who sends a request.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    /// `Bearer …`
    pub(crate) authorization: HeaderValue,
    /// Where a user may hold several of the coupon, each press of a claim names it.
    pub(crate) idempotency_key: Option<HeaderValue>,
}

/// Everything that can be asked.
pub(crate) struct Client {
    http: reqwest::Client,
    coupons: Vec<Url>,
    buttons: Vec<Url>,
    notifiers: Vec<String>,
}

impl Client {
    /// A client that keeps at most `idle_max` idle connections to each service.
    ///
    /// # Errors
    /// A URL that cannot be used, or a name that cannot be resolved.
    pub(crate) async fn new(target: &Target, coupon_id: CouponId, idle_max: u64) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(usize::try_from(idle_max).unwrap_or(usize::MAX));
        let (mut coupons, mut buttons, mut notifiers) = (Vec::new(), Vec::new(), Vec::new());
        for base in &target.api_urls {
            let base = base.trim_end_matches('/');
            coupons.push(parse(&format!("{base}/v1/coupons/{coupon_id}"))?);
            buttons.push(parse(&format!("{base}/v1/coupons/{coupon_id}/claims"))?);
        }
        for base in &target.notifier_urls {
            notifiers.push(base.trim_end_matches('/').to_owned());
        }
        if buttons.is_empty() || notifiers.is_empty() {
            return Err("at least one gateway and one notifier are needed".to_owned());
        }
        // Names are resolved once, not once per connection.
        for base in target.api_urls.iter().chain(&target.notifier_urls) {
            if let Some((host, addresses)) = resolve(&parse(base)?).await? {
                builder = builder.resolve_to_addrs(&host, &addresses);
            }
        }
        let http = builder.build().map_err(|error| spell(&error))?;
        Ok(Self { http, coupons, buttons, notifiers })
    }

    /// `GET /v1/coupons/{id}`
    ///
    /// # Errors
    /// What went wrong.
    pub(crate) async fn coupon(&self, sender: &Sender) -> Result<CouponView, String> {
        let url = pick(&self.coupons, 0).ok_or("no gateway")?.clone();
        let request = request(Method::GET, url, sender, Some(ANSWER_TIMEOUT));
        let answer = self.answer(request).await.map_err(|error| spell(&error))?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body).map_err(|error| format!("the coupon: {error}")),
            status => Err(format!("the coupon: {status} {}", String::from_utf8_lossy(&answer.body))),
        }
    }

    /// `POST /v1/coupons/{id}/claims` at one of the gateways.
    pub(crate) async fn press(&self, sender: &Sender, gateway: usize) -> Pressed {
        let Some(url) = pick(&self.buttons, gateway) else { return Pressed::Lost };
        let mut request = request(Method::POST, url.clone(), sender, Some(ANSWER_TIMEOUT));
        if let Some(key) = &sender.idempotency_key {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key.clone());
        }
        match self.answer(request).await {
            Ok(answer) => answers::pressed(answer.status, answer.retry_after, &answer.body),
            Err(_) => Pressed::Lost,
        }
    }

    /// `GET /v1/claims/{id}` at one of the notifiers, waiting there or not.
    pub(crate) async fn ask(
        &self,
        sender: &Sender,
        claim_id: &ClaimId,
        patient: bool,
        notifier: usize,
    ) -> Asked {
        let Some(url) = self.claim_url(claim_id, "", notifier) else { return Asked::Broken(None) };
        let mut request = request(Method::GET, url, sender, Some(PREFERRED_WAIT + ANSWER_TIMEOUT));
        if patient {
            request.headers_mut().insert(PREFER, HeaderValue::from_static(PREFER_WAIT));
        }
        match self.answer(request).await {
            Ok(answer) => answers::asked(answer.status, answer.retry_after, &answer.body),
            Err(_) => Asked::Broken(None),
        }
    }

    /// `GET /v1/claims/{id}/events` at one of the notifiers. A browser's EventSource sends no headers, so nor do we, but for the last id.
    pub(crate) async fn listen(
        &self,
        claim_id: &ClaimId,
        stream_token: &str,
        last_event_id: Option<&str>,
        notifier: usize,
    ) -> Result<Response, Asked> {
        let path = format!("/events?token={stream_token}");
        let url = self.claim_url(claim_id, &path, notifier).ok_or(Asked::NoStream)?;
        let mut request = Request::new(Method::GET, url);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_event_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert(LAST_EVENT_ID, id);
        }
        let opening = tokio::time::timeout(ANSWER_TIMEOUT, self.http.execute(request));
        let Ok(Ok(response)) = opening.await else { return Err(Asked::Broken(None)) };
        if response.status().as_u16() == 200 {
            return Ok(response);
        }
        match Answer::read(response).await {
            Ok(answer) => Err(answers::no_stream(answer.status, answer.retry_after, &answer.body)),
            Err(_) => Err(Asked::Broken(None)),
        }
    }

    fn claim_url(&self, claim_id: &ClaimId, rest: &str, notifier: usize) -> Option<Url> {
        let base = pick(&self.notifiers, notifier)?;
        parse(&format!("{base}/v1/claims/{claim_id}{rest}")).ok()
    }

    async fn answer(&self, request: Request) -> Result<Answer, reqwest::Error> {
        Answer::read(self.http.execute(request).await?).await
    }
}

struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Answer {
    async fn read(mut response: Response) -> Result<Self, reqwest::Error> {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(Self { status, retry_after, body })
    }
}

fn request(method: Method, url: Url, sender: &Sender, timeout: Option<Duration>) -> Request {
    let mut request = Request::new(method, url);
    request.headers_mut().insert(AUTHORIZATION, sender.authorization.clone());
    *request.timeout_mut() = timeout;
    request
}

fn pick<T>(all: &[T], number: usize) -> Option<&T> {
    all.get(number.checked_rem(all.len())?)
}

fn parse(url: &str) -> Result<Url, String> {
    let parsed: Url = url.parse().map_err(|error| format!("{url}: {error}"))?;
    match parsed.scheme() {
        "http" => Ok(parsed),
        scheme => Err(format!("{url}: {scheme} is not spoken here, only http")),
    }
}

/// The addresses behind a URL's host, unless it is an address.
async fn resolve(url: &Url) -> Result<Option<(String, Vec<SocketAddr>)>, String> {
    let Some(host) = url.host_str() else { return Err(format!("{url}: has no host")) };
    if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
        return Ok(None);
    }
    let port = url.port_or_known_default().unwrap_or(80);
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| format!("{url}: {error}"))?;
    // The port is the URL's own.
    let addresses = found.map(|address| SocketAddr::new(address.ip(), 0)).collect();
    Ok(Some((host.to_owned(), addresses)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(api_url: &str) -> Target {
        Target {
            api_urls: vec![api_url.to_owned()],
            notifier_urls: vec!["http://127.0.0.1:1".to_owned()],
            jwt_secret: "secret".to_owned(),
            jwt_issuer: "firstcome".to_owned(),
            jwt_audience: "firstcome".to_owned(),
        }
    }

    #[tokio::test]
    async fn urls_are_checked_before_anybody_arrives() {
        let coupon_id: CouponId = format!("c0-{}", "1".repeat(32)).parse().unwrap();
        for (url, expected) in
            [("https://example.org", "only http"), ("nonsense", "nonsense"), ("http://", "empty host")]
        {
            let error = Client::new(&target(url), coupon_id, 1).await.err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
        let none = Target { notifier_urls: Vec::new(), ..target("http://127.0.0.1:1") };
        assert!(Client::new(&none, coupon_id, 1).await.is_err());
        assert!(Client::new(&target("http://localhost:1/"), coupon_id, 1).await.is_ok());
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", target("http://127.0.0.1:1")).contains("secret"));
    }
}
