//! The file of public keys: a JWK set (RFC 7517), read once at boot.
//!
//! Each key is good for exactly one algorithm: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA. Everything in the file counts, so whatever
//! cannot be used is refused by name instead of being left out quietly.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Most keys in a set: those of one issuer, the next ones and the last ones.
pub const JWKS_KEYS_MAX: usize = 16;
/// Largest file of keys, in bytes.
pub const JWKS_BYTES_MAX: usize = 64 * 1024;
/// Longest `kid`, in bytes.
pub const KID_BYTES_MAX: usize = 256;
/// Shortest modulus of an RSA key, in bits (RFC 7518 §3.3).
pub const RSA_BITS_MIN: usize = 2_048;
/// Longest modulus of an RSA key, in bits: beyond it checking a token takes too long.
pub const RSA_BITS_MAX: usize = 4_096;

/// Length of a coordinate of P-256 and of an Ed25519 key, in bytes.
const COORDINATE_BYTES: usize = 32;
/// Members that only private or symmetric keys have (RFC 7518 §6).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A key that may have signed tokens.
#[derive(Clone)]
pub(super) struct PublicKey {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PublicKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Map<String, Value>>,
}

/// Reads all keys of a file, or everything that is wrong with it.
pub(super) fn read(file: &Path) -> Result<Vec<PublicKey>, Vec<String>> {
    let named = |problem: String| format!("{}: {problem}", file.display());
    let content = read_file(file).map_err(|problem| vec![named(problem)])?;
    parse(&content).map_err(|problems| problems.into_iter().map(named).collect())
}

fn read_file(file: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let limit = u64::try_from(JWKS_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file)
        .and_then(|file| file.take(limit).read_to_end(&mut content))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if content.len() > JWKS_BYTES_MAX {
        return Err(format!(
            "has more than {JWKS_BYTES_MAX} bytes: leave certificates (x5c) and old keys out"
        ));
    }
    Ok(content)
}

