//! A broker that is killed, and one that is silent. Each test has a broker of its own.

use std::future::Future as _;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use infrastructure_kafka::producer::StillWaiting;
use infrastructure_kafka::{AppendError, KafkaSection, ProducerPurpose, Topic};
use local_stack::{Supervised, eventually};

use crate::installation::{
    Installation, SOON, append, block_on, drain, drain_some, only_kafka, record, test_section,
};
use crate::membership::{Told, join};

/// What an answer may take beyond its limit, on a machine that is busy with something else.
const MARGIN: Duration = Duration::from_secs(5);

#[test]
fn with_a_dead_broker_claims_are_in_doubt_in_time_and_everything_else_waits_and_goes_on() {
    let servers = only_kafka(&[]);
    let kafka = servers.kafka().unwrap();
    let section =
        KafkaSection { partitions: 2, message_timeout_ms: 1_500, ..test_section(servers.kafka_bootstrap()) };
    let installation = Installation::at(section).with_topics();
    let (claims, outcomes) = (installation.topic(Topic::Claims), installation.topic(Topic::Outcomes));
    let gateway = installation.producer(ProducerPurpose::Claims);
    let worker = installation.producer(ProducerPurpose::Outcomes);
    assert!(eventually(SOON, || append(&gateway, &record(&claims, 0, "before")).is_ok()));
    let mut batch = worker.batch();
    batch.produce(record(&outcomes, 0, "0"), &mut || {}).unwrap();
    assert_eq!(batch.wait(SOON).unwrap(), Ok(Some(0)));
    let reader = installation.reader(&outcomes);
    reader.assign(&[(0, 0)]).unwrap();
    assert_eq!(drain_some(&reader, 10), [(0, "0".to_owned())]);
    let told = Told::default();
    let member = join(&installation, &told);
    assert!(eventually(SOON, || told.holds(&[0, 1])));
    let up = &installation.connection.metrics().up;
    assert!(eventually(SOON, || up.get() == 1));

    kafka.kill().unwrap();

    let started = Instant::now();
    let doubt = append(&gateway, &record(&claims, 0, "in doubt")).unwrap_err();
    assert!(matches!(doubt, AppendError::Unknown(_)), "{doubt}");
    assert!(started.elapsed() < Duration::from_millis(1_500) + MARGIN, "{:?}", started.elapsed());
    let mut batch = worker.batch();
    for value in ["1", "2", "3"] {
        batch.produce(record(&outcomes, 0, value), &mut || {}).unwrap();
    }
    // Longer than the gateway's limit: outcomes insist.
    assert_eq!(batch.wait(Duration::from_millis(2_000)).unwrap(), Err(StillWaiting));
    assert_eq!(drain(&reader, 10).unwrap(), [], "nothing to read is no error");
    assert!(eventually(SOON, || up.get() == 0));
    assert!(!member.has_ended());

    kafka.start_again().unwrap();

    assert!(eventually(SOON, || batch.wait(Duration::from_secs(1)).unwrap() == Ok(Some(3))));
    let mut read = Vec::new();
    assert!(eventually(SOON, || {
        read.extend(drain(&reader, 10).unwrap());
        read.len() >= 3
    }));
    assert_eq!(read, (1..4).map(|number| (number, number.to_string())).collect::<Vec<_>>());
    assert!(eventually(SOON, || append(&gateway, &record(&claims, 0, "after")).is_ok()));
    assert!(eventually(SOON, || told.holds(&[0, 1]) && !member.has_ended()));
    assert!(eventually(SOON, || up.get() == 1));
    assert_eq!(installation.values(&outcomes, 0, 0).len(), 4, "each is there once");
    member.leave(SOON).unwrap();
}

#[test]
fn with_a_silent_broker_the_queue_fills_up_and_then_says_so_at_once() {
    let servers = only_kafka(&[]);
    let kafka = servers.kafka().unwrap();
    let section = KafkaSection {
        partitions: 1,
        message_timeout_ms: 10_000,
        queue_messages_max: 100,
        ..test_section(servers.kafka_bootstrap())
    };
    let installation = Installation::at(section).with_topics();
    let topic = installation.topic(Topic::Claims);
    let producer = installation.producer(ProducerPurpose::Claims);
    append(&producer, &record(&topic, 0, "first")).unwrap();
    let reader = installation.reader(&topic);
    reader.assign(&[(0, 0)]).unwrap();
    drain_some(&reader, 1);

    kafka.suspend().unwrap();

    let mut waiting: Vec<_> =
        (0..100).map(|_| Box::pin(producer.append(record(&topic, 0, "waits")))).collect();
    let mut context = Context::from_waker(Waker::noop());
    for append in &mut waiting {
        assert!(append.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(producer.in_flight(), 100);
    let started = Instant::now();
    let refused = append(&producer, &record(&topic, 0, "one too many")).unwrap_err();
    assert!(matches!(refused, AppendError::QueueFull), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());

    // Those who go away are counted all the same, and a reader that goes away holds nobody up.
    waiting.truncate(50);
    assert_eq!(producer.in_flight(), 100);
    let started = Instant::now();
    drop(reader);
    assert!(started.elapsed() < MARGIN, "{:?}", started.elapsed());

    kafka.resume().unwrap();

    for append in waiting {
        match block_on(append) {
            Ok(_) | Err(AppendError::Unknown(_)) => {}
            Err(refused) => panic!("{refused}"),
        }
    }
    assert!(eventually(SOON, || producer.in_flight() == 0));
    assert!(eventually(SOON, || append(&producer, &record(&topic, 0, "after")).is_ok()));
}
