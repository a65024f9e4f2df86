//! Identity providers as they are: their key sets and tokens in shape, signed with keys of these tests, behind a server of the test's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use futures_util::future::join_all;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::tests::{ED25519, ES256, RS256, key_metrics, request};
use super::*;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server answers, by path: status, `Cache-Control`, body.
type Pages = Arc<Mutex<HashMap<String, (u16, Option<String>, String)>>>;

/// A server of pages that can be changed.
struct Site {
    base: String,
    pages: Pages,
}

impl Site {
    fn start() -> Self {
        let pages = Pages::default();
        let served = pages.clone();
        let server = HttpServer::new(move || {
            let pages = served.clone();
            App::new().default_service(web::to(move |request: HttpRequest| {
                let found = pages.lock().get(request.path()).cloned();
                async move {
                    let (status, cache, body) = found.unwrap_or((404, None, String::new()));
                    let status = actix_web::http::StatusCode::from_u16(status).unwrap();
                    let mut answer = HttpResponse::build(status);
                    if let Some(cache) = cache {
                        answer.insert_header(("Cache-Control", cache));
                    }
                    answer.body(body)
                }
            }))
        });
        let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
        let base = format!("http://{}", server.addrs()[0]);
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor of tasks")]
        tokio::spawn(server.run());
        Self { base, pages }
    }

    fn put(&self, path: &str, status: u16, cache: Option<&str>, body: &Value) {
        self.pages.lock().insert(path.to_owned(), (status, cache.map(str::to_owned), body.to_string()));
    }

