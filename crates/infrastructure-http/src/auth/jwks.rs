//! Sets of public keys (RFC 7517), as identity providers publish them.
//!
//! A key is good for one algorithm, the one that it names or that its kind has; an RSA key that names none is good for all six of RSA. What cannot have signed
//! our tokens (keys for encryption, other curves, private halves) is left out by name: providers publish more than we need.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Most keys in a set that count: those of one issuer, the next ones and the last ones.
pub const JWKS_KEYS_MAX: usize = 64;
/// Largest set of keys, in bytes; some come with certificates.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// Longest `kid`, in bytes.
pub const KID_BYTES_MAX: usize = 256;
/// Shortest modulus of an RSA key, in bits (RFC 7518 §3.3).
pub const RSA_BITS_MIN: usize = 2_048;
/// Longest modulus of an RSA key, in bits: beyond it checking a token takes too long.
pub const RSA_BITS_MAX: usize = 4_096;

/// Length of an Ed25519 key, in bytes.
const ED25519_BYTES: usize = 32;
/// Members that only private or symmetric keys have (RFC 7518 §6).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What an RSA key that names no algorithm is good for.
const OF_RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// What a key may be good for.
pub(super) const ACCEPTED: [&[Algorithm]; 11] = [
    &OF_RSA,
    &[Algorithm::RS256],
    &[Algorithm::RS384],
    &[Algorithm::RS512],
    &[Algorithm::PS256],
    &[Algorithm::PS384],
    &[Algorithm::PS512],
    &[Algorithm::ES256],
    &[Algorithm::ES384],
    &[Algorithm::EdDSA],
    &[Algorithm::HS256],
];

/// A key that may have signed tokens.
#[derive(Clone)]
pub(super) struct PublicKey {
    /// How tokens name it; a set of one key may leave it out.
    pub(super) kid: Option<String>,
    /// Which of [`ACCEPTED`] it is good for.
    pub(super) accepts: usize,
    pub(super) key: DecodingKey,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PublicKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl PublicKey {
    /// The key that the secret of HS256 tokens is.
    pub(super) fn of_secret(secret: &str) -> Self {
        let accepts = accepted_by(&[Algorithm::HS256]);
        Self { kid: None, accepts, key: DecodingKey::from_secret(secret.as_bytes()) }
    }
}

fn accepted_by(algorithms: &[Algorithm]) -> usize {
    ACCEPTED.iter().position(|accepted| *accepted == algorithms).unwrap_or(ACCEPTED.len())
}

/// A set of keys as it was published.
#[derive(Debug)]
pub(super) struct KeySet {
    /// Those that count.
    pub(super) keys: Vec<PublicKey>,
    /// Those that do not, and why.
    pub(super) left_out: Vec<String>,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Map<String, Value>>,
}

/// Reads the keys of a file.
pub(super) fn read(file: &Path) -> Result<KeySet, String> {
    let named = |problem: String| format!("{}: {problem}", file.display());
    let mut content = Vec::new();
    let limit = u64::try_from(JWKS_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file)
        .and_then(|file| file.take(limit).read_to_end(&mut content))
        .map_err(|error| named(format!("cannot be read: {error}")))?;
    parse(&content).map_err(named)
}

/// Reads a set of keys; none of them, if it is no such set or none of its keys counts.
pub(super) fn parse(content: &[u8]) -> Result<KeySet, String> {
    if content.len() > JWKS_BYTES_MAX {
        return Err(format!(
            "has more than {JWKS_BYTES_MAX} bytes: leave certificates (x5c) and old keys out"
        ));
    }
    let published: Published = serde_json::from_slice(content)
        .map_err(|error| format!(r#"must be a JWK set, {{"keys": [...]}}: {error}"#))?;
    let is_alone = published.keys.len() == 1;
    let (mut keys, mut left_out): (Vec<PublicKey>, Vec<String>) = (Vec::new(), Vec::new());
    for (index, members) in published.keys.iter().enumerate() {
        let reason = match public_key(members) {
            Err(reason) => reason,
            Ok(key) if key.kid.is_none() && !is_alone => {
                "kid is missing: with several keys, tokens name theirs by it".to_owned()
            }
            Ok(key) if keys.iter().any(|other| other.kid == key.kid) => {
                "has the kid of another key: give each key one of its own".to_owned()
            }
            Ok(_) if keys.len() == JWKS_KEYS_MAX => {
                format!("only {JWKS_KEYS_MAX} keys count: take old ones out")
            }
            Ok(key) => {
                keys.push(key);
                continue;
            }
        };
        let kid = text(members, "kid").unwrap_or_default();
        let kid: String = kid.chars().filter(|char| !char.is_control()).take(KID_BYTES_MAX).collect();
        left_out.push(match kid.as_str() {
            "" => format!("keys[{index}]: {reason}"),
            kid => format!("keys[{index}] (kid {kid}): {reason}"),
        });
    }
    if keys.is_empty() {
        let reasons = if left_out.is_empty() { String::new() } else { format!(": {}", left_out.join("; ")) };
        return Err(format!("has no key that counts, so nobody could be recognised{reasons}"));
    }
    Ok(KeySet { keys, left_out })
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
            "has {member}, which is part of a private key: publish the public half alone, and replace the key if others saw it"
        ));
    }
    let kid = text(members, "kid").filter(|kid| !kid.is_empty());
    if kid.is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(format!("its kid has more than {KID_BYTES_MAX} bytes"));
    }
    check_purpose(members)?;
    let (of_kind, key): (&[Algorithm], _) = match (kty, text(members, "crv")) {
        ("RSA", _) => (&OF_RSA, rsa(members)),
        ("EC", Some("P-256")) => (&[Algorithm::ES256], on_curve(members, Algorithm::ES256, 32)),
        ("EC", Some("P-384")) => (&[Algorithm::ES384], on_curve(members, Algorithm::ES384, 48)),
        ("OKP", Some("Ed25519")) => (&[Algorithm::EdDSA], ed25519(members)),
        ("EC", _) => return Err("crv must be P-256 or P-384 for kty EC".to_owned()),
        ("OKP", _) => return Err("crv must be Ed25519 for kty OKP".to_owned()),
        _ => return Err("kty must be RSA, EC or OKP".to_owned()),
    };
    let named = match text(members, "alg") {
        None => of_kind.to_vec(),
        // RFC 9864 names EdDSA by its curve.
        Some("Ed25519") if of_kind == [Algorithm::EdDSA] => of_kind.to_vec(),
        Some(alg) => of_kind.iter().filter(|algorithm| format!("{algorithm:?}") == alg).copied().collect(),
    };
    if named.is_empty() {
        let spelled: Vec<String> = of_kind.iter().map(|algorithm| format!("{algorithm:?}")).collect();
        return Err(format!(
            "its alg must be {} (or be left out) for a key of this kind",
            spelled.join(", ")
        ));
    }
    Ok(PublicKey { kid: kid.map(str::to_owned), accepts: accepted_by(&named), key: key? })
}

