//! Golden logs: a retained log must fold to the same outcomes in every release that knows its rules. One log per rules
//! number; a file is only ever added.

use coupon_domain::ledger::{Body, LogRecord};
use coupon_domain::wire::{Unreadable, decode_claims_record, encode_outcome};
use coupon_domain::{Ledger, Partition, Timestamp};

use crate::line::offset;

/// One record per line: the append time in ms, a space, the record's bytes.
const LOG_OF_RULES_1: &str = include_str!("../../golden/log_rules_1.txt");
const OUTCOMES_OF_RULES_1: &str = include_str!("../../golden/log_rules_1.outcomes.jsonl");

#[test]
fn the_log_of_rules_1_folds_to_the_same_bytes() {
    let mut ledger = Ledger::new(Partition::new(3).unwrap());
    let mut outcomes = String::new();
    for (place, line) in LOG_OF_RULES_1.lines().enumerate() {
        let (appended_at, bytes) = line.split_once(' ').unwrap();
        let body = match decode_claims_record(Some(bytes.as_bytes())) {
            Ok(input) => Body::Readable(input),
            Err(Unreadable::Invalid { claim_id, .. }) => Body::Undecodable(claim_id),
            Err(newer) => panic!("line {place}: {newer}"),
        };
        let appended_at = Timestamp::from_ms(appended_at.parse().unwrap()).unwrap();
        let outcome = ledger.fold(LogRecord { src_offset: offset(place), appended_at, body }).unwrap();
        outcomes.push_str(&String::from_utf8(encode_outcome(&outcome)).unwrap());
        outcomes.push('\n');
    }
    if OUTCOMES_OF_RULES_1 != outcomes {
        let found = std::env::temp_dir().join("log_rules_1.outcomes.jsonl");
        std::fs::write(&found, &outcomes).unwrap();
        panic!("the fold of rules 1 has changed; what it gives now is in {}", found.display());
    }
}
