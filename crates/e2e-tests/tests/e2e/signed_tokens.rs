use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use couponctl::api::Client;
use e2e_tests::{CouponSpec, World, WorldSpec, oracle};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local_stack::{Role, ServiceSpec};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Made for this test with the openssl command line; it opens nothing.
const KEY: &[u8] = include_bytes!("signed_tokens_key_for_tests_only.pem");
const KID: &str = "2026-11";
const SECRET: &str = "FIRSTCOME__AUTH__HS256_SECRET";
const GATEWAY: &str = "api-gateway-with-keys";
const NOTIFIER: &str = "notifier-with-keys";

/// A gateway and a notifier that recognise people by a file of public keys, as in production: the identity provider alone can make tokens.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        let key = EncodingKey::from_ec_pem(KEY)?;
        let mut file = tempfile::NamedTempFile::new()?;
        write!(file, "{}", key_set(&key)?)?;
        let keys = file.path().to_str().context("a temporary file has a plain name")?;
        for (role, name) in [(Role::ApiGateway, GATEWAY), (Role::Notifier, NOTIFIER)] {
            let spec = ServiceSpec::new(role).instance(name).without(SECRET);
            world.add_spec(spec.env("FIRSTCOME__AUTH__JWKS_FILE", keys))?;
            world.wait_ready(name)?;
        }

        let credentials = &world.deployment.credentials;
        let (audience, admin_audience) = (&credentials.jwt_audience, &credentials.admin_jwt_audience);
        let ann = world.user_with("ann", &sign(&world, &key, audience)?, GATEWAY, NOTIFIER)?;
        let claim_id = ann.claim(&coupon_id).await?;
        ensure!(ann.answer(&claim_id).await?.code() == "granted");

        // The secret of the other services counts for nothing here, and a user's token opens no admin API.
        let shared = world.user_with("ann", &world.token("ann", audience, None)?, GATEWAY, NOTIFIER)?;
        let pressed = shared.press(&coupon_id).await?;
        let asked = shared.notifier.get(&format!("/v1/claims/{claim_id}"), &[]).await?;
        for refused in [&pressed, &asked] {
            ensure!(refused.status == StatusCode::UNAUTHORIZED, "{refused:?}");
            ensure!(refused.text("detail").starts_with("the token's alg is not the one"), "{refused:?}");
        }
        let admin = world.service(GATEWAY)?.admin_url().context("a gateway has an admin API")?;
        let path = format!("/admin/v1/coupons/{coupon_id}");
        let as_user = Client::new(&admin, &ann.token)?.get(&path, &[]).await?;
        ensure!(as_user.status == StatusCode::UNAUTHORIZED, "{as_user:?}");
        let as_operator = Client::new(&admin, &sign(&world, &key, admin_audience)?)?.get(&path, &[]).await?;
        ensure!(as_operator.status == StatusCode::OK, "{as_operator:?}");

        // The command line presses as users of its own, with the same key.
        let private = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/signed_tokens_key_for_tests_only.pem");
        let urls = [
            ("--api-url", world.service(GATEWAY)?.api_url()),
            ("--admin-url", Some(admin)),
            ("--notifier-url", world.service(NOTIFIER)?.api_url()),
        ];
        let mut arguments = vec!["smoke", "--jwt-key-file", private, "--jwt-key-id", KID];
        for (flag, url) in &urls {
            arguments.extend([flag, url.as_deref().context("it serves HTTP")?]);
        }
        let smoke = world.deployment.couponctl_without(&["JWT_SECRET"], &arguments)?;
        ensure!(smoke.contains("ok"), "{smoke}");
        let no_key = [&arguments[..2], &["Cargo.toml"], &arguments[3..]].concat();
        let refused = world.deployment.couponctl_without(&["JWT_SECRET"], &no_key).err().context("no key")?;
        ensure!(refused.to_string().contains("--jwt-key-file Cargo.toml: is no private key"), "{refused}");

        oracle::verify(&world).await?;
        Ok(())
    })
}

/// What an identity provider publishes.
fn key_set(key: &EncodingKey) -> Result<Value> {
    let mut public = serde_json::to_value(Jwk::from_encoding_key(key, Algorithm::ES256)?)?;
    public["kid"] = json!(KID);
    Ok(json!({"keys": [public]}))
}

fn sign(world: &World, key: &EncodingKey, audience: &str) -> Result<String> {
    let claims = json!({
        "sub": "ann",
        "aud": audience,
        "iss": world.deployment.credentials.jwt_issuer,
        "exp": world.clock().now().plus_ms(600_000).ms() / 1_000,
        "scope": "coupons:read",
    });
    let header = Header { kid: Some(KID.to_owned()), ..Header::new(Algorithm::ES256) };
    Ok(jsonwebtoken::encode(&header, &claims, key)?)
}
