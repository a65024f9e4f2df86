//! Reading from explicit offsets, to ends, and where offsets are gone.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use infrastructure_kafka::{KafkaError, Lines, LogBounds, ProducerPurpose, ReadError, Topic};
use local_stack::eventually;

use crate::installation::{
    Installation, SOON, append, drain, drain_some, drain_until_error, only_kafka, record, test_section,
};
use crate::operator::Operator;

const TEN: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

fn numbered(range: std::ops::Range<i64>) -> Vec<(i64, String)> {
    range.map(|number| (number, number.to_string())).collect()
}

#[test]
fn a_drain_takes_at_most_what_it_was_told_from_the_offset_it_was_given() {
    let installation = Installation::new("drain", 2).with_topics();
    let topic = installation.topic(Topic::Claims);
    let reader = installation.reader(&topic);
    assert_eq!(reader.bounds(0).unwrap(), LogBounds { start: 0, end: 0 });
    assert_eq!(reader.partition_count().unwrap(), 2);
    installation.append_all(&topic, 0, &TEN);
    assert_eq!(reader.bounds(0).unwrap(), LogBounds { start: 0, end: 10 });
    assert_eq!(reader.bounds(1).unwrap(), LogBounds { start: 0, end: 0 });

    reader.assign(&[(0, 4)]).unwrap();
    let mut read = drain_some(&reader, 3);
    assert!(read.len() <= 3);
    while read.len() < 6 {
        let left = 6 - read.len();
        read.extend(drain_some(&reader, left));
    }
    assert_eq!(read, numbered(4..10));
    assert_eq!(drain(&reader, 100).unwrap(), [], "there is nothing more");

    // Whoever breaks has had the record; the next drain goes on behind it.
    reader.assign(&[(0, 0)]).unwrap();
    let mut first = 0;
    assert!(eventually(SOON, || {
        first += reader.drain(100, SOON, |_| ControlFlow::Break(())).unwrap();
        first > 0
    }));
    assert_eq!(first, 1);
    assert_eq!(drain_some(&reader, 1), numbered(1..2));

    // What is appended later arrives at a reader that waits at the end.
    reader.assign(&[(0, 10), (1, 0)]).unwrap();
    installation.append_all(&topic, 0, &["10"]);
    assert_eq!(drain_some(&reader, 100), numbered(10..11));
    installation.append_all(&topic, 1, &["0"]);
    assert_eq!(drain_some(&reader, 100), numbered(0..1));
}

#[test]
fn the_end_is_where_it_was_when_the_partitions_were_assigned() {
    let installation = Installation::new("ends", 3).with_topics();
    let topic = installation.topic(Topic::Claims);
    installation.append_all(&topic, 1, &TEN);
    let reader = installation.reader(&topic);
    let empty = LogBounds { start: 0, end: 0 };
    reader.assign_within(&[(0, empty), (1, LogBounds { start: 3, end: 10 }), (2, empty)]).unwrap();
    assert!(!reader.is_at_end());
    let mut read = Vec::new();
    assert!(eventually(SOON, || {
        read.extend(drain(&reader, 4).unwrap());
        reader.is_at_end()
    }));
    assert_eq!(read, numbered(3..10), "everything before an end was given out before it was seen");
    reader.assign_within(&[(1, LogBounds { start: 0, end: 10 })]).unwrap();
    assert!(!reader.is_at_end(), "the last assignment's end is forgotten");
    reader.assign_within(&[(2, empty)]).unwrap();
    assert!(reader.is_at_end(), "there is nothing to read up to");
}

