use std::io::Write as _;

use actix_web::test::TestRequest;
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::encode;
use jsonwebtoken::jwk::Jwk;
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn section() -> AuthSection {
    AuthSection { hs256_secret: Some(SECRET.to_owned()), ..AuthSection::default() }
}

fn claims() -> Value {
    json!({"sub": "ann", "aud": "firstcome", "iss": "firstcome", "exp": 4_000_000_000u64, "scope": "coupons:read"})
}

fn token(claims: &Value, secret: &str) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn request(token: &str) -> HttpRequest {
    TestRequest::default().insert_header((AUTHORIZATION, format!("Bearer {token}"))).to_http_request()
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

#[test]
fn a_good_token_names_its_user() {
    let caller = UserVerifier::new(&section()).unwrap().caller(&request(&token(&claims(), SECRET))).unwrap();
    assert_eq!(caller.user_id.as_str(), "ann");
}

#[test]
fn every_other_token_is_refused_with_its_reason() {
    let verifier = UserVerifier::new(&section()).unwrap();
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
        let problem = verifier.caller(&request(&token)).unwrap_err();
        assert_eq!(problem.code(), Code::Unauthorized);
        assert!(problem.to_string().contains(expected), "{problem} should say {expected:?}");
    }
    let bare = TestRequest::default().to_http_request();
    assert_eq!(verifier.caller(&bare).unwrap_err().code(), Code::Unauthorized);
}

#[test]
fn an_operator_has_another_audience_and_its_scopes() {
    let verifier = AdminVerifier::new(&section(), "firstcome-admin").unwrap();
    assert!(verifier.operator(&request(&token(&claims(), SECRET))).is_err());
    let token = token(&with("aud", json!("firstcome-admin")), SECRET);
    let operator = verifier.operator(&request(&token)).unwrap();
    assert!(operator.demand(Scope::ReadCoupons).is_ok());
    assert_eq!(operator.demand(Scope::WriteCoupons).unwrap_err().code(), Code::Forbidden);
}

#[test]
fn unsigned_tokens_do_not_count() {
    let header = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let signed = token(&claims(), SECRET);
    let body = signed.split('.').nth(1).unwrap();
    assert!(UserVerifier::new(&section()).unwrap().caller(&request(&format!("{header}.{body}."))).is_err());
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
    assert!(UserVerifier::new(&both).is_err() && UserVerifier::new(&AuthSection::default()).is_err());
    assert_eq!(keys(&section(), false), Vec::<String>::new());
    assert_eq!(keys(&section(), true), ["auth.hs256_secret"]);
    let short = AuthSection { hs256_secret: Some("short".to_owned()), issuer: String::new(), ..section() };
    assert_eq!(keys(&short, false), ["auth.hs256_secret", "auth.issuer"]);
}

// Keys made for these tests with the openssl command line; they open nothing.
const RS256: &[u8] = include_bytes!("test_keys/rs256_for_tests_only.pem");
const RSA_1024: &[u8] = include_bytes!("test_keys/rsa1024_for_tests_only.pem");
const ES256: &[u8] = include_bytes!("test_keys/es256_for_tests_only.pem");
const ED25519: &[u8] = include_bytes!("test_keys/ed25519_for_tests_only.pem");

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
    UserVerifier::new(&section).unwrap()
}

fn refused_with(verifier: &UserVerifier, token: &str, expected: &str) {
    let problem = verifier.caller(&request(token)).unwrap_err();
    assert_eq!(problem.code(), Code::Unauthorized);
    assert!(problem.to_string().contains(expected), "{problem} should say {expected:?}");
}

