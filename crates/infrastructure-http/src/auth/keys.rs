//! The keys of an issuer as they were read last, and reading them again: what an identity provider rotates is known here within the time that it
//! allows, and what it cannot tell for a while stays as it was.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http_cache_semantics::CachePolicy;
use parking_lot::{Mutex, RwLock};
use prometheus::{Gauge, IntCounter, IntGauge};
use rustls::crypto::ring;
use serde::Deserialize;
use tokio::sync::{Notify, Semaphore, watch};
use ureq::Agent;
use ureq::http::{Request, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use url::Url;

use super::jwks::{self, JWKS_BYTES_MAX, KeySet, PublicKey};
use super::section::{AuthSection, KeySource};

/// A file of keys is read again this often: Kubernetes swaps the link above it, which no watch of the file itself would see.
pub const FILE_INTERVAL: Duration = Duration::from_secs(10);
/// Keys from an address are fetched at most this often, whatever its cache headers say.
pub const FETCH_INTERVAL_MIN: Duration = Duration::from_secs(30);
/// After keys could not be fetched, it is tried again this much later.
pub const FETCH_RETRY: Duration = Duration::from_secs(10);
/// A token with an unknown key makes them be read again at most this often.
pub const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the request with such a token waits for them.
const UNKNOWN_KEY_WAIT: Duration = Duration::from_secs(2);
/// Most requests that wait so at once: made-up keys must not take the places of those who have right ones. Beyond it: 503.
pub const UNKNOWN_KEY_WAITERS_MAX: usize = 256;
/// How long an address may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// What is measured of an issuer's keys.
#[derive(Clone)]
pub struct KeyMetrics {
    /// How many count.
    pub keys: IntGauge,
    /// When they were last read, in seconds since the epoch.
    pub read_at: Gauge,
    /// Readings that gave a set of keys.
    pub read: IntCounter,
    /// Readings that gave none.
    pub failed: IntCounter,
}

/// As many requests with unknown keys as may wait do so.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooManyWait;

/// The keys of an issuer. Cheap to clone.
#[derive(Clone)]
pub struct IssuerKeys(Arc<Inner>);

struct Inner {
    source: KeySource,
    issuer: String,
    refresh: Duration,
    http: Option<Agent>,
    current: RwLock<Arc<[Arc<PublicKey>]>>,
    /// Somebody wants them read again.
    wanted: Notify,
    /// Places of requests that wait for that.
    waiters: Semaphore,
    /// How often they were read, or tried to be.
    tries: watch::Sender<u64>,
    tried_at: Mutex<Option<Instant>>,
    /// What was said last of keys that were left out, or of why there are none: it is not said again.
    said: Mutex<Vec<String>>,
    metrics: KeyMetrics,
}

impl IssuerKeys {
    /// Those of users' issuer.
    ///
    /// # Errors
    /// The section cannot be used: [`AuthSection::problems`] has said why at boot.
    pub fn of_users(section: &AuthSection, metrics: KeyMetrics) -> Result<Self, String> {
        let source = section.source().map_err(|(key, problem)| format!("auth.{key}: {problem}"))?;
        Self::new(source, &section.issuer, section, metrics)
    }

    /// Those of operators' own issuer; none where they share the users'.
    ///
    /// # Errors
    /// As for users.
    pub fn of_operators(section: &AuthSection, metrics: KeyMetrics) -> Result<Option<Self>, String> {
        let source =
            section.admin.source().map_err(|(key, problem)| format!("auth.admin.{key}: {problem}"))?;
        let issuer = section.admin.issuer.as_deref().unwrap_or_default();
        source.map(|source| Self::new(source, issuer, section, metrics)).transpose()
    }

    fn new(
        source: KeySource,
        issuer: &str,
        section: &AuthSection,
        metrics: KeyMetrics,
    ) -> Result<Self, String> {
        let http = match &source {
            KeySource::Secret(_) | KeySource::File(_) => None,
            KeySource::Url(_) | KeySource::Discovery(_) => Some(client(section)?),
        };
        let keys = Self(Arc::new(Inner {
            issuer: issuer.to_owned(),
            refresh: Duration::from_secs(section.refresh_s.into()),
            http,
            current: RwLock::new(Arc::new([])),
            wanted: Notify::new(),
            waiters: Semaphore::new(UNKNOWN_KEY_WAITERS_MAX),
            tries: watch::Sender::new(0),
            tried_at: Mutex::default(),
            said: Mutex::default(),
            metrics,
            source,
        }));
        match &keys.0.source {
            KeySource::Secret(secret) => {
                keys.take(KeySet { keys: vec![PublicKey::of_secret(secret)], left_out: Vec::new() });
            }
            KeySource::File(file) => {
                keys.take(jwks::read(file).map_err(|problem| format!("the keys of {issuer}: {problem}"))?);
            }
            KeySource::Url(_) | KeySource::Discovery(_) => {}
        }
        Ok(keys)
    }

    /// False until there is a key.
    #[must_use]
    pub fn are_known(&self) -> bool {
        !self.0.current.read().is_empty()
    }

    /// Waits until there is a key.
    pub async fn known(&self) {
        let mut tries = self.0.tries.subscribe();
        while !self.are_known() && tries.changed().await.is_ok() {}
    }

    /// Has them read again at once.
    pub fn read_again(&self) {
        self.0.wanted.notify_one();
    }

    /// Reads them again whenever it is time, or somebody wants it. Never ends, unless they cannot change.
    pub async fn keep_reading(self) {
        let mut next = match &self.0.source {
            KeySource::Secret(_) => return,
            KeySource::File(_) => FILE_INTERVAL,
            KeySource::Url(_) | KeySource::Discovery(_) => Duration::ZERO,
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = self.0.wanted.notified() => {}
            }
            next = self.read().await;
            *self.0.tried_at.lock() = Some(Instant::now());
            self.0.tries.send_modify(|tries| *tries += 1);
        }
    }

    /// Reads them, and says when to do so again.
    pub(super) async fn read(&self) -> Duration {
        let read = match &self.0.source {
            KeySource::Secret(_) => return Duration::MAX,
            KeySource::File(file) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || jwks::read(&file)).await;
                read.unwrap_or_else(|error| Err(error.to_string())).map(|set| (set, FILE_INTERVAL))
            }
            KeySource::Url(url) => self.fetch_keys(url).await,
            KeySource::Discovery(issuer) => match self.discover(issuer).await {
                Ok(url) => self.fetch_keys(&url).await,
                Err(problem) => Err(problem),
            },
        };
        match read {
            Ok((set, next)) => {
                self.take(set);
                next
            }
            Err(problem) => {
                self.0.metrics.failed.inc();
                let stay = if self.are_known() {
                    "those that were read last stay"
                } else {
                    "nobody is recognised until they can"
                };
                self.say(vec![format!("the keys of {} cannot be read, {stay}: {problem}", self.0.issuer)]);
                if self.0.http.is_some() { FETCH_RETRY } else { FILE_INTERVAL }
            }
        }
    }

    fn take(&self, set: KeySet) {
        let KeySet { keys, left_out } = set;
        let keys: Vec<_> = keys.into_iter().map(Arc::new).collect();
        let kids = |keys: &[Arc<PublicKey>]| keys.iter().map(|key| key.kid.clone()).collect::<Vec<_>>();
        let before = kids(&self.0.current.read());
        let after = kids(&keys);
        *self.0.current.write() = keys.into();
        if matches!(self.0.source, KeySource::Secret(_)) {
            return;
        }
        self.0.metrics.read.inc();
        self.0.metrics.keys.set(i64::try_from(after.len()).unwrap_or(i64::MAX));
        let now = wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.metrics.read_at.set(now.as_secs_f64());
        if before != after {
            let named: Vec<String> =
                after.into_iter().map(|kid| kid.unwrap_or_else(|| "one without kid".to_owned())).collect();
            tracing::info!(issuer = self.0.issuer, "keys that count: {}", named.join(", "));
        }
        let issuer = &self.0.issuer;
        self.say(
            left_out.into_iter().map(|reason| format!("a key of {issuer} is left out: {reason}")).collect(),
        );
    }

    /// Warns of what was not said the time before.
    fn say(&self, lines: Vec<String>) {
        let before = std::mem::replace(&mut *self.0.said.lock(), lines.clone());
        for line in lines.iter().filter(|line| !before.contains(line)) {
            tracing::warn!(runbook = "CouponAuthKeysStale", "{line}");
        }
    }

    /// The secret, where that is what tokens are checked against.
    pub(super) fn secret(&self) -> Option<Arc<PublicKey>> {
        match &self.0.source {
            KeySource::Secret(_) => self.0.current.read().first().cloned(),
            _ => None,
        }
    }

    /// The key that a token names; a set of one key leaves no doubt.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<Arc<PublicKey>> {
        let current = self.0.current.read();
        match (kid, &**current) {
            (None, [only]) => Some(Arc::clone(only)),
            (None, _) => None,
            (Some(kid), keys) => keys.iter().find(|key| key.kid.as_deref() == Some(kid)).cloned(),
        }
    }

    /// The same after they were read again, unless that was just now: the issuer may have begun to sign with a new key.
    ///
    /// # Errors
    /// Too many wait for that.
    pub(super) async fn find_anew(&self, kid: Option<&str>) -> Result<Option<Arc<PublicKey>>, TooManyWait> {
        let mut tries = self.0.tries.subscribe();
        let is_fresh = self.0.tried_at.lock().is_some_and(|at| at.elapsed() < UNKNOWN_KEY_INTERVAL);
        if kid.is_some() && !is_fresh {
            let _place = self.0.waiters.try_acquire().map_err(|_| TooManyWait)?;
            self.read_again();
            drop(tokio::time::timeout(UNKNOWN_KEY_WAIT, tries.changed()).await);
        }
        Ok(self.find(kid))
    }

    /// Where the issuer's configuration says that its keys are.
    async fn discover(&self, issuer: &Url) -> Result<Url, String> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
            jwks_uri: String,
        }
        let address = format!("{}/.well-known/openid-configuration", self.0.issuer.trim_end_matches('/'));
        let url = Url::parse(&address).map_err(|error| format!("{address}: {error}"))?;
        let (content, _) = self.fetch(&url).await?;
        let found: Configuration = serde_json::from_slice(&content)
            .map_err(|error| format!("{url} is no OpenID configuration: {error}: set jwks_url"))?;
        if found.issuer != self.0.issuer {
            return Err(format!(
                "{url} says that its issuer is {}: set that as the issuer, letter by letter",
                found.issuer
            ));
        }
        let keys = Url::parse(&found.jwks_uri)
            .map_err(|error| format!("{url} names no address of keys: {error}"))?;
        if issuer.scheme() == "https" && keys.scheme() != "https" {
            return Err(format!("{url} leads to keys that anybody could exchange on the way: {keys}"));
        }
        Ok(keys)
    }

    async fn fetch_keys(&self, url: &Url) -> Result<(KeySet, Duration), String> {
        let (content, lasts) = self.fetch(url).await?;
        let set = jwks::parse(&content).map_err(|problem| format!("{url} {problem}"))?;
        let next = lasts.unwrap_or(self.0.refresh).max(FETCH_INTERVAL_MIN).min(self.0.refresh);
        Ok((set, next))
    }

    /// What lies at an address, and how long it lasts, as far as it says so.
    async fn fetch(&self, url: &Url) -> Result<(Vec<u8>, Option<Duration>), String> {
        let http = self.0.http.clone().ok_or("no client")?;
        let url = url.clone();
        let fetched = tokio::task::spawn_blocking(move || fetch(&http, &url)).await;
        fetched.unwrap_or_else(|error| Err(error.to_string()))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "it is shown, and says how long a cache keeps keys; no rule looks at it"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

fn client(section: &AuthSection) -> Result<Agent, String> {
    let tls = section.tls_files().load().map_err(|problems| {
        let named = problems.into_iter().map(|problem| format!("auth.{}: {}", problem.key, problem.problem));
        named.collect::<Vec<_>>().join("; ")
    })?;
    let authorities: Vec<_> = parse_pem(&tls.authorities_pem())
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(authority)) => Some(authority),
            _ => None,
        })
        .collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&authorities))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(FETCH_TIMEOUT))
        .build();
    Ok(config.into())
}

fn fetch(http: &Agent, url: &Url) -> Result<(Vec<u8>, Option<Duration>), String> {
    let failed = |error: ureq::Error| format!("{url} does not answer: {error}");
    let request = Request::get(url.as_str()).header(header::ACCEPT, "application/json").body(());
    let request = request.map_err(|error| format!("{url}: {error}"))?;
    let mut response = http.run(request.clone()).map_err(failed)?;
    if !response.status().is_success() {
        return Err(format!("{url} answered {}", response.status()));
    }
    // RFC 9111 §4.2; where it does not say, how often we look is for us to know.
    let says =
        [header::CACHE_CONTROL, header::EXPIRES].iter().any(|name| response.headers().contains_key(name));
    let lasts = says.then(|| CachePolicy::new(&request, &response).time_to_live(wall_clock()));
    let limit = u64::try_from(JWKS_BYTES_MAX).unwrap_or(u64::MAX);
    let content = response.body_mut().with_config().limit(limit).read_to_vec().map_err(failed)?;
    Ok((content, lasts))
}
