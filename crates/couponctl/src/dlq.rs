//! `couponctl dlq`: what lies in the dead-letter queue, and what is to become of it.
//!
//! A letter holds no unit and no place in the line. Redriving it appends the same claim at the *end* of the line, where it is decided as any other;
//! the same claim twice has one outcome, so redriving again, or while its user presses again, is harmless.

use clap::{Args, Subcommand};
use coupon_domain::wire::{Input, Unreadable, decode_claims_record, encode_claim};
use coupon_domain::{Claim, CouponId, UserId};
use data_encoding::BASE64;
use infrastructure_http::time::to_rfc3339;
use infrastructure_kafka::dead_letter::queue::{self, Letter, Origin, Payloads};
use infrastructure_kafka::dead_letter::{self, Resolved};
use infrastructure_kafka::{Connection, NewRecord, Producer, ProducerPurpose, Topic, TopicLayout};
use serde_json::{Value, json};

use crate::exit::{Failure, failed};
use crate::output::Output;
use crate::settings::Settings;

/// Most bytes of a letter's payload that a table shows.
const SHOWN_BYTES_MAX: usize = 1_000;

#[derive(Subcommand)]
pub(crate) enum Dlq {
    /// List open letters, the oldest first.
    List(List),
    /// Show one letter with its bytes.
    Show(Show),
    /// Append the letter's claim at the end of the line, once.
    Redrive(Redrive),
    /// Say that nothing will come of a letter. Its claim stays parked until its user presses again.
    Discard(Discard),
}

#[derive(Args)]
pub(crate) struct List {
    /// Those that were redriven or discarded, too.
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
pub(crate) struct Show {
    /// Which letter: partition:offset of its record in the claims topic, as `list` shows it.
    #[arg(value_parser = parse_origin)]
    letter: Origin,
}

#[derive(Args)]
pub(crate) struct Redrive {
    /// Which letter: partition:offset of its record in the claims topic, as `list` shows it.
    #[arg(value_parser = parse_origin)]
    letter: Origin,
    /// Whose claim it is, where its bytes no longer say so. It must be the user that the claim id was made for.
    #[arg(long)]
    user: Option<UserId>,
    #[command(flatten)]
    resolving: Resolving,
}

#[derive(Args)]
pub(crate) struct Discard {
    /// Which letter: partition:offset of its record in the claims topic, as `list` shows it.
    #[arg(value_parser = parse_origin)]
    letter: Origin,
    #[command(flatten)]
    resolving: Resolving,
}

#[derive(Args)]
struct Resolving {
    /// Why, for whoever looks at the queue later.
    #[arg(long)]
    reason: String,
    /// Who you are.
    #[arg(long, default_value = "couponctl")]
    operator: String,
}

pub(crate) async fn run(dlq: &Dlq, settings: &Settings, output: Output) -> Result<(), Failure> {
    let (connection, layout) = settings.kafka()?;
    let letters = tokio::task::block_in_place(|| queue::read(&connection, &layout, Payloads::Kept))
        .map_err(failed("reading the dead-letter queue"))?
        .letters;
    let find = |origin: &Origin| {
        let place = spell(*origin);
        letters.get(origin).ok_or_else(|| Failure::SaidNo(format!("there is no letter {place} in the queue")))
    };
    match dlq {
        Dlq::List(list) => {
            show_all(letters.values(), list.all, output);
            Ok(())
        }
        Dlq::Show(show) => {
            output.one(&in_full(find(&show.letter)?));
            Ok(())
        }
        Dlq::Redrive(redrive) => {
            let queue = Queue::open(&connection, &layout)?;
            let letter = open(find(&redrive.letter)?)?;
            queue.redrive(letter, redrive, settings, output).await
        }
        Dlq::Discard(discard) => {
            let queue = Queue::open(&connection, &layout)?;
            let letter = open(find(&discard.letter)?)?;
            queue.resolve(letter, Resolved::Discarded, &discard.resolving, None).await?;
            output.one(&json!({ "letter": spell(letter.origin), "state": Resolved::Discarded.as_str() }));
            Ok(())
        }
    }
}

/// Refuses a letter that something was done about already.
fn open(letter: &Letter) -> Result<&Letter, Failure> {
    match &letter.resolution {
        None => Ok(letter),
        Some(resolution) => Err(Failure::SaidNo(format!(
            "letter {} was {} by {} at {}: {}",
            spell(letter.origin),
            resolution.resolved.as_str(),
            resolution.actor,
            spell_ms(resolution.at_ms),
            resolution.note
        ))),
    }
}

/// The topics that are written to.
struct Queue {
    producer: Producer,
    claims_topic: String,
    queue_topic: String,
}

impl Queue {
    fn open(connection: &Connection, layout: &TopicLayout) -> Result<Self, Failure> {
        Ok(Self {
            producer: Producer::new(connection, ProducerPurpose::Claims)
                .map_err(failed("connecting to Kafka"))?,
            claims_topic: layout.name(Topic::Claims),
            queue_topic: layout.name(Topic::DeadLetters),
        })
    }

