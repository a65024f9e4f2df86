use anyhow::{Context, Result, ensure};
use e2e_tests::{CouponSpec, World, WorldSpec, eventually, oracle};
use infrastructure_kafka::{Reader, Topic};
use serde_json::json;

pub(crate) fn scenario() -> Result<()> {
    e2e_tests::world::run(async {
        let world = World::start(WorldSpec { partitions: 1, ..WorldSpec::default() })?;
        let coupon_id = world.publish(&CouponSpec::of(2)).await?;
        let before = world.user("before")?;
        ensure!(before.press_to_the_end(&coupon_id).await? == "granted");

        // Garbage, and a claim whose user nobody may be called: their claim can still be named.
        let hostile = format!("{coupon_id}.0.0.{}", "f".repeat(32));
        let with_user = |user: &str| json!({"v": 1, "claim_id": hostile, "coupon_id": coupon_id, "user_id": user, "round": 0, "slot": "0", "received_at": 0});
        let records: [Vec<u8>; 4] = [
            b"\xff\x00 not json".to_vec(),
            with_user("an\u{0}n").to_string().into_bytes(),
            with_user(&"x".repeat(3_000)).to_string().into_bytes(),
            vec![b' '; 10_000],
        ];
        let mut offsets = Vec::new();
        for record in &records {
            offsets.push(world.append(Topic::Claims, 0, &coupon_id, record).await?);
        }

        // The line moves on.
        ensure!(world.user("behind")?.press_to_the_end(&coupon_id).await? == "granted");
        let outcomes = world.records(Topic::Outcomes, 0)?;
        let outcome_at = |offset: i64| outcomes.iter().find(|outcome| outcome["src_offset"] == offset);
        for offset in &offsets {
            let outcome = outcome_at(*offset).context("every record is answered")?;
            ensure!(outcome["code"] == "invalid" && outcome["invalid_reason"] == "undecodable", "{outcome}");
        }
        ensure!(outcome_at(offsets[1]).context("answered")?["claim_id"] == hostile.as_str());

        // Each has its copy in the dead-letter queue, with where it came from and why.
        let letters = dead_letters(&world)?;
        ensure!(letters.len() == records.len(), "{letters:?}");
        for ((letter, record), offset) in letters.iter().zip(&records).zip(&offsets) {
            ensure!(letter.payload == *record, "the bytes are kept");
            ensure!(letter.header("origin_offset") == offset.to_string(), "{letter:?}");
            ensure!(letter.header("origin_topic") == world.layout().name(Topic::Claims), "{letter:?}");
            ensure!(letter.header("reason") == "undecodable" && letter.header("service") == "stock-consumer");
            ensure!(!letter.header("problem").is_empty() && !letter.header("release").is_empty());
        }
        world.wait_until_quiet().await?;
        ensure!(world.sql("select count(*) from claims")? == "2", "an invalid record writes no row");
        let metric = eventually("the copies are counted", async || {
            let text = world.metrics("stock-consumer").await?;
            Ok(text
                .lines()
                .find(|line| line.starts_with("coupon_dlq_records_total") && line.ends_with(" 4"))
                .map(str::to_owned))
        })
        .await?;
        ensure!(metric.contains(r#"reason="undecodable""#), "{metric}");
        let report = oracle::verify(&world).await?;
        ensure!(report["ledger"]["dead_lettered"] == 1, "the hostile claim is one: {report}");
        Ok(())
    })
}

#[derive(Debug)]
struct Letter {
    payload: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Letter {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

fn dead_letters(world: &World) -> Result<Vec<Letter>> {
    let reader = Reader::new(world.kafka(), &world.layout().name(Topic::DeadLetters), "test")?;
    let bounds = reader.bounds(0)?;
    let mut letters = Vec::new();
    reader.assign(&[(0, bounds.start)])?;
    while i64::try_from(letters.len())? < bounds.end - bounds.start {
        reader.drain(1_000, e2e_tests::waiting::GENEROUS, |record| {
            let headers = record.headers().map(|(name, value)| {
                (name.to_owned(), String::from_utf8_lossy(value.unwrap_or_default()).into_owned())
            });
            letters.push(Letter {
                payload: record.payload().unwrap_or_default().to_vec(),
                headers: headers.collect(),
            });
            std::ops::ControlFlow::Continue(())
        })?;
    }
    Ok(letters)
}
