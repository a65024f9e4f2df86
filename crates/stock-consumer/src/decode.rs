//! From bytes to records of the line.

use coupon_domain::ledger::{Body, LogRecord};
use coupon_domain::outcome::InvalidReason;
use coupon_domain::wire::{Input, Unreadable, decode_claims_record};
use coupon_domain::{CouponId, HaltReason, Offset, Partition, Timestamp};
use infrastructure_kafka::{DeadLetter, RecordView};

use service_runtime::partition::Halt;
use service_runtime::trace::Carried;

/// A record, and its copy for the dead-letter queue where it cannot be read.
pub(crate) struct Decoded {
    pub(crate) record: LogRecord,
    pub(crate) dead_letter: Option<DeadLetter>,
    /// The trace that the record carries. Only what is decided is asked for it: a replay makes no spans.
    pub(crate) trace: Option<Box<Carried>>,
}

impl Decoded {
    /// True where a flood of such records means that somebody writes garbage. One that the broker did not date may be in perfect order.
    pub(crate) fn pulls_the_brake(&self) -> bool {
        self.dead_letter.is_some() && !matches!(self.record.body, Body::Undated(_))
    }
}

/// Reads a record of `coupon.claims`.
pub(crate) fn decode(partition: Partition, view: &RecordView<'_>) -> Result<Decoded, Halt> {
    let src_offset =
        Offset::new(view.offset()).map_err(|error| Halt::new(HaltReason::LogMismatch, error.to_string()))?;
    let appended_at = view.append_time_ms().and_then(|ms| Timestamp::from_ms(ms).ok());
    let (body, mut invalid) = match decode_claims_record(view.payload()) {
        Ok(input) => {
            let home = coupon_of(&input).partition();
            let invalid = (home != partition)
                .then(|| (InvalidReason::WrongPartition, format!("its coupon belongs to partition {home}")));
            (Body::Readable(input), invalid)
        }
        Err(Unreadable::Invalid { claim_id, problem }) => {
            (Body::Undecodable(claim_id), Some((InvalidReason::Undecodable, problem)))
        }
        Err(newer @ Unreadable::Newer { .. }) => {
            let detail = format!("the record at {src_offset}: {newer}");
            return Err(Halt::new(HaltReason::NewerVersion, detail));
        }
    };
    if appended_at.is_none() {
        let problem = "it has no append time of the broker: the topic kept the producers' times (message.timestamp.type)";
        invalid = Some((InvalidReason::Undated, problem.to_owned()));
    }
    let record = LogRecord::new(src_offset, appended_at, body);
    let dead_letter = invalid.map(|(reason, problem)| DeadLetter {
        claim_id: record.body.claim_id().map(|claim_id| claim_id.to_string()),
        ..DeadLetter::of_record(view, record.appended_at.ms(), reason.as_str(), problem)
    });
    Ok(Decoded { record, dead_letter, trace: None })
}

fn coupon_of(input: &Input) -> CouponId {
    match input {
        Input::Claim(claim) => claim.claim_id.coupon_id,
        Input::Command(command) => command.command_id.coupon_id,
    }
}
