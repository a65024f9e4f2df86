use std::io::Write as _;

use actix_web::test::TestRequest;
use data_encoding::{BASE64URL, BASE64URL_NOPAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use prometheus::{Gauge, IntCounter, IntGauge};
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn section() -> AuthSection {
    AuthSection { hs256_secret: Some(SECRET.to_owned()), ..AuthSection::default() }
}

pub(super) fn key_metrics() -> KeyMetrics {
    KeyMetrics {
        keys: IntGauge::new("keys", "keys").unwrap(),
        read_at: Gauge::new("read_at", "when").unwrap(),
        read: IntCounter::new("read", "readings").unwrap(),
        failed: IntCounter::new("failed", "readings").unwrap(),
    }
}

fn users_of(section: &AuthSection) -> Result<UserVerifier, String> {
    Ok(UserVerifier::new(section, IssuerKeys::of_users(section, key_metrics())?))
}

fn operators_of(section: &AuthSection) -> AdminVerifier {
    let own = IssuerKeys::of_operators(section, key_metrics()).unwrap();
    AdminVerifier::new(section, IssuerKeys::of_users(section, key_metrics()).unwrap(), own)
}

fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn caller(verifier: &UserVerifier, token: &str) -> Result<Caller, Problem> {
    soon(verifier.caller(&request(token)))
}

fn claims() -> Value {
    json!({"sub": "ann", "aud": "firstcome", "iss": "firstcome", "exp": 4_000_000_000u64, "scope": "coupons:read"})
}

fn token(claims: &Value, secret: &str) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

pub(super) fn request(token: &str) -> HttpRequest {
    TestRequest::default().insert_header((AUTHORIZATION, format!("Bearer {token}"))).to_http_request()
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

#[test]
fn a_good_token_names_its_user() {
    let caller = caller(&users_of(&section()).unwrap(), &token(&claims(), SECRET)).unwrap();
    assert_eq!(caller.user_id.as_str(), "ann");
}

#[test]
fn every_other_token_is_refused_with_its_reason() {
    let verifier = users_of(&section()).unwrap();
    let mut without_aud = claims();
    without_aud.as_object_mut().unwrap().remove("aud");
    let cases = [
        (token(&claims(), "another secret of thirty-two bytes"), "signature is wrong"),
        (token(&with("exp", json!(1)), SECRET), "has expired"),
        (token(&with("nbf", json!(4_000_000_000u64)), SECRET), "not valid yet"),
        (token(&with("aud", json!("firstcome-admin")), SECRET), "aud is another"),
        (token(&with("iss", json!("somebody")), SECRET), "iss is another"),
        (token(&without_aud, SECRET), "has no aud"),
        (token(&with("sub", json!("an\u{0}n")), SECRET), "sub: a user id must not contain control"),
        (token(&with("sub", json!("x".repeat(3_000))), SECRET), "sub: a user id has at most"),
        ("x.y.z".to_owned(), "cannot be read"),
        ("x".repeat(TOKEN_BYTES_MAX + 1), "more than"),
    ];
    for (token, expected) in cases {
        let problem = caller(&verifier, &token).unwrap_err();
        assert_eq!(problem.code(), Code::Unauthorized);
        assert!(problem.to_string().contains(expected), "{problem} should say {expected:?}");
    }
    let bare = TestRequest::default().to_http_request();
    assert_eq!(soon(verifier.caller(&bare)).unwrap_err().code(), Code::Unauthorized);
}

#[test]
fn an_operator_has_another_audience_and_its_scopes() {
    let verifier = operators_of(&section());
    assert!(soon(verifier.operator(&request(&token(&claims(), SECRET)))).is_err());
    let token = token(&with("aud", json!("firstcome-admin")), SECRET);
    let operator = soon(verifier.operator(&request(&token))).unwrap();
    assert!(operator.demand(Scope::ReadCoupons).is_ok());
    assert_eq!(operator.demand(Scope::WriteCoupons).unwrap_err().code(), Code::Forbidden);
}

#[test]
fn unsigned_tokens_do_not_count() {
    let header = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let signed = token(&claims(), SECRET);
    let body = signed.split('.').nth(1).unwrap();
    assert!(caller(&users_of(&section()).unwrap(), &format!("{header}.{body}.")).is_err());
}

#[test]
fn either_a_secret_or_a_file_of_keys_and_in_prod_only_the_file() {
    let keys = |section: &AuthSection, production| {
        section.problems(production).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    let set = key_set(&[jwk(&es256(), "k1")]);
    let with_file = AuthSection { jwks_file: Some(set.path().to_owned()), ..AuthSection::default() };
    let both = AuthSection { hs256_secret: Some(SECRET.to_owned()), ..with_file.clone() };
    for production in [true, false] {
        assert_eq!(keys(&with_file, production), Vec::<String>::new());
        assert_eq!(keys(&AuthSection::default(), production), ["auth.jwks_file"]);
    }
    assert_eq!(keys(&both, false), ["auth.jwks_file"]);
    assert!(users_of(&both).is_err() && users_of(&AuthSection::default()).is_err());
    assert_eq!(keys(&section(), false), Vec::<String>::new());
    assert_eq!(keys(&section(), true), ["auth.hs256_secret"]);
    let short = AuthSection { hs256_secret: Some("short".to_owned()), issuer: String::new(), ..section() };
    assert_eq!(keys(&short, false), ["auth.hs256_secret", "auth.issuer"]);
}

// Keys made for these tests with the openssl command line; they open nothing.
pub(super) const RS256: &[u8] = include_bytes!("test_keys/rs256_for_tests_only.pem");
const RSA_1024: &[u8] = include_bytes!("test_keys/rsa1024_for_tests_only.pem");
pub(super) const ES256: &[u8] = include_bytes!("test_keys/es256_for_tests_only.pem");
const ES384: &[u8] = include_bytes!("test_keys/es384_for_tests_only.pem");
pub(super) const ED25519: &[u8] = include_bytes!("test_keys/ed25519_for_tests_only.pem");

struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
}

fn rs256() -> Signer {
    Signer { key: EncodingKey::from_rsa_pem(RS256).unwrap(), algorithm: Algorithm::RS256 }
}

fn es256() -> Signer {
    Signer { key: EncodingKey::from_ec_pem(ES256).unwrap(), algorithm: Algorithm::ES256 }
}

fn es384() -> Signer {
    Signer { key: EncodingKey::from_ec_pem(ES384).unwrap(), algorithm: Algorithm::ES384 }
}

fn ed25519() -> Signer {
    Signer { key: EncodingKey::from_ed_pem(ED25519).unwrap(), algorithm: Algorithm::EdDSA }
}

impl Signer {
    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

/// The public half, as an identity provider publishes it.
fn jwk(signer: &Signer, kid: &str) -> Value {
    let mut jwk =
        serde_json::to_value(Jwk::from_encoding_key(&signer.key, signer.algorithm).unwrap()).unwrap();
    jwk["kid"] = json!(kid);
    jwk["use"] = json!("sig");
    jwk["alg"] = json!(format!("{:?}", signer.algorithm));
    jwk
}

fn file_of(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

fn key_set(keys: &[Value]) -> tempfile::NamedTempFile {
    file_of(json!({"keys": keys, "of": "an issuer that says more than it must"}).to_string().as_bytes())
}

fn verifier_of(keys: &[Value]) -> UserVerifier {
    let file = key_set(keys);
    let section = AuthSection { jwks_file: Some(file.path().to_owned()), ..AuthSection::default() };
    assert_eq!(section.problems(true), Vec::new());
    users_of(&section).unwrap()
}

fn refused_with(verifier: &UserVerifier, token: &str, expected: &str) {
    let problem = caller(verifier, token).unwrap_err();
    assert_eq!(problem.code(), Code::Unauthorized);
    assert!(problem.to_string().contains(expected), "{problem} should say {expected:?}");
}

#[test]
fn each_algorithm_counts_with_the_key_that_its_kid_names() {
    let signers = [("a", rs256()), ("b", es256()), ("c", ed25519())];
    let keys: Vec<Value> = signers.iter().map(|(kid, signer)| jwk(signer, kid)).collect();
    let verifier = verifier_of(&keys);
    for (kid, signer) in &signers {
        let caller = caller(&verifier, &signer.sign(Some(kid), &claims())).unwrap();
        assert_eq!(caller.user_id.as_str(), "ann");
    }
    // A key that was rotated out counts no more.
    refused_with(
        &verifier_of(&keys[1..]),
        &signers[0].1.sign(Some("a"), &claims()),
        "kid is none of the keys",
    );
}

#[test]
fn a_token_of_a_key_set_must_be_right_in_everything() {
    let verifier = verifier_of(&[jwk(&rs256(), "rsa"), jwk(&es256(), "ec"), jwk(&ed25519(), "ed")]);
    let sign = |claims: &Value| es256().sign(Some("ec"), claims);
    let mut without_exp = claims();
    without_exp.as_object_mut().unwrap().remove("exp");
    let crit = Header {
        kid: Some("ec".to_owned()),
        crit: Some(vec!["b64".to_owned()]),
        ..Header::new(Algorithm::ES256)
    };
    let good = sign(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let unsigned = |header: &Value| {
        let body = message.split_once('.').unwrap().1;
        format!("{}.{body}.", BASE64URL_NOPAD.encode(header.to_string().as_bytes()))
    };
    let cases = [
        (es256().sign(None, &claims()), "names no kid"),
        (es256().sign(Some("other"), &claims()), "kid is none of the keys"),
        (es256().sign(Some("rsa"), &claims()), "alg is not the one"),
        (rs256().sign(Some("ec"), &claims()), "alg is not the one"),
        (
            Signer { algorithm: Algorithm::RS512, ..rs256() }.sign(Some("rsa"), &claims()),
            "alg is not the one",
        ),
        (
            Signer { algorithm: Algorithm::PS256, ..rs256() }.sign(Some("rsa"), &claims()),
            "alg is not the one",
        ),
        (sign(&with("aud", json!("firstcome-admin"))), "aud is another"),
        (sign(&with("iss", json!("somebody"))), "iss is another"),
        (sign(&with("exp", json!(1))), "has expired"),
        (sign(&without_exp), "has no exp"),
        (encode(&crit, &claims(), &es256().key).unwrap(), "crit names"),
        (format!("{message}.{}", BASE64URL_NOPAD.encode(&[0; 64])), "signature is wrong"),
        (format!("{message}."), "signature is wrong"),
        (
            format!("{}.{signature}", sign(&with("sub", json!("bob"))).rsplit_once('.').unwrap().0),
            "signature is wrong",
        ),
        (unsigned(&json!({"alg": "none", "kid": "ec"})), "cannot be read"),
        (unsigned(&json!({"alg": "ES256", "kid": "ec"})), "signature is wrong"),
    ];
    for (token, expected) in cases {
        refused_with(&verifier, &token, expected);
    }
}

/// The classic: what everybody may read, the public key, taken for an HMAC secret.
#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    for signer in [rs256(), es256(), ed25519()] {
        let public = jwk(&signer, "k1");
        let verifier = verifier_of(std::slice::from_ref(&public));
        let parts = ["n", "x", "y"].into_iter().filter_map(|name| public[name].as_str());
        let decoded = parts.clone().map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap());
        let secrets = parts
            .map(|part| part.as_bytes().to_vec())
            .chain(decoded)
            .chain([public.to_string().into_bytes()]);
        for secret in secrets {
            let forger = Signer { key: EncodingKey::from_secret(&secret), algorithm: Algorithm::HS256 };
            refused_with(&verifier, &forger.sign(Some("k1"), &claims()), "alg is not the one");
        }
    }
    // Nor does a secret's verifier take what a public key could check.
    let secret = users_of(&section()).unwrap();
    refused_with(&secret, &es256().sign(Some("k1"), &claims()), "alg is not the one");
}

#[test]
fn an_rsa_key_that_names_no_algorithm_is_good_for_all_of_rsa_and_one_that_does_for_that() {
    let of = |algorithm| Signer { algorithm, ..rs256() };
    let mut unnamed = jwk(&rs256(), "rsa");
    unnamed.as_object_mut().unwrap().remove("alg");
    let any = verifier_of(&[unnamed, jwk(&es384(), "ec")]);
    for algorithm in [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ] {
        let signed = of(algorithm).sign(Some("rsa"), &claims());
        assert!(caller(&any, &signed).is_ok(), "{algorithm:?}");
        let mut named = jwk(&of(algorithm), "rsa");
        named["alg"] = json!(format!("{algorithm:?}"));
        let one = verifier_of(&[named]);
        assert!(caller(&one, &signed).is_ok(), "{algorithm:?}");
        let other = if algorithm == Algorithm::PS256 { Algorithm::RS256 } else { Algorithm::PS256 };
        refused_with(&one, &of(other).sign(Some("rsa"), &claims()), "alg is not the one");
    }
    assert!(caller(&any, &es384().sign(Some("ec"), &claims())).is_ok());
}

#[test]
fn a_set_of_one_key_needs_no_kid() {
    let mut alone = jwk(&es256(), "k1");
    alone.as_object_mut().unwrap().remove("kid");
    let verifier = verifier_of(&[alone.clone()]);
    assert!(caller(&verifier, &es256().sign(None, &claims())).is_ok());
    refused_with(&verifier, &rs256().sign(None, &claims()), "alg is not the one");
    // Beside others it cannot be told which is meant.
    let two = verifier_of(&[alone, jwk(&rs256(), "k2")]);
    refused_with(&two, &es256().sign(None, &claims()), "alg is not the one");
    assert!(caller(&two, &rs256().sign(None, &claims())).is_ok(), "the only one that counts");
}

/// What a provider publishes besides is left out, each with a reason, and the rest counts.
#[test]
fn keys_that_cannot_have_signed_our_tokens_are_left_out_by_name() {
    let changed = |name: &str, value: Value| {
        let mut key = jwk(&es256(), "k1");
        key[name] = value;
        key
    };
    let without = |key: &Value, name: &str| {
        let mut key = key.clone();
        key.as_object_mut().unwrap().remove(name);
        key
    };
    let (ec, rsa) = (jwk(&es256(), "k1"), jwk(&rs256(), "k1"));
    let short_rsa = Signer { key: EncodingKey::from_rsa_pem(RSA_1024).unwrap(), algorithm: Algorithm::RS256 };
    let ed = |x: &[u8]| json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": BASE64URL_NOPAD.encode(x)});
    let mut even = rsa.clone();
    even["e"] = json!("Ag");
    let cases = [
        (without(&ec, "kid"), "kid is missing"),
        (changed("kid", json!("")), "kid is missing"),
        (changed("kid", json!("x".repeat(257))), "more than 256 bytes"),
        (without(&ec, "kty"), "kty is missing"),
        (changed("kty", json!("oct")), "(kid k1): is a symmetric key"),
        (json!({"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}), "is a symmetric key"),
        (changed("kty", json!("AKP")), "kty must be RSA, EC or OKP"),
        (changed("crv", json!("P-521")), "crv must be P-256 or P-384"),
        (changed("crv", json!("secp256k1")), "crv must be P-256 or P-384"),
        (json!({"kty": "OKP", "crv": "X25519", "kid": "k1", "x": "AA"}), "crv must be Ed25519"),
        (json!({"kty": "OKP", "crv": "Ed448", "kid": "k1", "x": "AA"}), "crv must be Ed25519"),
        (changed("d", json!("c2VjcmV0")), "has d, which is part of a private key"),
        (changed("use", json!("enc")), "use is another one than sig"),
        (
            json!({"kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": "k1", "n": rsa["n"], "e": "AQAB"}),
            "use is another one than sig",
        ),
        (
            json!({"kty": "RSA", "alg": "RSA-OAEP", "kid": "k1", "n": rsa["n"], "e": "AQAB"}),
            "alg must be RS256, RS384",
        ),
        (changed("key_ops", json!(["sign"])), "key_ops lack verify"),
        (changed("alg", json!("ES384")), "alg must be ES256"),
        (changed("alg", json!("HS256")), "alg must be ES256"),
        (without(&ec, "y"), "y is missing"),
        (changed("y", json!("AA")), "y must have 32 bytes, has 1"),
        (changed("y", json!("a+b=")), "y must be base64url"),
        (changed("y", ec["x"].clone()), "no point of its curve"),
        (jwk(&short_rsa, "k1"), "a modulus of 1024 bits, must have 2048..=4096"),
        (even, "n and e are no RSA key"),
        (ed(&[2; 31]), "x must have 32 bytes, has 31"),
        (ed(&[2; 32]), "no point of Ed25519"),
    ];
    let good = jwk(&ed25519(), "good");
    for (key, expected) in cases {
        let set = jwks::parse(json!({"keys": [key, good]}).to_string().as_bytes()).unwrap();
        let kids: Vec<_> = set.keys.iter().map(|key| key.kid.as_deref()).collect();
        assert_eq!((kids.as_slice(), set.left_out.len()), (&[Some("good")][..], 1), "{expected}");
        assert!(
            set.left_out[0].starts_with("keys[0]") && set.left_out[0].contains(expected),
            "{:?}: {expected}",
            set.left_out
        );
    }
    let twice = jwks::parse(json!({"keys": [ec, rsa]}).to_string().as_bytes()).unwrap();
    assert!(twice.left_out[0].contains("keys[1] (kid k1): has the kid of another key"));
    let many: Vec<Value> =
        (0..=jwks::JWKS_KEYS_MAX).map(|number| jwk(&es256(), &number.to_string())).collect();
    let many = jwks::parse(json!({"keys": many}).to_string().as_bytes()).unwrap();
    assert_eq!((many.keys.len(), many.left_out.len()), (jwks::JWKS_KEYS_MAX, 1));
    assert!(many.left_out[0].contains("only 64 keys count"));
    // Padding is against the standard, and some providers pad.
    let mut padded = ec.clone();
    for name in ["x", "y"] {
        let bytes = BASE64URL_NOPAD.decode(ec[name].as_str().unwrap().as_bytes()).unwrap();
        padded[name] = json!(BASE64URL.encode(&bytes));
    }
    assert!(padded["x"].as_str().unwrap().ends_with('='));
    assert!(caller(&verifier_of(&[padded]), &es256().sign(Some("k1"), &claims())).is_ok());
}

#[test]
fn a_file_without_a_key_that_counts_is_refused_by_file_key_and_remedy() {
    let enc = json!({"kty": "RSA", "use": "enc", "kid": "e"});
    let cases = [
        (json!({"keys": []}).to_string(), "has no key that counts"),
        (
            json!({"keys": [enc]}).to_string(),
            "has no key that counts, so nobody could be recognised: keys[0] (kid e): its use",
        ),
        (json!([enc]).to_string(), "must be a JWK set"),
        ("{".to_owned(), "must be a JWK set"),
        (" ".repeat(jwks::JWKS_BYTES_MAX + 1), "has more than 262144 bytes"),
    ];
    for (content, expected) in cases {
        let file = file_of(content.as_bytes());
        let section = AuthSection { jwks_file: Some(file.path().to_owned()), ..AuthSection::default() };
        assert!(users_of(&section).is_err());
        let problems = section.problems(true);
        assert_eq!((problems.len(), problems[0].0.as_str()), (1, "auth.jwks_file"));
        assert!(problems[0].1.starts_with(file.path().to_str().unwrap()), "{problems:?} names the file");
        assert!(problems[0].1.contains(expected), "{problems:?} should say {expected}");
    }
    let nowhere = AuthSection { jwks_file: Some("/nowhere/keys.json".into()), ..AuthSection::default() };
    assert!(nowhere.problems(true)[0].1.contains("/nowhere/keys.json: cannot be read"));
}

#[test]
fn a_section_says_what_is_wrong_by_key() {
    let section = |change: &dyn Fn(&mut AuthSection)| {
        let mut section = AuthSection { issuer: "https://id.example".to_owned(), ..AuthSection::default() };
        change(&mut section);
        section
    };
    let wrong = |section: &AuthSection| {
        let problems = section.problems(true).into_iter().chain(section.admin_problems(true));
        problems.map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(wrong(&section(&|_| {})), Vec::<String>::new());
    type Change = dyn Fn(&mut AuthSection);
    let cases: [(&Change, &str); 16] = [
        (&|s| s.issuer = "http://id.example".to_owned(), "auth.issuer"),
        (&|s| s.issuer = "https://".to_owned(), "auth.issuer"),
        (&|s| s.jwks_url = Some("http://id.example/keys".to_owned()), "auth.jwks_url"),
        (&|s| s.jwks_url = Some("id.example/keys".to_owned()), "auth.jwks_url"),
        (&|s| s.audience = Words::default(), "auth.audience"),
        (&|s| s.audience_claim = String::new(), "auth.audience_claim"),
        (&|s| s.leeway_s = 301, "auth.leeway_s"),
        (&|s| s.refresh_s = 29, "auth.refresh_s"),
        (&|s| s.refresh_s = 86_401, "auth.refresh_s"),
        (&|s| s.ca_file = Some("/nowhere/ca.pem".into()), "auth.ca_file"),
        (&|s| s.admin.audience = Words::of(["b", "firstcome"]), "auth.admin.audience"),
        (&|s| s.admin.jwks_url = Some("https://id.example/keys".to_owned()), "auth.admin.issuer"),
        (&|s| s.admin.issuer = Some("operators".to_owned()), "auth.admin.issuer"),
        (&|s| s.admin.rights_claims = Words::default(), "auth.admin.rights_claims"),
        (&|s| s.admin.read_names = Words::default(), "auth.admin.read_names"),
        (&|s| s.admin.audience_claim = Some(String::new()), "auth.admin.audience_claim"),
    ];
    for (change, key) in cases {
        assert_eq!(wrong(&section(change)), [key]);
    }
    let own = section(&|s| {
        s.admin.issuer = Some("https://staff.example".to_owned());
        s.admin.audience = Words::of(["firstcome"]);
    });
    assert_eq!(wrong(&own), Vec::<String>::new(), "another issuer's tokens cannot be users'");
}

#[test]
fn rights_are_found_whatever_claim_and_shape_they_have() {
    let section = AuthSection {
        admin: AdminAuthSection {
            rights_claims: Words::of([
                "scope",
                "scp",
                "roles",
                "permissions",
                "realm_access.roles",
                "https://shop.example/rights",
                "urn:zitadel:iam:org:project:roles",
            ]),
            write_names: Words::of(["coupons:write", "Coupons.Write"]),
            ..AdminAuthSection::default()
        },
        ..section()
    };
    let verifier = operators_of(&section);
    let rights = |more: &Value| {
        let mut claims =
            json!({"sub": "ann", "aud": "firstcome-admin", "iss": "firstcome", "exp": 4_000_000_000u64});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let operator = soon(verifier.operator(&request(&token(&claims, SECRET)))).unwrap();
        (operator.demand(Scope::ReadCoupons).is_ok(), operator.demand(Scope::WriteCoupons).is_ok())
    };
    let cases = [
        (json!({"scope": "openid coupons:read coupons:write"}), (true, true)),
        (json!({"scope": ["coupons:read"]}), (true, false)),
        (json!({"scp": "coupons:write"}), (false, true)),
        (json!({"scp": ["coupons:read", "openid"]}), (true, false)),
        (json!({"roles": ["Coupons.Write"]}), (false, true)),
        (json!({"permissions": ["coupons:read", "coupons:write"]}), (true, true)),
        (json!({"realm_access": {"roles": ["offline_access", "coupons:read"]}}), (true, false)),
        (json!({"https://shop.example/rights": ["coupons:write"]}), (false, true)),
        (
            json!({"urn:zitadel:iam:org:project:roles": {"coupons:read": {"1": "shop.example"}}}),
            (true, false),
        ),
        (
            json!({"scope": "coupons:readers", "roles": "xcoupons:write", "realm_access": "coupons:read"}),
            (false, false),
        ),
        (json!({"scope": 7, "scp": null, "roles": {"a": 1}}), (false, false)),
        (json!({}), (false, false)),
    ];
    for (more, expected) in cases {
        assert_eq!(rights(&more), expected, "{more}");
    }
    // A user is nobody's operator, and their token may have whatever shape of scope.
    for scope in [json!(["openid"]), json!(7), json!({"a": "b"}), json!(null)] {
        assert!(caller(&users_of(&section).unwrap(), &token(&with("scope", scope), SECRET)).is_ok());
    }
}

#[test]
fn tokens_without_aud_say_in_another_claim_for_whom_they_are() {
    let section = AuthSection {
        audience: Words::of(["web", "app"]),
        audience_claim: "client_id".to_owned(),
        ..section()
    };
    let verifier = users_of(&section).unwrap();
    let token_of = |more: &Value| {
        let mut claims = json!({"sub": "ann", "iss": "firstcome", "exp": 4_000_000_000u64});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token(&claims, SECRET)
    };
    for more in [json!({"client_id": "app"}), json!({"client_id": ["x", "web"], "aud": "elsewhere"})] {
        assert!(caller(&verifier, &token_of(&more)).is_ok(), "{more}");
    }
    refused_with(&verifier, &token_of(&json!({})), "has no client_id");
    refused_with(&verifier, &token_of(&json!({"client_id": "other"})), "client_id is another one");
    refused_with(&verifier, &token_of(&json!({"client_id": 7})), "client_id is another one");
    // Of several audiences one is enough.
    let several = AuthSection { audience: Words::of(["web", "app"]), ..self::section() };
    assert!(caller(&users_of(&several).unwrap(), &token(&with("aud", json!(["x", "app"])), SECRET)).is_ok());
}