/// A key that says what it is for is used for nothing else.
fn check_purpose(members: &Map<String, Value>) -> Result<(), String> {
    if members.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err("its use is another one than sig".to_owned());
    }
    let verifies = |operations: &Value| {
        operations
            .as_array()
            .is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    };
    if members.get("key_ops").is_some_and(|operations| !verifies(operations)) {
        return Err("its key_ops lack verify".to_owned());
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

fn on_curve(
    members: &Map<String, Value>,
    algorithm: Algorithm,
    length: usize,
) -> Result<DecodingKey, String> {
    let (x, y) = (coordinate(members, "x", length)?, coordinate(members, "y", length)?);
    let key = DecodingKey::from_ec_components(&BASE64URL_NOPAD.encode(&x), &BASE64URL_NOPAD.encode(&y))
        .map_err(|error| error.to_string())?;
    usable(key, algorithm, "x and y are no point of its curve")
}

fn ed25519(members: &Map<String, Value>) -> Result<DecodingKey, String> {
    let x = coordinate(members, "x", ED25519_BYTES)?;
    usable(DecodingKey::from_ed_der(&x), Algorithm::EdDSA, "x is no point of Ed25519")
}

/// The library looks at a key only once it checks a signature: it does so now.
fn usable(key: DecodingKey, algorithm: Algorithm, problem: &str) -> Result<DecodingKey, String> {
    match jsonwebtoken::crypto::verify("", b"", &key, algorithm) {
        Ok(_) => Ok(key),
        Err(_) => Err(problem.to_owned()),
    }
}

fn coordinate(members: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, String> {
    let bytes = bytes(members, name)?;
    match bytes.len() {
        found if found == length => Ok(bytes),
        found => Err(format!("{name} must have {length} bytes, has {found}")),
    }
}

/// Base64url; some providers pad it, which RFC 7515 §2 does not.
fn bytes(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text(members, name).ok_or_else(|| format!("{name} is missing"))?;
    BASE64URL_NOPAD
        .decode(text.trim_end_matches('=').as_bytes())
        .map_err(|error| format!("{name} must be base64url: {error}"))
}

/// Length of a big-endian number, in bits.
fn bits(number: &[u8]) -> usize {
    let significant = number.iter().skip_while(|byte| **byte == 0);
    let leading_zeros = significant.clone().next().map_or(0, |byte| byte.leading_zeros());
    significant.count() * 8 - usize::try_from(leading_zeros).unwrap_or(0)
}
