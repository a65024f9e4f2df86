//! Golden logs: a retained log must fold to the same outcomes in every release that knows its rules. One log per rules
//! number; a file is only ever added.

use coupon_domain::ledger::{Body, LogRecord};
use coupon_domain::wire::{Unreadable, decode_claims_record, encode_outcome};
use coupon_domain::{Ledger, Partition, Timestamp};

use crate::line::offset;

/// What is kept of each number: its log, one record per line (the append time in ms, a space, the record's bytes), and the outcomes.
const GOLDEN: [(&str, &str, &str); 2] = [
    (
        "1",
        include_str!("../../golden/log_rules_1.txt"),
        include_str!("../../golden/log_rules_1.outcomes.jsonl"),
    ),
    (
        "2",
        include_str!("../../golden/log_rules_2.txt"),
        include_str!("../../golden/log_rules_2.outcomes.jsonl"),
    ),
];

#[test]
fn the_logs_of_all_rules_fold_to_the_same_bytes() {
    for (rules, log, kept) in GOLDEN {
        let outcomes = fold(log);
        if kept != outcomes {
            let found = std::env::temp_dir().join(format!("log_rules_{rules}.outcomes.jsonl"));
            std::fs::write(&found, &outcomes).unwrap();
            panic!("the fold of rules {rules} has changed; what it gives now is in {}", found.display());
        }
    }
}

fn fold(log: &str) -> String {
    let mut ledger = Ledger::new(Partition::new(3).unwrap());
    let mut outcomes = String::new();
    for (place, line) in log.lines().enumerate() {
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
    outcomes
}