    async fn redrive(
        &self,
        letter: &Letter,
        redrive: &Redrive,
        settings: &Settings,
        output: Output,
    ) -> Result<(), Failure> {
        let (coupon_id, payload) = restore(letter, redrive.user.as_ref(), settings)?;
        let key = coupon_id.to_string();
        let record = NewRecord {
            topic: &self.claims_topic,
            partition: coupon_id.partition().number(),
            key: key.as_bytes(),
            payload: Some(&payload),
            headers: &[],
        };
        let acknowledged =
            self.producer.append(record).await.map_err(failed("appending the claim; try again"))?;
        self.resolve(letter, Resolved::Redriven, &redrive.resolving, acknowledged.offset).await?;
        output.one(&json!({
            "letter": spell(letter.origin),
            "state": Resolved::Redriven.as_str(),
            "claim_id": letter.claim_id,
            "partition": acknowledged.partition,
            "offset": acknowledged.offset,
        }));
        Ok(())
    }

    async fn resolve(
        &self,
        letter: &Letter,
        resolved: Resolved,
        resolving: &Resolving,
        redriven_offset: Option<i64>,
    ) -> Result<(), Failure> {
        let resolution = dead_letter::Resolution {
            origin_topic: &self.claims_topic,
            origin_partition: letter.origin.0,
            origin_offset: letter.origin.1,
            key: &letter.key,
            resolved,
            actor: &resolving.operator,
            note: &resolving.reason,
            redriven_offset,
        };
        dead_letter::resolve(&self.producer, &self.queue_topic, &resolution)
            .await
            .map_err(failed("noting it in the queue; try again"))
    }
}

/// The record that the letter was meant to be, and its coupon. Bytes that this release reads are taken as they are; else the claim that they
/// still name is made anew, for the user that its id was made for.
fn restore(
    letter: &Letter,
    user: Option<&UserId>,
    settings: &Settings,
) -> Result<(CouponId, Vec<u8>), Failure> {
    let place = spell(letter.origin);
    let whole = letter.payload.as_deref().filter(|payload| payload.len() == letter.original_bytes);
    let claim = match decode_claims_record(whole) {
        Ok(Input::Command(_)) => {
            let remedy = "it is a command: give it again through the admin API, and discard the letter";
            return Err(Failure::SaidNo(format!("letter {place}: {remedy}")));
        }
        Ok(Input::Claim(claim)) => claim,
        Err(Unreadable::Newer { .. }) => {
            let remedy = "a newer release wrote it: redrive it with that release";
            return Err(Failure::SaidNo(format!("letter {place}: {remedy}")));
        }
        Err(Unreadable::Invalid { claim_id, .. }) => {
            let claim_id =
                claim_id.or_else(|| letter.claim_id.as_deref()?.parse().ok()).ok_or_else(|| {
                    Failure::SaidNo(format!("letter {place}: its bytes name no claim; discard it"))
                })?;
            let user_id = user.cloned().or_else(|| user_of(letter.payload.as_deref())).ok_or_else(|| {
                Failure::SaidNo(format!(
                    "letter {place}: its bytes do not say whose claim it is; give --user"
                ))
            })?;
            Claim { claim_id, user_id, received_at: service_runtime::Clock::system().now() }
        }
    };
    let claim_id = claim.claim_id;
    // The fold holds no key: whoever appends must know that the claim is this user's.
    if !settings.keys()?.owns(&claim_id, &claim.user_id) {
        return Err(Failure::SaidNo(format!(
            "letter {place}: no key that is configured here made claim {claim_id} for this user"
        )));
    }
    Ok((claim_id.coupon_id, encode_claim(&claim)))
}

/// The user that a payload names, if it is JSON at all.
fn user_of(payload: Option<&[u8]>) -> Option<UserId> {
    let value: Value = serde_json::from_slice(payload?).ok()?;
    value.get("user_id")?.as_str()?.parse().ok()
}

fn show_all<'a>(letters: impl Iterator<Item = &'a Letter>, all: bool, output: Output) {
    let mut letters: Vec<&Letter> = letters.filter(|letter| all || letter.resolution.is_none()).collect();
    letters.sort_by_key(|letter| letter.parked_at_ms);
    let open = letters.iter().filter(|letter| letter.resolution.is_none());
    let oldest = open.clone().map(|letter| letter.parked_at_ms).min();
    let summary = match oldest {
        None => "no open letters".to_owned(),
        Some(oldest) => {
            let age_ms = service_runtime::Clock::system().now().ms().saturating_sub(oldest);
            let age = std::time::Duration::from_secs(u64::try_from(age_ms / 1_000).unwrap_or(0));
            format!("{} open letters, the oldest for {}", open.count(), humantime::format_duration(age))
        }
    };
    let rows: Vec<Value> = letters.into_iter().map(in_short).collect();
    if !rows.is_empty() || output == Output::Json {
        output.many(&rows, &["letter", "parked_at", "state", "claim_id", "reason", "problem"]);
    }
    output.note(&summary);
}