fn parse(content: &[u8]) -> Result<Vec<PublicKey>, Vec<String>> {
    let set: KeySet = serde_json::from_slice(content)
        .map_err(|error| vec![format!(r#"must be a JWK set, {{"keys": [...]}}: {error}"#)])?;
    if set.keys.is_empty() {
        return Err(vec!["has no key: nobody could be recognised".to_owned()]);
    }
    if set.keys.len() > JWKS_KEYS_MAX {
        let problem =
            format!("has {} keys, at most {JWKS_KEYS_MAX} count: take old ones out", set.keys.len());
        return Err(vec![problem]);
    }
    let (mut keys, mut problems): (Vec<PublicKey>, Vec<String>) = (Vec::new(), Vec::new());
    for (index, members) in set.keys.iter().enumerate() {
        let kid = text(members, "kid").unwrap_or_default();
        let mut wrong = |problem: &str| {
            let kid: String = kid.chars().filter(|char| !char.is_control()).take(KID_BYTES_MAX).collect();
            problems.push(match kid.as_str() {
                "" => format!("keys[{index}]: {problem}"),
                kid => format!("keys[{index}] (kid {kid}): {problem}"),
            });
        };
        match public_key(members) {
            Err(problem) => wrong(&problem),
            Ok(key) if keys.iter().any(|other| other.kid == key.kid) => {
                wrong("has the kid of another key: give each key one of its own");
            }
            Ok(key) => keys.push(key),
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(problems) }
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    members.get(name)?.as_str()
}

fn public_key(members: &Map<String, Value>) -> Result<PublicKey, String> {
    let kty = text(members, "kty").ok_or("kty is missing: it says which kind of key this is")?;
    if kty == "oct" {
        return Err(
            "is a symmetric key: whoever can check with it can sign. Only public keys belong here".to_owned()
        );
    }
    if let Some(member) = PRIVATE_MEMBERS.into_iter().find(|member| members.contains_key(*member)) {
        return Err(format!(
            "has {member}, which is part of a private key: publish the public half alone, and replace the key if others saw this file"
        ));
    }
    let kid = text(members, "kid").filter(|kid| !kid.is_empty());
    let kid = kid.ok_or("kid is missing: tokens name their key by it")?;
    if kid.len() > KID_BYTES_MAX {
        return Err(format!("its kid has more than {KID_BYTES_MAX} bytes"));
    }
    let (algorithm, key) = match (kty, text(members, "crv")) {
        ("RSA", _) => (Algorithm::RS256, rsa(members)?),
        ("EC", Some("P-256")) => (Algorithm::ES256, p256(members)?),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, ed25519(members)?),
        ("EC", _) => return Err("crv must be P-256 for kty EC".to_owned()),
        ("OKP", _) => return Err("crv must be Ed25519 for kty OKP".to_owned()),
        _ => return Err("kty must be RSA, EC or OKP".to_owned()),
    };
    check_purpose(members, algorithm)?;
    Ok(PublicKey { kid: kid.to_owned(), algorithm, key })
}

/// A key that says what it is for is used for nothing else.
fn check_purpose(members: &Map<String, Value>, algorithm: Algorithm) -> Result<(), String> {
    if members.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err("its use is another one than sig: leave keys out that sign no tokens".to_owned());
    }
    let verifies = |operations: &Value| {
        operations
            .as_array()
            .is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    };
    if members.get("key_ops").is_some_and(|operations| !verifies(operations)) {
        return Err("its key_ops lack verify: leave keys out that sign no tokens".to_owned());
    }
    let spelled = format!("{algorithm:?}");
    if members.get("alg").is_some_and(|alg| alg.as_str() != Some(spelled.as_str())) {
        return Err(format!(
            "its alg must be {spelled} (or be left out): no other is taken with a key of this kind"
        ));
    }
    Ok(())
}

fn rsa(members: &Map<String, Value>) -> Result<DecodingKey, String> {
    let (modulus, exponent) = (bytes(members, "n")?, bytes(members, "e")?);
    let bits = bits(&modulus);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(format!(
            "has a modulus of {bits} bits, must have {RSA_BITS_MIN}..={RSA_BITS_MAX}: make another key"
        ));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    // 3 is the smallest exponent there is; the library takes none beyond 33 bits.
    if !is_odd(&modulus) || !is_odd(&exponent) || !(2..=33).contains(&self::bits(&exponent)) {
        return Err("n and e are no RSA key: e is an odd number like 65537 (AQAB)".to_owned());
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn p256(members: &Map<String, Value>) -> Result<DecodingKey, String> {
    let (x, y) = (coordinate(members, "x")?, coordinate(members, "y")?);
    let key = DecodingKey::from_ec_components(&BASE64URL_NOPAD.encode(&x), &BASE64URL_NOPAD.encode(&y))
        .map_err(|error| error.to_string())?;
    usable(key, Algorithm::ES256, "x and y are no point of P-256")
}

fn ed25519(members: &Map<String, Value>) -> Result<DecodingKey, String> {
    usable(DecodingKey::from_ed_der(&coordinate(members, "x")?), Algorithm::EdDSA, "x is no point of Ed25519")
}

/// The library looks at a key only once it checks a signature: it does so now.
fn usable(key: DecodingKey, algorithm: Algorithm, problem: &str) -> Result<DecodingKey, String> {
    match jsonwebtoken::crypto::verify("", b"", &key, algorithm) {
        Ok(_) => Ok(key),
        Err(_) => Err(problem.to_owned()),
    }
}

fn coordinate(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let bytes = bytes(members, name)?;
    match bytes.len() {
        COORDINATE_BYTES => Ok(bytes),
        found => Err(format!("{name} must have {COORDINATE_BYTES} bytes, has {found}")),
    }
}

fn bytes(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text(members, name).ok_or_else(|| format!("{name} is missing"))?;
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|error| format!("{name} must be base64url without padding: {error}"))
}

/// Length of a big-endian number, in bits.
fn bits(number: &[u8]) -> usize {
    let significant = number.iter().skip_while(|byte| **byte == 0);
    let leading_zeros = significant.clone().next().map_or(0, |byte| byte.leading_zeros());
    significant.count() * 8 - usize::try_from(leading_zeros).unwrap_or(0)
}
