//! Crowds against the real stack: Kafka, PostgreSQL, Redis and all four services.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coupon_domain::{CouponId, Timestamp};
use infrastructure_http::TokenMint;
use infrastructure_http::time::to_rfc3339;
use loadgen::{Check, Crowd, Progress, Report, Target};
use local_stack::{Deployment, Services, namespace, servers_for_tests};
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};

const READY: Duration = Duration::from_secs(120);

struct Stack {
    deployment: Deployment,
    services: Services,
}

impl Stack {
    /// All services in a namespace of their own.
    fn start() -> Self {
        local_stack::build_services(local_stack::BuildProfile::of_caller()).unwrap();
        let servers = servers_for_tests();
        let deployment = Deployment::new(servers, namespace(servers, 2).unwrap());
        deployment.prepare().unwrap();
        let services = deployment.start_all().unwrap();
        services.wait_ready(READY).unwrap();
        Self { deployment, services }
    }

    fn target(&self) -> Target {
        let credentials = &self.deployment.credentials;
        Target {
            api_urls: vec![self.services.api_gateway.api_url().unwrap()],
            notifier_urls: vec![self.services.notifier.api_url().unwrap()],
            jwt_secret: credentials.jwt_secret.clone(),
            jwt_issuer: credentials.jwt_issuer.clone(),
            jwt_audience: credentials.jwt_audience.clone(),
        }
    }

    /// A published coupon of `quantity` that opens in `opens_in_ms`.
    async fn publish(&self, quantity: u32, opens_in_ms: i64) -> CouponId {
        let now = now();
        let draft = json!({
            "name": "crowd",
            "quantity": quantity,
            "opens_at": to_rfc3339(now.plus_ms(opens_in_ms)),
            "closes_at": to_rfc3339(now.plus_ms(3_600_000)),
        });
        let draft = self.admin("/admin/v1/coupons", &draft).await;
        let coupon_id = draft["coupon_id"].as_str().unwrap().to_owned();
        let publish = format!("/admin/v1/coupons/{coupon_id}/publish");
        let published = self.admin(&publish, &json!({})).await;
        assert_eq!(published["code"], "applied", "{published}");
        coupon_id.parse().unwrap()
    }

    async fn admin(&self, path: &str, body: &Value) -> Value {
        let credentials = &self.deployment.credentials;
        let mint = TokenMint::new(&credentials.jwt_secret, &credentials.jwt_issuer);
        let scope = Some("coupons:read coupons:write");
        let token =
            mint.mint("operator", &credentials.admin_jwt_audience, scope, now().plus_ms(600_000)).unwrap();
        let url = self.services.api_gateway.admin_url().unwrap() + path;
        let response = reqwest::Client::new()
            .post(url)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header("Idempotency-Key", format!("{:x}", rand::random::<u64>()))
            .header("Prefer", "wait=20")
            .json(body)
            .send()
            .await
            .unwrap();
        assert!(response.status().is_success(), "{path}: {response:?}");
        response.json().await.unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "a test that plays an operator reads the clock on the wall")]
fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_ms(elapsed.as_millis().try_into().unwrap()).unwrap()
}

fn assert_clean(report: &Report) {
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.granted + report.refused_users(), report.users, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_told_and_its_report_is_clean() {
    let stack = tokio::task::spawn_blocking(Stack::start).await.unwrap();
    early_presses_are_deferred_by_the_log_and_pressed_again(&stack).await;
    a_second_crowd_of_the_same_people_is_told_the_same(&stack).await;
    a_crowd_with_few_connections_is_told_too(&stack).await;
    a_coupon_that_is_not_sold_out_is_noticed(&stack).await;
}

/// The coupon opens in the middle of the arrivals, nearer than the gateway's margin: it is the log that says `not_open`.
async fn early_presses_are_deferred_by_the_log_and_pressed_again(stack: &Stack) {
    let coupon_id = stack.publish(50, 4_000).await;
    let crowd = Crowd {
        users: 400,
        within: Duration::from_secs(1),
        before_opening: Some(Duration::from_millis(500)),
        duplicates: 0.2,
        retries: 0.1,
        expect_sold_out: true,
        seed: 7,
        ..Crowd::new(stack.target(), coupon_id)
    };
    let progress = Arc::<Progress>::default();
    let report = crowd.run(&progress).await.unwrap();
    println!("{report}");
    assert_clean(&report);
    assert_eq!(report.granted, 50, "{report}");
    assert_eq!(progress.told(), 400);
    assert_eq!(progress.in_flight(), 0);
    let by_gateway = report.pressed.deferred.get("not_open").copied().unwrap_or(0);
    assert!(report.followed.deferred + by_gateway > 0, "nobody came too early: {report}");
    assert!(report.pressed.aborted > 0 && report.pressed.sent > 400, "{report}");
    assert_eq!(report.followed.codes_shown, 50, "{report}");
    assert!(report.latencies.arrival_to_told.count == 400, "{report}");
}

/// Whoever was granted reads so again, by a 200 or by following; nothing new is issued.
async fn a_second_crowd_of_the_same_people_is_told_the_same(stack: &Stack) {
    let coupon_id = stack.publish(20, -1_000).await;
    let crowd = Crowd {
        users: 60,
        within: Duration::from_millis(200),
        expect_sold_out: true,
        ..Crowd::new(stack.target(), coupon_id)
    };
    let first = crowd.run(&Arc::default()).await.unwrap();
    assert_clean(&first);
    let again = Crowd { shared: true, ..crowd }.run(&Arc::default()).await.unwrap();
    assert_clean(&again);
    assert_eq!((first.granted, again.granted), (20, 20), "{again}");
    assert!(again.pressed.decided > 0, "{again}");
}

async fn a_crowd_with_few_connections_is_told_too(stack: &Stack) {
    let coupon_id = stack.publish(10, -1_000).await;
    let crowd = Crowd {
        users: 100,
        within: Duration::from_millis(100),
        connections_max: Some(8),
        sse_share: 1.0,
        arrivals: loadgen::Arrivals::Stampede,
        ..Crowd::new(stack.target(), coupon_id)
    };
    let report = crowd.run(&Arc::default()).await.unwrap();
    assert_clean(&report);
    assert_eq!(report.granted, 10, "{report}");
    assert!(report.notes.iter().any(|note| note.contains("connections at once")), "{report}");
}

async fn a_coupon_that_is_not_sold_out_is_noticed(stack: &Stack) {
    let coupon_id = stack.publish(10, -1_000).await;
    let crowd = Crowd {
        users: 3,
        within: Duration::from_millis(10),
        expect_sold_out: true,
        ..Crowd::new(stack.target(), coupon_id)
    };
    let report = crowd.run(&Arc::default()).await.unwrap();
    assert_eq!(report.granted, 3);
    assert_eq!(
        report.violations.iter().map(|violation| violation.check).collect::<Vec<_>>(),
        [Check::SoldOut]
    );
}
