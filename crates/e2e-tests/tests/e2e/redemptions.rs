use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e_tests::{CouponSpec, User, World, WorldSpec, eventually, oracle};
use local_stack::Role;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// What was won is in the wallet, is used at most once, by its owner, in time, and says so ever after.
pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec::default())?;
        once(&world).await?;
        only_by_its_owner(&world).await?;
        in_time(&world).await?;
        pages(&world).await?;
        bad_requests(&world).await?;
        let metrics = world.metrics(Role::ApiGateway.name()).await?;
        let count = |result: &str| {
            let series = format!(r#"coupon_redemptions_total{{result="{result}",service="api-gateway"}} "#);
            metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or_default().to_owned()
        };
        ensure!(count("redeemed") == "2" && count("already_used") == "100", "{metrics}");
        oracle::verify(&world).await?;
        // A coupon that looks unused though it was redeemed could be used again.
        world.sql("update issued_coupons set used_at = null, order_ref = null where used_at is not null")?;
        let audit =
            world.deployment.couponctl(&["audit"]).err().context("the audit saw nothing")?.to_string();
        ensure!(
            audit.contains("exit status: 5") && audit.contains("ONCE-USED: table issued_coupons"),
            "{audit}"
        );
        Ok(())
    })
}

async fn once(world: &World) -> Result<()> {
    let coupon_id =
        world.publish(&CouponSpec { expires_in_ms: Some(3_600_000), ..CouponSpec::of(1) }).await?;
    let ann = world.user("ann")?;
    ensure!(ann.wallet("").await?.body == json!({"coupons": []}), "an empty wallet is a page as well");
    let claim_id = ann.win(&coupon_id).await?;
    let held = only_entry(&ann).await?;
    ensure!(held["claim_id"] == claim_id && held["coupon_id"] == coupon_id, "{held}");
    ensure!(held["status"] == "issued" && held["issue_no"] == 1, "{held}");
    ensure!(held["expires_at"].is_string() && held.get("used_at").is_none(), "{held}");
    ensure!(held["coupon_code"] == ann.answer(&claim_id).await?.body["coupon_code"], "{held}");

    // A hundred tills at once, each under a key of its own.
    let orders: Vec<String> = (0..100).map(|number| format!("order-{number}")).collect();
    let tills = orders.iter().map(|order| ann.redeem(&claim_id, order, order));
    let answers = futures_util::future::try_join_all(tills).await?;
    let redeemed: Vec<usize> = (0..100).filter(|till| answers[*till].status == StatusCode::CREATED).collect();
    ensure!(redeemed.len() == 1, "redeemed {} times: {answers:?}", redeemed.len());
    let (order, first) = (&orders[redeemed[0]], &answers[redeemed[0]]);
    let refused = answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT);
    ensure!(refused.filter(|answer| answer.code() == "already_used").count() == 99, "{answers:?}");
    ensure!(first.body["status"] == "used" && first.body["order_ref"] == *order, "{first:?}");

    // The same request again hears the same.
    let again = ann.redeem(&claim_id, order, order).await?;
    ensure!(again.status == StatusCode::OK && again.body == first.body, "{again:?} is not {first:?}");
    let other_body = ann.redeem(&claim_id, order, "something else").await?;
    ensure!(
        other_body.status == StatusCode::UNPROCESSABLE_ENTITY
            && other_body.code() == "idempotency_key_reused",
        "{other_body:?}"
    );
    ensure!(only_entry(&ann).await? == first.body, "the wallet says what the till was told");
    ensure!(world.sql("select count(*), min(order_ref) from redemptions")? == format!("1|{order}"));
    Ok(())
}

async fn only_by_its_owner(world: &World) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec::of(1)).await?;
    let (bob, eve) = (world.user("bob")?, world.user("eve")?);
    let claim_id = bob.win(&coupon_id).await?;
    let never = format!("{coupon_id}.0.0.{}", "a".repeat(32));
    let theirs = eve.redeem(&claim_id, "key", "order-1").await?;
    let nobodys = eve.redeem(&never, "key", "order-1").await?;
    ensure!(
        theirs.status == StatusCode::NOT_FOUND && theirs == nobodys,
        "{theirs:?} tells more than {nobodys:?}"
    );
    ensure!(eve.wallet("").await?.body == json!({"coupons": []}));
    // As the tour does it.
    let gateway = world.service(Role::ApiGateway.name())?.api_url().context("a gateway has a user API")?;
    let couponctl = |arguments: &[&str]| {
        world
            .deployment
            .couponctl(&[&["--api-url", gateway.as_str(), "--output", "json"], arguments].concat())
    };
    let redeemed = couponctl(&["redeem", &claim_id, "--user", "bob", "--order-ref", "order-1"])?;
    ensure!(redeemed.contains("order-1"), "{redeemed}");
    let refused = couponctl(&["redeem", &claim_id, "--user", "bob", "--order-ref", "order-1"]);
    let refused = refused.err().context("another key is another request")?.to_string();
    ensure!(refused.contains("409 already_used"), "{refused}");
    let wallet: Value = serde_json::from_str(&couponctl(&["wallet", "--user", "bob"])?)?;
    ensure!(wallet == bob.wallet("").await?.body && wallet["coupons"][0]["status"] == "used", "{wallet}");
    ensure!(eve.redeem(&claim_id, "key", "order-1").await? == theirs, "nor once it is used");
    Ok(())
}

