//! The dead-letter queue.

use std::ops::ControlFlow;

use infrastructure_kafka::dead_letter::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, PROBLEM_BYTES_MAX, headers};
use infrastructure_kafka::{DeadLetter, DeadLetterWriter, NewRecord, ProducerPurpose, Topic};

use crate::installation::{Installation, SOON, append, record};

#[test]
fn a_dead_letter_says_where_it_came_from_and_keeps_as_much_as_fits() {
    let installation = Installation::new("dlq", 2).with_topics();
    let topic = installation.topic(Topic::DeadLetters);
    let origin = installation.topic(Topic::Claims);
    let writer = DeadLetterWriter::new(
        installation.producer(ProducerPurpose::Outcomes),
        topic.clone(),
        origin.clone(),
        "stock-consumer",
        "1.2.3",
    );
    let garbage = DeadLetter {
        origin_partition: 1,
        origin_offset: 42,
        origin_time_ms: 1_700_000_000_000,
        key: Some(b"c1-7".to_vec()),
        payload: Some(vec![0xff, 0x00, b'{']),
        original_bytes: 3,
        claim_id: Some("c1-7.0.0.ab".to_owned()),
        reason: "undecodable",
        problem: "expected value at line 1 column 1".to_owned(),
    };
    let huge = DeadLetter { origin_offset: 43, ..copy_of_a_huge_record(&installation, &origin) };
    let tombstone = DeadLetter { origin_offset: 44, payload: None, original_bytes: 0, ..huge.clone() };
    writer.write(&[garbage, huge, tombstone], &mut || {}).unwrap();
    writer.write(&[], &mut || {}).unwrap();

    // Acknowledged: all are there already.
    let reader = installation.reader(&topic);
    assert_eq!(reader.bounds(1).unwrap().end, 3);
    reader.assign(&[(1, 0)]).unwrap();
    let mut read = 0;
    while read < 3 {
        read += reader
            .drain(3, SOON, |record| {
                let text =
                    |name: &str| record.header(name).map(|value| String::from_utf8(value.to_vec()).unwrap());
                let header = |name: &str| text(name).unwrap();
                assert_eq!(header(headers::ORIGIN_TOPIC), origin);
                assert_eq!(header(headers::ORIGIN_PARTITION), "1");
                assert_eq!(header(headers::ORIGIN_OFFSET), (42 + record.offset()).to_string());
                assert_eq!(header(headers::ORIGIN_TIME_MS), "1700000000000");
                assert_eq!(header(headers::REASON), "undecodable");
                assert_eq!(header(headers::SERVICE), "stock-consumer");
                assert_eq!(header(headers::RELEASE), "1.2.3");
                let (claim_id, bytes) = (text(headers::CLAIM_ID), header(headers::ORIGINAL_BYTES));
                match record.offset() {
                    0 => {
                        assert_eq!(record.key(), Some(&b"c1-7"[..]));
                        assert_eq!(record.payload(), Some(&[0xff, 0x00, b'{'][..]));
                        assert_eq!(header(headers::PROBLEM), "expected value at line 1 column 1");
                        assert_eq!((claim_id.as_deref(), bytes.as_str()), (Some("c1-7.0.0.ab"), "3"));
                    }
                    1 => {
                        assert_eq!(record.payload(), Some(&vec![b'x'; PAYLOAD_BYTES_MAX][..]));
                        assert_eq!(header(headers::PROBLEM), "é".repeat(PROBLEM_BYTES_MAX / 2));
                        assert_eq!((claim_id, bytes), (None, (PAYLOAD_BYTES_MAX + 1_000).to_string()));
                    }
                    _ => {
                        assert_eq!(record.payload(), None);
                        assert_eq!((claim_id, bytes.as_str()), (None, "0"));
                    }
                }
                assert!(record.append_time_ms().is_some());
                ControlFlow::Continue(())
            })
            .unwrap();
    }
}

/// A record whose key and payload are both longer than what is kept: a copy of all of it could not even be produced.
fn copy_of_a_huge_record(installation: &Installation, topic: &str) -> DeadLetter {
    let (key, value) = ("k".repeat(500_000), "x".repeat(PAYLOAD_BYTES_MAX + 1_000));
    let producer = installation.producer(ProducerPurpose::Claims);
    let record = NewRecord { key: key.as_bytes(), ..record(topic, 1, &value) };
    let offset = append(&producer, &record).unwrap().offset.unwrap();
    let reader = installation.reader(topic);
    reader.assign(&[(1, offset)]).unwrap();
    let mut letter = None;
    while letter.is_none() {
        reader
            .drain(1, SOON, |view| {
                let problem = "é".repeat(PROBLEM_BYTES_MAX);
                letter = Some(DeadLetter::of_record(&view, 1_700_000_000_000, "undecodable", problem));
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    let letter = letter.unwrap();
    assert_eq!(letter.key.as_ref().map(Vec::len), Some(KEY_BYTES_MAX));
    assert_eq!(letter.payload.as_ref().map(Vec::len), Some(PAYLOAD_BYTES_MAX));
    letter
}