#[test]
fn a_partition_may_be_assigned_again_and_again_at_once() {
    let installation = Installation::new("again", 1).with_topics();
    let topic = installation.topic(Topic::Claims);
    installation.append_all(&topic, 0, &TEN);
    let lines = Lines::new(&installation.connection, &topic, "test").unwrap();
    for reader in [installation.reader(&topic), lines.reader(0)] {
        for _ in 0..500 {
            reader.assign(&[(0, 3)]).unwrap();
        }
        assert_eq!(drain_some(&reader, 1), numbered(3..4));
        for start in (0..10).cycle().take(100) {
            reader.assign(&[(0, start)]).unwrap();
            assert_eq!(drain_some(&reader, 1), numbered(start..start + 1));
            reader.assign(&[(0, 0)]).unwrap();
        }
    }
    for _ in 0..100 {
        lines.reader(0).assign(&[(0, 0)]).unwrap();
    }
    let reader = lines.reader(0);
    reader.assign(&[(0, 9)]).unwrap();
    assert_eq!(drain_some(&reader, 1), numbered(9..10));
}

#[test]
fn an_end_is_reached_though_records_never_stop_coming() {
    let installation = Installation::new("busy", 1).with_topics();
    let topic = installation.topic(Topic::Claims);
    installation.append_all(&topic, 0, &TEN);
    let reader = installation.reader(&topic);
    reader.assign_within(&[(0, LogBounds { start: 0, end: 5 })]).unwrap();
    // One record at a time, so that the client never has nothing to give.
    let mut read = Vec::new();
    while !reader.is_at_end() {
        read.extend(drain_some(&reader, 1));
    }
    assert_eq!(read, numbered(0..5));
}

#[test]
fn what_retention_took_is_out_of_range_and_what_was_read_before_is_no_loss() {
    let installation = Installation::new("retention", 2).with_topics();
    let topic = installation.topic(Topic::Claims);
    let operator = Operator::of(&installation.section.bootstrap_servers);
    installation.append_all(&topic, 1, &TEN);
    let ahead = installation.reader(&topic);
    ahead.assign_within(&[(1, LogBounds { start: 0, end: 10 })]).unwrap();
    let mut read = Vec::new();
    assert!(eventually(SOON, || {
        read.extend(drain(&ahead, 100).unwrap());
        ahead.is_at_end()
    }));
    assert_eq!(read, numbered(0..10));

    operator.delete_records(&topic, 1, 7);
    let behind = installation.reader(&topic);
    assert!(eventually(SOON, || behind.bounds(1).unwrap() == LogBounds { start: 7, end: 10 }));
    behind.assign(&[(1, 6)]).unwrap();
    let error = drain_until_error(&behind);
    assert!(matches!(error, ReadError::OutOfRange { partition: 1 }), "{error}");
    behind.assign(&[(1, 7)]).unwrap();
    assert_eq!(drain_some(&behind, 1), numbered(7..8));

    // Everything gone: an empty log that does not begin at zero.
    operator.delete_records(&topic, 1, 10);
    assert!(eventually(SOON, || behind.bounds(1).unwrap() == LogBounds { start: 10, end: 10 }));
    behind.assign(&[(1, 10)]).unwrap();
    assert_eq!(drain(&behind, 1).unwrap(), []);
    installation.append_all(&topic, 1, &["10"]);
    assert_eq!(drain_some(&behind, 1), numbered(10..11));
    assert_eq!(drain_some(&ahead, 1), numbered(10..11));
}

#[test]
fn one_partition_that_is_out_of_range_is_reported_though_others_can_be_read() {
    let installation = Installation::new("several", 2).with_topics();
    let topic = installation.topic(Topic::Claims);
    installation.append_all(&topic, 0, &TEN);
    installation.append_all(&topic, 1, &TEN);
    let reader = installation.reader(&topic);
    reader.assign(&[(0, 0), (1, 11)]).unwrap();
    let error = drain_until_error(&reader);
    assert!(matches!(error, ReadError::OutOfRange { .. }), "{error}");
}

