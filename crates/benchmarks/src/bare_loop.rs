//! The reference of the stock-consumer's figures: consume, decode, encode, produce and await, over the same records, with the same clients and
//! in batches of the same size. It decides nothing, remembers nothing and tells nobody.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use coupon_domain::outcome::{ClaimOutcome, Subject};
use coupon_domain::wire::{Input, decode_claims_record, encode_outcome};
use coupon_domain::{Chain, Claim, ClaimCode, CouponId, Offset, Outcome, Timestamp};
use e2e_tests::World;
use infrastructure_kafka::{
    Connection, KafkaSection, NewRecord, Producer, ProducerPurpose, Reader, RecordView, Topic, TopicAdmin,
};

use crate::line::{BATCH_RECORDS, FIRST_CLAIM, decided_per_second};

const POLL: Duration = Duration::from_millis(100);
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Runs the loop over the claims of this coupon, and tells how many it did per second.
pub(crate) async fn run(world: &World, coupon_id: CouponId, claims: u32, quantity: u32) -> Result<f64> {
    // Outcomes of its own, in topics like all others.
    let prefix = format!("{}bare.", world.layout().prefix);
    let section = KafkaSection { topic_prefix: prefix, ..world.kafka().section().clone() };
    let layout = section.layout(false);
    let kafka = Connection::new(section, "bare-loop", world.kafka().metrics().clone());
    TopicAdmin::new(&kafka, layout.clone())?.apply().await?;
    let (claims_topic, outcomes_topic) = (world.layout().name(Topic::Claims), layout.name(Topic::Outcomes));
    tokio::task::spawn_blocking(move || {
        let bare_loop = BareLoop {
            reader: Reader::new(&kafka, &claims_topic, "bare loop")?,
            producer: Producer::new(&kafka, ProducerPurpose::Outcomes)?,
            topic: outcomes_topic,
            coupon_id,
            quantity,
        };
        bare_loop.run(claims)?;
        let outcomes = Reader::new(&kafka, &bare_loop.topic, "bare loop's outcomes")?;
        decided_per_second(&outcomes, 0, claims)
    })
    .await?
}

struct BareLoop {
    reader: Reader,
    producer: Producer,
    topic: String,
    coupon_id: CouponId,
    quantity: u32,
}

/// A claim in its place.
struct Place {
    src_offset: Offset,
    appended_at: Timestamp,
    claim: Claim,
}

impl BareLoop {
    fn run(&self, claims: u32) -> Result<()> {
        self.reader.assign(&[(self.coupon_id.partition().number(), FIRST_CLAIM)])?;
        let mut done = 0;
        while done < claims {
            let (mut places, mut unreadable) = (Vec::new(), None);
            self.reader.drain(BATCH_RECORDS, POLL, |view| match read(&view) {
                Ok(place) => {
                    places.push(place);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    unreadable = Some(error);
                    ControlFlow::Break(())
                }
            })?;
            if let Some(error) = unreadable {
                return Err(error);
            }
            let mut batch = self.producer.batch();
            for place in places {
                done += 1;
                let outcome = self.outcome(place, done);
                let payload = encode_outcome(&outcome);
                let coupon_id = outcome.coupon_id().map(|coupon_id| coupon_id.to_string());
                let record = NewRecord {
                    topic: &self.topic,
                    partition: self.coupon_id.partition().number(),
                    key: coupon_id.as_deref().unwrap_or_default().as_bytes(),
                    payload: Some(&payload),
                    headers: &[],
                };
                batch.produce(record, &mut || {})?;
            }
            ensure!(batch.wait(ACKNOWLEDGED_MAX)?.is_ok(), "the outcomes were not acknowledged in time");
        }
        Ok(())
    }

    /// What the fold would say, but for the chain: the first ones win.
    fn outcome(&self, place: Place, rank: u32) -> Outcome {
        let Place { src_offset, appended_at, claim } = place;
        let is_granted = rank <= self.quantity;
        Outcome {
            src_offset,
            appended_at,
            decided_offset: src_offset,
            rules: coupon_domain::coupon::RULES_NEWEST,
            remaining: Some(self.quantity.saturating_sub(rank)),
            subject: Subject::Claim(ClaimOutcome {
                claim_id: claim.claim_id,
                user_id: claim.user_id,
                code: if is_granted { ClaimCode::Granted } else { ClaimCode::SoldOut },
                is_final: true,
                issue_no: is_granted.then_some(rank),
                user_nth: is_granted.then_some(1),
                rank: Some(rank),
                granted_claim_id: None,
            }),
            chain: Chain::genesis(self.coupon_id.partition()),
        }
    }
}

fn read(view: &RecordView<'_>) -> Result<Place> {
    let Ok(Input::Claim(claim)) = decode_claims_record(view.payload()) else {
        bail!("the record at {} is no claim", view.offset());
    };
    let appended_at = Timestamp::from_ms(view.append_time_ms().unwrap_or(0))?;
    Ok(Place { src_offset: Offset::new(view.offset())?, appended_at, claim })
}