#[test]
fn each_algorithm_counts_with_the_key_that_its_kid_names() {
    let signers = [("a", rs256()), ("b", es256()), ("c", ed25519())];
    let keys: Vec<Value> = signers.iter().map(|(kid, signer)| jwk(signer, kid)).collect();
    let verifier = verifier_of(&keys);
    for (kid, signer) in &signers {
        let caller = verifier.caller(&request(&signer.sign(Some(kid), &claims()))).unwrap();
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
    let secret = UserVerifier::new(&section()).unwrap();
    refused_with(&secret, &es256().sign(Some("k1"), &claims()), "alg is not the one");
}

#[test]
fn a_file_of_keys_that_cannot_be_used_is_refused_by_file_key_and_remedy() {
    let changed = |name: &str, value: Value| {
        let mut key = jwk(&es256(), "k1");
        key[name] = value;
        json!({"keys": [key]})
    };
    let without = |key: &Value, name: &str| {
        let mut key = key.clone();
        key.as_object_mut().unwrap().remove(name);
        json!({"keys": [key]})
    };
    let (ec, rsa) = (jwk(&es256(), "k1"), jwk(&rs256(), "k1"));
    let short_rsa = Signer { key: EncodingKey::from_rsa_pem(RSA_1024).unwrap(), algorithm: Algorithm::RS256 };
    let ed = |x: &[u8]| json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": BASE64URL_NOPAD.encode(x)}]});
    let mut even = rsa.clone();
    even["e"] = json!("Ag");
    let many: Vec<Value> =
        (0..=jwks::JWKS_KEYS_MAX).map(|number| jwk(&es256(), &number.to_string())).collect();
    let cases = [
        (json!({"keys": []}), "has no key"),
        (json!([ec]), "must be a JWK set"),
        (json!({"keys": many}), "at most 16 count"),
        (json!({"keys": [ec, rsa]}), "keys[1] (kid k1): has the kid of another key"),
        (without(&ec, "kid"), "keys[0]: kid is missing"),
        (changed("kid", json!("")), "keys[0]: kid is missing"),
        (changed("kid", json!("x".repeat(257))), "more than 256 bytes"),
        (without(&ec, "kty"), "kty is missing"),
        (changed("kty", json!("oct")), "keys[0] (kid k1): is a symmetric key"),
        (json!({"keys": [{"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}]}), "is a symmetric key"),
        (changed("kty", json!("AKP")), "kty must be RSA, EC or OKP"),
        (changed("crv", json!("P-384")), "crv must be P-256"),
        (json!({"keys": [{"kty": "OKP", "crv": "X25519", "kid": "k1", "x": "AA"}]}), "crv must be Ed25519"),
        (changed("d", json!("c2VjcmV0")), "has d, which is part of a private key"),
        (changed("use", json!("enc")), "use is another one than sig"),
        (changed("key_ops", json!(["sign"])), "key_ops lack verify"),
        (changed("alg", json!("ES384")), "alg must be ES256"),
        (changed("alg", json!("HS256")), "alg must be ES256"),
        (without(&ec, "y"), "y is missing"),
        (changed("y", json!("AA")), "y must have 32 bytes, has 1"),
        (changed("y", json!("a+b=")), "y must be base64url"),
        (changed("y", ec["x"].clone()), "no point of P-256"),
        (json!({"keys": [jwk(&short_rsa, "k1")]}), "a modulus of 1024 bits, must have 2048..=4096"),
        (json!({"keys": [even]}), "n and e are no RSA key"),
        (ed(&[2; 31]), "x must have 32 bytes, has 31"),
        (ed(&[2; 32]), "no point of Ed25519"),
    ];
    for (content, expected) in cases {
        assert_refused(content.to_string().as_bytes(), expected);
    }
    assert_refused(&vec![b' '; jwks::JWKS_BYTES_MAX + 1], "has more than 65536 bytes");
    assert_refused(b"{", "must be a JWK set");

    let nowhere = AuthSection { jwks_file: Some("/nowhere/keys.json".into()), ..AuthSection::default() };
    assert!(nowhere.problems(true)[0].1.contains("/nowhere/keys.json: cannot be read"));
    let both = json!({"keys": [{"kid": "a", "kty": "oct"}, ec, {"kid": "b", "kty": "EC"}]});
    assert_eq!(problems_of(both.to_string().as_bytes()).len(), 2, "all that is wrong, at once");
}

fn problems_of(content: &[u8]) -> Vec<String> {
    let file = file_of(content);
    let section = AuthSection { jwks_file: Some(file.path().to_owned()), ..AuthSection::default() };
    assert!(UserVerifier::new(&section).is_err());
    let problems = section.problems(true).into_iter().map(|(key, problem)| {
        assert_eq!(key, "auth.jwks_file");
        assert!(problem.starts_with(file.path().to_str().unwrap()), "{problem} names the file");
        problem
    });
    problems.collect()
}

fn assert_refused(content: &[u8], expected: &str) {
    let problems = problems_of(content);
    assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?} should say {expected:?}");
}