#[test]
fn an_offset_beyond_the_end_of_a_recreated_topic_is_out_of_range() {
    let installation = Installation::new("recreated", 1);
    let topic = format!("{}log", installation.section.topic_prefix);
    let operator = Operator::of(&installation.section.bootstrap_servers);
    operator.create(&topic, 1, &[]);
    installation.append_all(&topic, 0, &TEN);
    let old_reader = installation.reader(&topic);
    old_reader.assign_within(&[(0, LogBounds { start: 0, end: 10 })]).unwrap();
    let mut read = Vec::new();
    assert!(eventually(SOON, || {
        read.extend(drain(&old_reader, 100).unwrap());
        old_reader.is_at_end()
    }));

    operator.delete(&topic);
    operator.create(&topic, 1, &[]);
    installation.append_all(&topic, 0, &["another log"]);

    let reader = installation.reader(&topic);
    assert_eq!(reader.bounds(0).unwrap(), LogBounds { start: 0, end: 1 });
    reader.assign(&[(0, 10)]).unwrap();
    let error = drain_until_error(&reader);
    assert!(matches!(error, ReadError::OutOfRange { partition: 0 }), "{error}");

    // Whoever was reading all the time is told too: by a missing topic, if it happens to ask in between.
    let error = drain_until_error(&old_reader);
    let told = matches!(
        error,
        ReadError::OutOfRange { partition: 0 } | ReadError::Kafka(KafkaError::Missing { .. })
    );
    assert!(told, "{error}");
}

#[test]
fn a_topic_that_does_not_exist_is_missing_however_it_is_asked_about() {
    let installation = Installation::new("missing", 1).with_topics();
    let reader = installation.reader("nobody.made.this");
    for error in [reader.bounds(0).unwrap_err(), reader.partition_count().unwrap_err()] {
        assert!(matches!(error, KafkaError::Missing { .. }), "{error}");
    }
    reader.assign(&[(0, 0)]).unwrap();
    let error = drain_until_error(&reader);
    assert!(matches!(error, ReadError::Kafka(KafkaError::Missing { .. })), "{error}");

    let topic = installation.topic(Topic::Claims);
    let reader = installation.reader(&topic);
    let error = reader.bounds(7).unwrap_err();
    assert!(matches!(error, KafkaError::Missing { partition: 7, .. }), "{error}");
}

#[test]
fn a_reader_reads_on_from_a_topic_that_was_made_after_it() {
    let installation = Installation::new("late", 1);
    let topic = installation.topic(Topic::Claims);
    let reader = installation.reader(&topic);
    assert!(reader.partition_count().is_err());
    let installation = installation.with_topics();
    assert!(eventually(SOON, || reader.partition_count().is_ok()));
    installation.append_all(&topic, 0, &TEN);
    assert_eq!(reader.bounds(0).unwrap(), LogBounds { start: 0, end: 10 });
    reader.assign(&[(0, 9)]).unwrap();
    assert_eq!(drain_some(&reader, 10), numbered(9..10));
}

#[test]
fn a_reader_on_its_way_out_holds_nobody_up() {
    let installation = Installation::new("leaving", 2).with_topics();
    let topic = installation.topic(Topic::Claims);
    installation.append_all(&topic, 0, &TEN);
    let producer = installation.producer(ProducerPurpose::Claims);
    append(&producer, &record(&topic, 1, "0")).unwrap();
    let reader = installation.reader(&topic);
    reader.assign(&[(0, 0), (1, 0)]).unwrap();
    drain_some(&reader, 1);
    let started = Instant::now();
    drop(reader);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn the_end_of_a_compacted_partition_is_seen_though_offsets_before_it_are_gone() {
    let servers = only_kafka(&[("log.cleaner.backoff.ms", "100")]);
    let installation = Installation::at(test_section(servers.kafka_bootstrap()));
    let operator = Operator::of(servers.kafka_bootstrap());
    let settings =
        [("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.0")];
    operator.create("compacted", 1, &settings);
    let producer = installation.producer(ProducerPurpose::Outcomes);
    let mut last = 0;
    // Each append may roll a segment, and all but the newest value of the key go from those behind it.
    assert!(eventually(SOON, || {
        last = append(&producer, &record("compacted", 0, "state")).unwrap().offset.unwrap();
        installation.values("compacted", 0, 0)[0].0 > 0
    }));
    let read = installation.values("compacted", 0, 0);
    assert!(read.len() < usize::try_from(last).unwrap() + 1);
    assert_eq!(read.last().unwrap().0, last);
}
