use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local_stack::{Role, ServiceSpec, Supervised as _};
use reqwest::StatusCode;
use serde_json::{Value, json};

const FIRST: &[u8] = include_bytes!("signed_tokens_key_for_tests_only.pem");
const SECOND: &[u8] = include_bytes!("issuer_rotates_key_for_tests_only.pem");
const SECRET: &str = "FIRSTCOME__AUTH__HS256_SECRET";
const GATEWAY: &str = "api-gateway-of-an-issuer";
const NOTIFIER: &str = "notifier-of-an-issuer";

/// A gateway and a notifier that know nothing but their issuer's address: it is away when they start, rotates its keys while they run, and goes away again.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let mut world = World::start(WorldSpec::default())?;
        let coupon_id = world.publish(&CouponSpec::of(3)).await?;
        let issuer = Issuer::start()?;
        for (role, name) in [(Role::ApiGateway, GATEWAY), (Role::Notifier, NOTIFIER)] {
            let spec = ServiceSpec::new(role).instance(name).without(SECRET);
            world.add_spec(spec.env("FIRSTCOME__AUTH__ISSUER", issuer.name.as_str()))?;
            world.wait_until_unready(name, "keys-of-users").await?;
        }
        let (first, second) = (EncodingKey::from_ec_pem(FIRST)?, EncodingKey::from_ec_pem(SECOND)?);
        let with = |name: &str, key: &EncodingKey, kid: &str| {
            world.user_with(name, &issuer.sign(&world, name, key, kid)?, GATEWAY, NOTIFIER)
        };
        let ann = with("ann", &first, "first")?;
        // Nobody is logged out because we do not know yet.
        // It may not listen yet.
        let early = eventually("the gateway listens", async || Ok(ann.press(&coupon_id).await.ok())).await?;
        ensure!(
            early.status == StatusCode::SERVICE_UNAVAILABLE && early.code() == "unavailable",
            "{early:?}"
        );

        issuer.publish(&[("first", &first)])?;
        for name in [GATEWAY, NOTIFIER] {
            world.wait_ready(name)?;
        }
        let claim_id = ann.claim(&coupon_id).await?;
        ensure!(ann.answer(&claim_id).await?.code() == "granted");

        // Its next key counts with the first token that it signs, and those it takes away do no more.
        issuer.publish(&[("second", &second)])?;
        let bob = with("bob", &second, "second")?;
        let claim_id = eventually("the next key counts", async || {
            let pressed = bob.press(&coupon_id).await?;
            Ok((pressed.status == StatusCode::ACCEPTED).then(|| pressed.text("claim_id").to_owned()))
        })
        .await?;
        eventually("the next key counts at the notifier", async || {
            let asked = bob.notifier.get(&format!("/v1/claims/{claim_id}"), &[]).await?;
            Ok((asked.status == StatusCode::OK).then_some(()))
        })
        .await?;
        let withdrawn = ann.press(&coupon_id).await?;
        ensure!(withdrawn.status == StatusCode::UNAUTHORIZED, "{withdrawn:?}");
        ensure!(withdrawn.text("detail").contains("none of the keys"), "{withdrawn:?}");

        // The issuer is away: whoever is known stays known. A hang-up is a wish to read again and nothing else.
        issuer.answers(Vec::new());
        for name in [GATEWAY, NOTIFIER] {
            world.service(name)?.hang_up()?;
        }
        eventually("the keys are read in vain", async || {
            let metrics = world.metrics(GATEWAY).await?;
            let failed =
                r#"coupon_auth_key_readings_total{of="users",result="failed",service="api-gateway"} "#;
            let count = metrics.lines().find_map(|line| line.strip_prefix(failed)?.parse::<f64>().ok());
            Ok(count.filter(|count| *count > 0.0 && world.service(GATEWAY).is_ok()))
        })
        .await?;
        let carol = with("carol", &second, "second")?;
        let claim_id = carol.claim(&coupon_id).await?;
        ensure!(carol.answer(&claim_id).await?.code() == "granted");
        for name in [GATEWAY, NOTIFIER] {
            world.wait_ready(name)?;
            world.stop(name)?;
        }
        oracle::verify(&world).await?;
        Ok(())
    })
}

/// An identity provider: a configuration and a set of keys, or nothing.
struct Issuer {
    name: String,
    pages: Arc<Mutex<Vec<(String, String)>>>,
}

impl Issuer {
    /// Begins to listen, with nothing to say. It ends with the process.
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let name = format!("http://{}/realms/shop", listener.local_addr()?);
        let pages = Arc::<Mutex<Vec<(String, String)>>>::default();
        let told = Arc::clone(&pages);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let asked = lines.next().unwrap_or_default();
                lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
                let path = asked.split(' ').nth(1).unwrap_or_default().to_owned();
                let found = told.lock().unwrap().iter().find(|(page, _)| *page == path).cloned();
                let (status, body) =
                    found.map_or(("503 Service Unavailable", String::new()), |(_, body)| ("200 OK", body));
                let head = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                drop(stream.write_all(format!("{head}{body}").as_bytes()));
            }
        });
        Ok(Self { name, pages })
    }

    fn answers(&self, pages: Vec<(String, String)>) {
        *self.pages.lock().unwrap() = pages;
    }

    fn publish(&self, keys: &[(&str, &EncodingKey)]) -> Result<()> {
        let mut set = Vec::new();
        for (kid, key) in keys {
            let mut public = serde_json::to_value(Jwk::from_encoding_key(key, Algorithm::ES256)?)?;
            public["kid"] = json!(kid);
            set.push(public);
        }
        // As Keycloak does: a key for encryption beside it.
        set.push(
            json!({"kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": "enc", "n": "AQAB", "e": "AQAB"}),
        );
        let base = self.name.trim_end_matches("/realms/shop");
        let configuration = json!({"issuer": self.name, "jwks_uri": format!("{base}/certs")});
        let pages: [(&str, Value); 2] = [
            ("/realms/shop/.well-known/openid-configuration", configuration),
            ("/certs", json!({"keys": set})),
        ];
        self.answers(pages.map(|(path, body)| (path.to_owned(), body.to_string())).to_vec());
        Ok(())
    }

    fn sign(&self, world: &World, sub: &str, key: &EncodingKey, kid: &str) -> Result<String> {
        let claims = json!({
            "sub": sub,
            "aud": [world.deployment.credentials.jwt_audience, "account"],
            "iss": self.name,
            "exp": world.clock().now().plus_ms(600_000).ms() / 1_000,
            "scope": ["openid"],
        });
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, &claims, key)?)
    }
}