fn in_short(letter: &Letter) -> Value {
    let state = letter.resolution.as_ref().map_or("open", |resolution| resolution.resolved.as_str());
    json!({
        "letter": spell(letter.origin),
        "parked_at": spell_ms(letter.parked_at_ms),
        "state": state,
        "claim_id": letter.claim_id,
        "reason": letter.reason,
        "problem": letter.problem,
    })
}

fn in_full(letter: &Letter) -> Value {
    let mut value = in_short(letter);
    let text = letter.payload.as_deref().map(|payload| {
        String::from_utf8_lossy(payload.get(..SHOWN_BYTES_MAX).unwrap_or(payload)).into_owned()
    });
    if let Some(members) = value.as_object_mut() {
        members.insert("service".to_owned(), json!(letter.service));
        members.insert("release".to_owned(), json!(letter.release));
        members.insert("key".to_owned(), json!(String::from_utf8_lossy(&letter.key)));
        members.insert("original_bytes".to_owned(), json!(letter.original_bytes));
        members.insert("text".to_owned(), json!(text));
        members.insert(
            "payload_base64".to_owned(),
            json!(letter.payload.as_deref().map(|bytes| BASE64.encode(bytes))),
        );
        if let Some(resolution) = &letter.resolution {
            members.insert("resolved_at".to_owned(), json!(spell_ms(resolution.at_ms)));
            members.insert("resolved_by".to_owned(), json!(resolution.actor));
            members.insert("resolved_because".to_owned(), json!(resolution.note));
            members.insert("redriven_offset".to_owned(), json!(resolution.redriven_offset));
        }
    }
    value
}

fn spell(origin: Origin) -> String {
    format!("{}:{}", origin.0, origin.1)
}

fn spell_ms(ms: i64) -> String {
    coupon_domain::Timestamp::from_ms(ms).map_or_else(|_| ms.to_string(), to_rfc3339)
}

fn parse_origin(text: &str) -> Result<Origin, String> {
    let parsed = text.split_once(':').and_then(|(partition, offset)| {
        let origin: Origin = (partition.parse().ok()?, offset.parse().ok()?);
        (origin.0 >= 0 && origin.1 >= 0).then_some(origin)
    });
    parsed.ok_or_else(|| "must read partition:offset, like 3:1042".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_named_by_partition_and_offset() {
        assert_eq!(parse_origin("3:1042"), Ok((3, 1_042)));
        assert_eq!(spell((3, 1_042)), "3:1042");
        for wrong in ["", "3", "3:", ":1", "-1:2", "1:-2", "a:b"] {
            assert!(parse_origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_user_is_read_from_what_is_left() {
        assert_eq!(user_of(Some(br#"{"user_id": "ann", "v": []}"#)), Some("ann".parse().unwrap()));
        for nobody in [&b"\xff"[..], br#"{"user_id": 7}"#, br#"{"user_id": ""}"#, b"[]"] {
            assert_eq!(user_of(Some(nobody)), None);
        }
        assert_eq!(user_of(None), None);
    }
}