    /// Publishes an issuer with this set of keys.
    fn publish(&self, issuer: &str, jwks_path: &str, cache: Option<&str>, keys: &[Value]) {
        let root = issuer.strip_prefix(&self.base).unwrap().trim_end_matches('/');
        let configuration = json!({"issuer": issuer, "jwks_uri": format!("{}{jwks_path}", self.base), "id_token_signing_alg_values_supported": ["RS256"]});
        self.put(&format!("{root}/.well-known/openid-configuration"), 200, cache, &configuration);
        self.put(jwks_path, 200, cache, &json!({"keys": keys}));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    name: String,
    issuer: String,
    keys: Vec<ProviderKey>,
    #[serde(default)]
    cache_control: Option<String>,
    #[serde(default = "anywhere")]
    jwks_path: String,
    header: Map<String, Value>,
    user: Map<String, Value>,
    #[serde(default)]
    operator_issuer: Option<String>,
    operator: Option<Map<String, Value>>,
    settings: Value,
}

fn anywhere() -> String {
    "/somewhere/certs".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderKey {
    /// The key that signs.
    #[serde(default)]
    sign: Option<String>,
    /// Another one of this kind.
    #[serde(default)]
    like: Option<String>,
    kid: String,
    also: Map<String, Value>,
}

fn signer(name: &str) -> (EncodingKey, Algorithm) {
    match name {
        "rs256" => (EncodingKey::from_rsa_pem(RS256).unwrap(), Algorithm::RS256),
        "es256" => (EncodingKey::from_ec_pem(ES256).unwrap(), Algorithm::ES256),
        "ed25519" => (EncodingKey::from_ed_pem(ED25519).unwrap(), Algorithm::EdDSA),
        other => panic!("{other} is no key of these tests"),
    }
}

fn public(name: &str, kid: &str, also: &Map<String, Value>) -> Value {
    let (key, algorithm) = signer(name);
    let jwk = serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap();
    let mut members = Map::new();
    for member in ["kty", "crv", "n", "e", "x", "y"] {
        members.extend(jwk.get(member).map(|value| (member.to_owned(), value.clone())));
    }
    members.insert("kid".to_owned(), json!(kid));
    members.extend(also.clone());
    Value::Object(members)
}

fn sign(
    name: &str,
    kid: &str,
    header: &Map<String, Value>,
    issuer: &str,
    claims: &Map<String, Value>,
) -> String {
    let (key, algorithm) = signer(name);
    let typ = header.get("typ").and_then(Value::as_str).map(str::to_owned);
    let header = Header { typ, kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    let mut claims = claims.clone();
    claims.extend([
        ("iss".to_owned(), json!(issuer)),
        ("iat".to_owned(), json!(1_790_000_000)),
        ("exp".to_owned(), json!(4_000_000_000u64)),
    ]);
    encode(&header, &claims, &key).unwrap()
}

/// Waits until something holds, or says what did not.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn keep(keys: &IssuerKeys) {
    #[expect(clippy::disallowed_methods, reason = "a test has no supervisor of tasks")]
    tokio::spawn(keys.clone().keep_reading());
}

/// A row of the table: what was seen of a provider.
async fn try_provider(text: &Value) -> String {
    let site = Site::start();
    let text = text.to_string().replace("{base}", &site.base);
    let provider: Provider = serde_json::from_str(&text).unwrap();
    let name = &provider.name;
    let mut settings = provider.settings.clone();
    settings["issuer"] = json!(provider.issuer);
    let section: AuthSection = serde_json::from_value(settings).unwrap();
    let wrong: Vec<_> = section.problems(false).into_iter().chain(section.admin_problems(false)).collect();
    assert_eq!(wrong, Vec::new(), "{name}");

    let set: Vec<Value> = provider
        .keys
        .iter()
        .map(|key| public(key.sign.as_ref().or(key.like.as_ref()).unwrap(), &key.kid, &key.also))
        .collect();
    let cache = provider.cache_control.as_deref();
    site.publish(&provider.issuer, &provider.jwks_path, cache, &set);
    let operator_issuer = provider.operator_issuer.as_ref().unwrap_or(&provider.issuer);
    if provider.operator_issuer.is_some() {
        site.publish(operator_issuer, "/staff/certs", cache, &set);
    }
    let users = IssuerKeys::of_users(&section, key_metrics()).unwrap();
    let operators = IssuerKeys::of_operators(&section, key_metrics()).unwrap();
    for keys in std::iter::once(&users).chain(&operators) {
        keep(keys);
        tokio::time::timeout(PATIENCE, keys.known()).await.unwrap_or_else(|_| panic!("{name}: no keys"));
    }
    let user_verifier = UserVerifier::new(&section, users.clone());
    let admin_verifier = AdminVerifier::new(&section, users, operators);

    let signing = provider.keys.iter().find(|key| key.sign.is_some()).unwrap();
    let with = signing.sign.as_deref().unwrap();
    let user_token = sign(with, &signing.kid, &provider.header, &provider.issuer, &provider.user);
    let caller = user_verifier
        .caller(&request(&user_token))
        .await
        .unwrap_or_else(|problem| panic!("{name}: {problem}"));
    assert_eq!(Some(caller.user_id.as_str()), provider.user["sub"].as_str());
    let as_operator = admin_verifier.operator(&request(&user_token)).await;
    assert!(as_operator.is_err(), "{name}: a user is no operator");
    let operators = match &provider.operator {
        None => "has none: an issuer of their own",
        Some(claims) => {
            let token = sign(with, &signing.kid, &provider.header, operator_issuer, claims);
            let operator = admin_verifier
                .operator(&request(&token))
                .await
                .unwrap_or_else(|problem| panic!("{name}: {problem}"));
            assert!(
                operator.demand(Scope::ReadCoupons).is_ok() && operator.demand(Scope::WriteCoupons).is_ok(),
                "{name}"
            );
            let is_user = user_verifier.caller(&request(&token)).await.is_ok();
            // Where users and operators have one audience, an operator is a user like any other.
            let is_shared = section.admin.audience_claim.is_some();
            assert_eq!(is_user, is_shared, "{name}");
            "works"
        }
    };

    // The provider begins to sign with a key that was not there before.
    let mut rotated = set.clone();
    rotated.push(public("ed25519", "the-next-one", &Map::new()));
    site.publish(&provider.issuer, &provider.jwks_path, cache, &rotated);
    let token = sign("ed25519", "the-next-one", &provider.header, &provider.issuer, &provider.user);
    eventually(&format!("{name}: a token of the next key"), async || {
        user_verifier.caller(&request(&token)).await.ok()
    })
    .await;
    assert!(user_verifier.caller(&request(&user_token)).await.is_ok(), "{name}: the old key still counts");
    format!("| {name} | works | works | {operators} | works |")
}

#[actix_web::test]
async fn every_provider_is_understood_and_the_table_says_so() {
    let providers: Vec<Value> = serde_json::from_str(include_str!("test_providers.json")).unwrap();
    let mut table = "| identity provider, in shape | its keys | users' tokens | operators' rights | a new key |\n|---|---|---|---|---|\n".to_owned();
    for row in join_all(providers.iter().map(try_provider)).await {
        table.push_str(&row);
        table.push('\n');
    }
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");
    let documented = std::fs::read_to_string(page).unwrap();
    if !documented.contains(&table) {
        std::fs::write("/tmp/identity-providers.md", &table).unwrap();
        panic!("docs/compatibility.md has another table; /tmp/identity-providers.md has this one");
    }
}

#[actix_web::test]
async fn the_last_good_keys_stay_whatever_the_provider_says() {
    let site = Site::start();
    let issuer = format!("{}/realm", site.base);
    let good = public("es256", "k1", &Map::new());
    site.publish(&issuer, "/keys", None, &[good]);
    let section = AuthSection { issuer: issuer.clone(), ..AuthSection::default() };
    let metrics = key_metrics();
    let keys = IssuerKeys::of_users(&section, metrics.clone()).unwrap();
    let verifier = UserVerifier::new(&section, keys.clone());
    let claims: Map<String, Value> =
        serde_json::from_value(json!({"sub": "ann", "aud": "firstcome"})).unwrap();
    let token = sign("es256", "k1", &Map::new(), &issuer, &claims);
    let early = verifier.caller(&request(&token)).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable, "nobody is logged out because we do not know yet");
    keep(&keys);
    keys.known().await;
    assert!(verifier.caller(&request(&token)).await.is_ok());
    let wrong = [
        ("/keys", 500, json!({})),
        ("/keys", 302, json!({})),
        ("/keys", 200, json!({"keys": []})),
        ("/keys", 200, json!("x".repeat(jwks::JWKS_BYTES_MAX))),
        (
            "/realm/.well-known/openid-configuration",
            200,
            json!({"issuer": "https://somebody.example", "jwks_uri": "https://somebody.example/keys"}),
        ),
        ("/realm/.well-known/openid-configuration", 404, json!({})),
    ];
    for (path, status, body) in wrong {
        let failed = metrics.failed.get();
        site.put(path, status, None, &body);
        keys.read_again();
        eventually("the keys are read again, in vain", async || {
            (metrics.failed.get() > failed).then_some(())
        })
        .await;
        assert!(verifier.caller(&request(&token)).await.is_ok(), "{path} {status}");
    }
    assert_eq!(metrics.keys.get(), 1);
    assert!(metrics.read_at.get() > 1_790_000_000.0);
}

/// Kubernetes swaps a link above the file; a process that is told to (SIGHUP) reads it at once, else within ten seconds.
#[actix_web::test]
async fn a_file_that_is_exchanged_counts() {
    let folder = tempfile::tempdir().unwrap();
    let claims: Map<String, Value> =
        serde_json::from_value(json!({"sub": "ann", "aud": "firstcome"})).unwrap();
    let swap = |version: &str, keys: &[Value]| {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        std::fs::write(folder.path().join(version).join("jwks.json"), json!({"keys": keys}).to_string())
            .unwrap();
        let link = folder.path().join("..data");
        let next = folder.path().join("..data_tmp");
        std::os::unix::fs::symlink(version, &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
    };
    swap("..1", &[public("es256", "old", &Map::new())]);
    std::os::unix::fs::symlink("..data/jwks.json", folder.path().join("jwks.json")).unwrap();
    let section = AuthSection { jwks_file: Some(folder.path().join("jwks.json")), ..AuthSection::default() };
    let metrics = key_metrics();
    let keys = IssuerKeys::of_users(&section, metrics.clone()).unwrap();
    let verifier = UserVerifier::new(&section, keys.clone());
    keep(&keys);
    let token = |with: &str, kid: &str| sign(with, kid, &Map::new(), "firstcome", &claims);
    assert!(verifier.caller(&request(&token("es256", "old"))).await.is_ok());

    swap("..2", &[public("rs256", "new", &Map::new())]);
    keys.read_again();
    let new = token("rs256", "new");
    eventually("the new key", async || verifier.caller(&request(&new)).await.ok()).await;
    let old = verifier.caller(&request(&token("es256", "old"))).await.unwrap_err();
    assert_eq!(old.code(), Code::Unauthorized, "a key that was taken away counts no more");

    // What cannot be read changes nothing.
    std::fs::write(folder.path().join("..2/jwks.json"), "{").unwrap();
    keys.read_again();
    eventually("it was read in vain", async || (metrics.failed.get() > 0).then_some(())).await;
    assert!(verifier.caller(&request(&new)).await.is_ok());
    assert_eq!((metrics.keys.get(), metrics.read.get() >= 2), (1, true));
}

/// However many tokens name keys that nobody has, the issuer is asked every few seconds at most.
#[actix_web::test]
async fn unknown_keys_do_not_make_us_ask_without_end() {
    let site = Site::start();
    site.publish(&site.base, "/keys", None, &[public("es256", "k1", &Map::new())]);
    let section = AuthSection { issuer: site.base.clone(), ..AuthSection::default() };
    let metrics = key_metrics();
    let keys = IssuerKeys::of_users(&section, metrics.clone()).unwrap();
    keep(&keys);
    keys.known().await;
    let verifier = UserVerifier::new(&section, keys);
    let claims: Map<String, Value> =
        serde_json::from_value(json!({"sub": "ann", "aud": "firstcome"})).unwrap();
    let began = Instant::now();
    for number in 0..500 {
        let token = sign("es256", &format!("made-up-{number}"), &Map::new(), &site.base, &claims);
        let refused = verifier.caller(&request(&token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthorized);
    }
    let most = 1 + began.elapsed().as_secs() / UNKNOWN_KEY_INTERVAL.as_secs() + 1;
    assert!(metrics.read.get() <= most, "{} times in {:?}", metrics.read.get(), began.elapsed());
}

/// While the issuer does not answer, made-up keys take no more places than there are for them, and right ones count as ever.
#[actix_web::test]
async fn unknown_keys_take_few_places() {
    let deaf = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let section = AuthSection {
        jwks_url: Some(format!("http://{}/keys", deaf.local_addr().unwrap())),
        ..AuthSection::default()
    };
    let keys = IssuerKeys::of_users(&section, key_metrics()).unwrap();
    keep(&keys);
    let verifier = UserVerifier::new(&section, keys);
    let claims: Map<String, Value> =
        serde_json::from_value(json!({"sub": "ann", "aud": "firstcome"})).unwrap();
    let began = Instant::now();
    let asking = (0..2 * UNKNOWN_KEY_WAITERS_MAX).map(|number| {
        let token = sign("es256", &format!("made-up-{number}"), &Map::new(), "firstcome", &claims);
        let verifier = &verifier;
        async move {
            let refused = verifier.caller(&request(&token)).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable);
            refused.to_string().contains("wait already")
        }
    });
    let at_once = join_all(asking).await.into_iter().filter(|at_once| *at_once).count();
    assert_eq!(at_once, UNKNOWN_KEY_WAITERS_MAX, "in {:?}", began.elapsed());
}

#[actix_web::test]
async fn cache_headers_say_how_long_keys_last() {
    let site = Site::start();
    let keys = [public("es256", "k1", &Map::new())];
    let section = AuthSection {
        jwks_url: Some(format!("{}/keys", site.base)),
        refresh_s: 300,
        ..AuthSection::default()
    };
    let issuer_keys = IssuerKeys::of_users(&section, key_metrics()).unwrap();
    let cases = [
        (None, 300),
        (Some("max-age=90"), 90),
        (Some("public, max-age=20041, must-revalidate"), 300),
        (Some("max-age=1"), 30),
        (Some("no-cache"), 30),
        (Some("no-store"), 30),
        (Some("nonsense"), 30),
    ];
    for (cache, expected) in cases {
        site.put("/keys", 200, cache, &json!({"keys": keys}));
        let next = issuer_keys.read().await.as_secs();
        assert!(next.abs_diff(expected) <= 1, "{cache:?}: {next} s, not {expected}");
    }
    site.put("/keys", 503, None, &json!({}));
    assert_eq!(issuer_keys.read().await, FETCH_RETRY);
}