async fn in_time(world: &World) -> Result<()> {
    // It expires with the end of its window, while it is held: long enough to be won on a busy machine.
    let soon = CouponSpec { closes_in_ms: 15_000, expires_in_ms: Some(15_000), ..CouponSpec::of(1) };
    let soon = world.publish(&soon).await?;
    let dan = world.user("dan")?;
    let claim_id = dan.win(&soon).await?;
    eventually("the coupon expires", async || {
        Ok((only_entry(&dan).await?["status"] == "expired").then_some(()))
    })
    .await?;
    let refused = dan.redeem(&claim_id, "key", "order-1").await?;
    ensure!(refused.status == StatusCode::GONE && refused.code() == "expired", "{refused:?}");
    Ok(())
}

async fn pages(world: &World) -> Result<()> {
    let coupon_id = world.publish(&CouponSpec { per_user_limit: 5, ..CouponSpec::of(5) }).await?;
    let fay = world.user("fay")?;
    for key in ["a", "b", "c", "d", "e"] {
        let pressed = fay.press_with(&coupon_id, &[("Idempotency-Key", key)]).await?;
        ensure!(fay.answer(pressed.text("claim_id")).await?.code() == "granted", "{pressed:?}");
    }
    world.wait_until_stored().await?;
    let all = fay.wallet("").await?.body;
    let numbers: Vec<&Value> = entries(&all).iter().map(|held| &held["issue_no"]).collect();
    ensure!(numbers == [5, 4, 3, 2, 1] && all.get("next").is_none(), "the newest first, on one page: {all}");
    let (mut paged, mut before) = (Vec::new(), String::new());
    loop {
        let page = fay.wallet(&format!("?limit=2{before}")).await?.body;
        paged.extend(entries(&page).iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        before = format!("&before={next}");
    }
    ensure!(json!(paged) == all["coupons"], "{paged:?} are not {all}");
    ensure!(paged.iter().map(|held| held["claim_id"].to_string()).collect::<BTreeSet<_>>().len() == 5);
    Ok(())
}

async fn bad_requests(world: &World) -> Result<()> {
    let ann = world.user("ann")?;
    for (query, field) in [
        ("?limit=0", "limit: must be 1..=200"),
        ("?limit=201", "limit: must be 1..=200"),
        ("?limit=many", "query"),
        ("?before=nonsense", "before: must be the `next`"),
        ("?cursor=x", "query"),
    ] {
        let answer = ann.wallet(query).await?;
        ensure!(
            answer.status == StatusCode::BAD_REQUEST && answer.text("detail").contains(field),
            "{answer:?}"
        );
    }
    let claim_id = only_entry(&ann).await?["claim_id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/v1/me/coupons/{claim_id}/redemptions");
    let long = "x".repeat(129);
    let cases = [
        (Some(json!({"order_ref": "o"})), vec![], "Idempotency-Key: is required"),
        (Some(json!({"order_ref": "o"})), vec![("Idempotency-Key", "a b")], "Idempotency-Key"),
        (
            Some(json!({"order_ref": long})),
            vec![("Idempotency-Key", "k")],
            "order_ref: must have 1..=128 bytes",
        ),
        (Some(json!({"order_ref": "o", "user": "eve"})), vec![("Idempotency-Key", "k")], "unknown field"),
        (None, vec![("Idempotency-Key", "k")], "body"),
    ];
    for (body, headers, detail) in cases {
        let answer = ann.gateway.post(&path, &headers, body.as_ref()).await?;
        ensure!(
            answer.status == StatusCode::BAD_REQUEST && answer.text("detail").contains(detail),
            "{answer:?}"
        );
    }
    let nonsense = ann.redeem("nonsense", "k", "o").await?;
    ensure!(
        nonsense.status == StatusCode::BAD_REQUEST && nonsense.text("detail").contains("claim_id"),
        "{nonsense:?}"
    );
    let nobody = ann.gateway.with_token("x.y.z").get("/v1/me/coupons", &[]).await?;
    ensure!(nobody.status == StatusCode::UNAUTHORIZED, "{nobody:?}");
    Ok(())
}

fn entries(page: &Value) -> &[Value] {
    page["coupons"].as_array().map_or(&[], Vec::as_slice)
}

async fn only_entry(user: &User) -> Result<Value> {
    let page = user.wallet("").await?;
    ensure!(page.status == StatusCode::OK && entries(&page.body).len() == 1, "{page:?}");
    Ok(page.body["coupons"][0].clone())
}
