//! Appending: acknowledged or accounted for.

use std::time::Duration;

use infrastructure_kafka::{AppendError, KafkaSection, NewRecord, ProducerPurpose, Topic};
use local_stack::eventually;

use crate::installation::{Installation, append, record};
use crate::operator::Operator;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_acknowledgement_says_where_the_record_stands_and_when_the_broker_appended_it() {
    let installation = Installation::new("acknowledged", 3).with_topics();
    let topic = installation.topic(Topic::Claims);
    let producer = installation.producer(ProducerPurpose::Claims);
    let mut times = Vec::new();
    for offset in 0..3 {
        let acknowledged = append(&producer, &record(&topic, 2, "claim")).unwrap();
        assert_eq!((acknowledged.partition, acknowledged.offset), (2, Some(offset)));
        times.push(acknowledged.append_time_ms);
    }
    assert_eq!(append(&producer, &record(&topic, 0, "other")).unwrap().offset, Some(0));
    assert!(eventually(PATIENCE, || producer.in_flight() == 0));

    let reader = installation.reader(&topic);
    reader.assign(&[(2, 0)]).unwrap();
    let mut read = Vec::new();
    while read.len() < 3 {
        reader
            .drain(10, PATIENCE, |record| {
                read.push(record.append_time_ms());
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
    }
    assert_eq!(read, times);
    assert!(times.iter().all(Option::is_some));
    let acked = installation.connection.metrics().delivery_seconds.with_label_values(&[&topic, "acked"]);
    assert_eq!(acked.get_sample_count(), 4);
}

#[test]
fn a_batch_is_awaited_whole_and_keeps_its_order() {
    let installation = Installation::new("batch", 2).with_topics();
    let topic = installation.topic(Topic::Outcomes);
    let producer = installation.producer(ProducerPurpose::Outcomes);
    let values: Vec<String> = (0..5_000).map(|number| format!("outcome {number}")).collect();
    let mut batch = producer.batch();
    for (number, value) in values.iter().enumerate() {
        // Two lines at once, as one process may decide several.
        let partition = i32::from(number % 5 == 0);
        batch.produce(record(&topic, partition, value), &mut || {}).unwrap();
    }
    let highest = batch.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(highest, Some(3_999));
    for partition in [0, 1] {
        let expected = values.iter().enumerate().filter(|(number, _)| (number % 5 == 0) == (partition == 1));
        let expected: Vec<(i64, String)> = (0..).zip(expected.map(|(_, value)| value.clone())).collect();
        assert_eq!(installation.values(&topic, partition, 0), expected);
    }
    assert_eq!(producer.batch().wait(Duration::ZERO).unwrap(), Ok(None), "an empty batch is done");
}

#[test]
fn a_full_queue_holds_a_batch_up_in_order_and_its_caller_may_prove_meanwhile_that_it_lives() {
    // Only this purpose's queue can be made small; batches behave alike on both.
    let installation = Installation::new("held", 1).with_topics();
    let topic = installation.topic(Topic::Claims);
    let small = KafkaSection { queue_messages_max: 100, ..installation.section.clone() };
    let producer = Installation::at(small).producer(ProducerPurpose::Claims);
    let values: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    let (mut waited, mut batch) = (0, producer.batch());
    for value in &values {
        batch.produce(record(&topic, 0, value), &mut || waited += 1).unwrap();
    }
    assert_eq!(batch.wait(PATIENCE).unwrap(), Ok(Some(999)));
    assert!(waited > 0);
    let read: Vec<String> = installation.values(&topic, 0, 0).into_iter().map(|(_, value)| value).collect();
    assert_eq!(read, values);
}

#[test]
fn a_record_that_is_too_large_is_refused_and_the_next_one_is_not() {
    let installation = Installation::new("large", 1).with_topics();
    let topic = installation.topic(Topic::Claims);
    let producer = installation.producer(ProducerPurpose::Claims);
    let beyond_the_client = "x".repeat(2_000_000);
    let refused = append(&producer, &record(&topic, 0, &beyond_the_client)).unwrap_err();
    assert!(matches!(refused, AppendError::Refused(_)), "{refused}");

    let operator = Operator::of(&installation.section.bootstrap_servers);
    let small = format!("{topic}.small");
    operator.create(&small, 1, &[("max.message.bytes", "1000")]);
    let beyond_the_broker = "x".repeat(10_000);
    let refused = append(&producer, &record(&small, 0, &beyond_the_broker)).unwrap_err();
    assert!(matches!(refused, AppendError::Refused(_)), "{refused}");

    for topic in [&topic, &small] {
        assert_eq!(append(&producer, &record(topic, 0, "fits")).unwrap().offset, Some(0));
    }
    let refused = installation.connection.metrics().delivery_seconds.with_label_values(&[&small, "refused"]);
    assert_eq!(refused.get_sample_count(), 1);
}

#[test]
fn a_batch_with_a_record_that_is_refused_fails_every_time_it_is_asked() {
    let installation = Installation::new("failed", 1).with_topics();
    let topic = installation.topic(Topic::Outcomes);
    let producer = installation.producer(ProducerPurpose::Outcomes);
    let mut batch = producer.batch();
    batch.produce(record(&topic, 0, "fits"), &mut || {}).unwrap();
    let refused = batch.produce(record(&topic, 0, &"x".repeat(2_000_000)), &mut || {}).unwrap_err();
    assert!(matches!(refused, AppendError::Refused(_)), "{refused}");
    for _ in 0..2 {
        let refused = batch.wait(PATIENCE).unwrap_err();
        assert!(matches!(refused, AppendError::Refused(_)), "{refused}");
    }

    let operator = Operator::of(&installation.section.bootstrap_servers);
    let small = format!("{topic}.small");
    operator.create(&small, 1, &[("max.message.bytes", "1000")]);
    let mut batch = producer.batch();
    batch.produce(record(&small, 0, &"x".repeat(10_000)), &mut || {}).unwrap();
    for _ in 0..2 {
        // The log's own bookkeeping allows no gap: whatever the reason, the process must not go on.
        batch.wait(PATIENCE).unwrap_err();
    }
}

#[test]
fn a_record_for_a_partition_that_does_not_exist_is_refused() {
    let installation = Installation::new("nowhere", 1).with_topics();
    let topic = installation.topic(Topic::Claims);
    let producer = installation.producer(ProducerPurpose::Claims);
    append(&producer, &record(&topic, 0, "somewhere")).unwrap();
    let refused = append(&producer, &record(&topic, 1, "nowhere")).unwrap_err();
    assert!(matches!(refused, AppendError::Refused(_)), "{refused}");
}

#[test]
fn tombstones_headers_and_keys_arrive_as_they_were_sent() {
    let installation = Installation::new("headers", 1).with_topics();
    let topic = installation.topic(Topic::State);
    let producer = installation.producer(ProducerPurpose::Outcomes);
    let headers: [(&str, &[u8]); 3] = [("claim_id", b"c0-1"), ("empty", b""), ("claim_id", b"second")];
    let tombstone = NewRecord { topic: &topic, partition: 0, key: b"c0", payload: None, headers: &headers };
    let empty = NewRecord { payload: Some(b""), headers: &[], ..tombstone };
    let binary = NewRecord { key: &[0, 255], payload: Some(&[0, 159, 146, 150]), ..empty };
    for record in [&tombstone, &empty, &binary] {
        append(&producer, record).unwrap();
    }
    let reader = installation.reader(&topic);
    reader.assign(&[(0, 0)]).unwrap();
    let mut seen = 0;
    while seen < 3 {
        reader
            .drain(3, PATIENCE, |record| {
                let header = |name| record.header(name).map(<[u8]>::to_vec);
                match record.offset() {
                    0 => {
                        assert_eq!((record.key(), record.payload()), (Some(&b"c0"[..]), None));
                        assert_eq!(header("claim_id"), Some(b"c0-1".to_vec()), "the first of its name");
                        assert_eq!(header("empty"), Some(Vec::new()));
                        assert_eq!(header("absent"), None);
                    }
                    1 => {
                        assert_eq!(record.payload(), Some(&b""[..]), "empty is not nothing");
                        assert_eq!(header("claim_id"), None);
                    }
                    _ => {
                        assert_eq!(record.key(), Some(&[0, 255][..]));
                        assert_eq!(record.payload(), Some(&[0, 159, 146, 150][..]));
                    }
                }
                // This topic keeps the producer's time, which is nobody's append time.
                assert_eq!(record.append_time_ms(), None);
                seen += 1;
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
    }
}
