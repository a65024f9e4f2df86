//! Many partitions through one client, each with a reader of its own.

use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use infrastructure_kafka::{
    KafkaError, Lines, LogBounds, NewRecord, ProducerPurpose, ReadError, Reader, Topic,
};
use local_stack::eventually;

use crate::installation::{Installation, SOON, drain, drain_some, drain_until_error};
use crate::operator::Operator;

const LINES: i32 = 50;
const RECORDS: i64 = 400;
const RESTLESS: i32 = 7;

fn lines(installation: &Installation, topic: &str) -> Lines {
    Lines::new(&installation.connection, topic, "test lines").unwrap()
}

/// Appends the numbers of this range to every partition, in turn.
fn append_numbers(installation: &Installation, topic: &str, numbers: std::ops::Range<i64>) {
    let producer = installation.producer(ProducerPurpose::Outcomes);
    let mut batch = producer.batch();
    for number in numbers {
        for partition in 0..LINES {
            let value = format!("{partition}:{number}");
            let record =
                NewRecord { topic, partition, key: b"key", payload: Some(value.as_bytes()), headers: &[] };
            batch.produce(record, &mut || {}).unwrap();
        }
    }
    assert!(eventually(SOON, || batch.wait(Duration::from_secs(1)).unwrap().is_ok()));
}

/// Reads on to this offset and finds every record, in order, its own.
fn read_up_to(reader: &Reader, partition: i32, from: i64, to: i64) {
    let mut next = from;
    assert!(eventually(SOON, || {
        reader
            .drain(100, Duration::from_millis(100), |record| {
                assert_eq!((record.partition(), record.offset()), (partition, next));
                assert_eq!(record.payload().unwrap(), format!("{partition}:{next}").as_bytes());
                next += 1;
                if next < to { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .unwrap();
        next >= to
    }));
    assert_eq!(next, to);
}

#[test]
fn fifty_lines_share_a_client_while_one_is_sought_given_away_and_taken_again() {
    let installation = Installation::new("lines", 50).with_topics();
    let topic = installation.topic(Topic::Claims);
    append_numbers(&installation, &topic, 0..RECORDS / 2);
    let lines = lines(&installation, &topic);
    thread::scope(|scope| {
        for partition in (0..LINES).filter(|partition| *partition != RESTLESS) {
            let lines = &lines;
            scope.spawn(move || {
                let reader = lines.reader(partition);
                reader.assign(&[(partition, 0)]).unwrap();
                read_up_to(&reader, partition, 0, RECORDS);
            });
        }
        let mut reader = lines.reader(RESTLESS);
        for (round, start) in [0, 150, 3, 100, 101, 42, 199, 7, 0, 60].into_iter().enumerate() {
            reader.assign(&[(RESTLESS, start)]).unwrap();
            // At times a little, at times all of it, so that a seek meets a full queue and an empty one.
            let to = if round % 2 == 0 { start + 1 } else { RECORDS / 2 };
            read_up_to(&reader, RESTLESS, start, to);
            if round % 3 == 0 {
                let next = lines.reader(RESTLESS);
                let late = drain(&reader, 10);
                assert!(matches!(late, Err(ReadError::Kafka(KafkaError::Unreachable(_)))), "{late:?}");
                assert!(reader.assign(&[(RESTLESS, 0)]).is_err(), "whoever came later has the line");
                // The late one goes away without taking the line along.
                reader = next;
            }
        }
        append_numbers(&installation, &topic, RECORDS / 2..RECORDS);
        reader.assign(&[(RESTLESS, 10)]).unwrap();
        read_up_to(&reader, RESTLESS, 10, RECORDS);
    });
}

#[test]
fn what_is_wrong_with_one_line_is_told_to_its_reader_alone() {
    let installation = Installation::new("line-errors", 50).with_topics();
    let topic = installation.topic(Topic::Claims);
    append_numbers(&installation, &topic, 0..20);
    let lines = lines(&installation, &topic);
    let (well, beyond, behind) = (lines.reader(0), lines.reader(1), lines.reader(2));
    well.assign_within(&[(0, well.bounds(0).unwrap())]).unwrap();
    beyond.assign(&[(1, 1_000)]).unwrap();
    Operator::of(&installation.section.bootstrap_servers).delete_records(&topic, 2, 7);
    assert!(eventually(SOON, || behind.bounds(2).unwrap() == LogBounds { start: 7, end: 20 }));
    behind.assign(&[(2, 3)]).unwrap();
    for (reader, partition) in [(&beyond, 1), (&behind, 2)] {
        let error = drain_until_error(reader);
        assert!(matches!(error, ReadError::OutOfRange { partition: told } if told == partition), "{error}");
    }
    read_up_to(&well, 0, 0, 20);
    assert!(well.is_at_end());
    behind.assign(&[(2, 7)]).unwrap();
    read_up_to(&behind, 2, 7, 20);
    assert!(well.assign(&[(1, 0)]).is_err(), "a line's reader reads its own line");
    assert!(well.assign(&[(0, 0), (1, 0)]).is_err());
}

#[test]
fn a_topic_that_is_not_there_is_missing_to_every_line_and_read_once_it_is() {
    let installation = Installation::new("no-lines", 2);
    let topic = installation.topic(Topic::Claims);
    let lines = lines(&installation, &topic);
    let readers = [lines.reader(0), lines.reader(1)];
    for (partition, reader) in (0..).zip(&readers) {
        reader.assign(&[(partition, 0)]).unwrap();
    }
    for reader in &readers {
        let error = drain_until_error(reader);
        assert!(matches!(error, ReadError::Kafka(KafkaError::Missing { .. })), "{error}");
    }
    let installation = installation.with_topics();
    installation.append_all(&topic, 1, &["made"]);
    assert!(eventually(SOON, || readers[1].assign(&[(1, 0)]).is_ok()
        && drain(&readers[1], 1).is_ok_and(|read| !read.is_empty())));
    drop(readers);
    let reader = lines.reader(1);
    reader.assign(&[(1, 0)]).unwrap();
    assert_eq!(drain_some(&reader, 10), [(0, "made".to_owned())]);
}
