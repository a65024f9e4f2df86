//! Creating, growing and checking the topics.

use std::time::{Duration, Instant};

use infrastructure_kafka::topic_admin::Applied;
use infrastructure_kafka::{KafkaError, KafkaSection, Topic, TopicProblem};
use local_stack::eventually;

use crate::installation::{Installation, SOON, block_on, test_section};
use crate::operator::Operator;

fn names(installation: &Installation) -> Vec<String> {
    Topic::ALL.map(|topic| installation.topic(topic)).to_vec()
}

fn all(installation: &Installation, applied: &Applied) -> Vec<(String, Applied)> {
    names(installation).into_iter().map(|name| (name, applied.clone())).collect()
}

fn resized(installation: &Installation, partitions: u16) -> Installation {
    Installation::at(KafkaSection { partitions, ..installation.section.clone() })
}

#[test]
fn apply_creates_every_topic_as_promised_and_changes_nothing_the_second_time() {
    let installation = Installation::new("apply", 3);
    let admin = installation.admin();
    assert_eq!(
        block_on(admin.problems()).unwrap(),
        names(&installation).into_iter().map(|topic| TopicProblem::Missing { topic }).collect::<Vec<_>>()
    );
    assert_eq!(block_on(admin.apply()).unwrap(), all(&installation, &Applied::Created));
    assert!(eventually(SOON, || block_on(admin.problems()).unwrap().is_empty()));

    let operator = Operator::of(&installation.section.bootstrap_servers);
    let day_ms = 24 * 60 * 60 * 1000_i64;
    for topic in Topic::ALL {
        let name = installation.topic(topic);
        let settings = operator.settings(&name);
        let (kept, days) = match topic {
            Topic::Claims | Topic::Outcomes => ("delete", Some(7)),
            Topic::DeadLetters => ("delete", Some(30)),
            Topic::State | Topic::Persisted => ("compact", None),
        };
        assert_eq!(operator.partitions(&name), 3, "{name}");
        assert_eq!(settings["cleanup.policy"], kept, "{name}");
        assert_eq!(settings["min.insync.replicas"], "1", "{name}");
        if let Some(days) = days {
            assert_eq!(settings["retention.ms"], (days * day_ms).to_string(), "{name}");
            assert_eq!(settings["message.timestamp.type"], "LogAppendTime", "{name}");
        }
    }
    for topic in [Topic::State, Topic::Persisted] {
        let settings = operator.settings(&installation.topic(topic));
        assert_eq!((&*settings["min.compaction.lag.ms"], &*settings["segment.ms"]), ("0", "600000"));
    }

    assert_eq!(block_on(admin.apply()).unwrap(), all(&installation, &Applied::Unchanged));
}

#[test]
fn apply_grows_what_has_too_few_partitions_and_more_than_enough_are_fine() {
    let two = Installation::new("grow", 2).with_topics();
    let four = resized(&two, 4);
    let too_few =
        names(&two).into_iter().map(|topic| TopicProblem::TooFewPartitions { topic, found: 2, expected: 4 });
    assert_eq!(block_on(four.admin().problems()).unwrap(), too_few.collect::<Vec<_>>());
    assert_eq!(block_on(four.admin().apply()).unwrap(), all(&two, &Applied::Grown { from: 2 }));
    assert!(eventually(SOON, || block_on(four.admin().problems()).unwrap().is_empty()));

    assert_eq!(block_on(two.admin().problems()).unwrap(), []);
    assert_eq!(block_on(two.admin().apply()).unwrap(), all(&two, &Applied::Unchanged));
}

#[test]
fn two_operators_who_create_and_grow_at_once_both_succeed() {
    let three = Installation::new("both", 3);
    let five = resized(&three, 5);
    for installation in [three, five] {
        std::thread::scope(|scope| {
            let apply = || block_on(installation.admin().apply()).map(drop);
            let threads = [scope.spawn(apply), scope.spawn(apply), scope.spawn(apply)];
            for thread in threads {
                thread.join().unwrap().unwrap();
            }
        });
        assert!(eventually(SOON, || block_on(installation.admin().problems()).unwrap().is_empty()));
    }
}

#[test]
fn every_problem_is_named_at_once_and_only_those_that_apply_mends_are_awaited() {
    let installation = Installation::new("problems", 2);
    let operator = Operator::of(&installation.section.bootstrap_servers);
    let claims = installation.topic(Topic::Claims);
    let state = installation.topic(Topic::State);
    let outcomes = installation.topic(Topic::Outcomes);
    operator.create(&claims, 1, &[("message.timestamp.type", "CreateTime"), ("cleanup.policy", "compact")]);
    operator.create(&state, 2, &[("cleanup.policy", "compact,delete")]);
    operator.create(&outcomes, 2, &[("message.timestamp.type", "LogAppendTime")]);

    let wrong = |topic: &str, setting: &str, found: &str, expected: &str| TopicProblem::Wrong {
        topic: topic.to_owned(),
        setting: setting.to_owned(),
        found: found.to_owned(),
        expected: expected.to_owned(),
    };
    let missing = |topic| TopicProblem::Missing { topic: installation.topic(topic) };
    let expected = [
        wrong(&state, "cleanup.policy", "compact,delete", "compact"),
        missing(Topic::Persisted),
        missing(Topic::DeadLetters),
        TopicProblem::TooFewPartitions { topic: claims.clone(), found: 1, expected: 2 },
        wrong(&claims, "cleanup.policy", "compact", "delete"),
        wrong(&claims, "message.timestamp.type", "CreateTime", "LogAppendTime"),
    ];
    let problems = block_on(installation.admin().problems()).unwrap();
    assert_eq!(problems, expected);
    let awaited: Vec<bool> = problems.iter().map(TopicProblem::is_awaited).collect();
    assert_eq!(awaited, [false, true, true, true, false, false]);

    // What exists is grown, but its settings are the operator's: they are named again.
    block_on(installation.admin().apply()).unwrap();
    let left = [0, 4, 5].map(|index: usize| expected[index].clone());
    assert!(eventually(SOON, || block_on(installation.admin().problems()).unwrap() == left));

    operator.alter(&claims, &[("message.timestamp.type", "LogAppendTime"), ("cleanup.policy", "delete")]);
    operator.alter(&state, &[("cleanup.policy", "compact")]);
    assert!(eventually(SOON, || block_on(installation.admin().problems()).unwrap().is_empty()));
}

#[test]
fn too_few_copies_are_a_problem() {
    let single = Installation::new("copies", 1).with_topics();
    let (replication_factor, min_insync_replicas) = (Some(3), Some(2));
    let copied = KafkaSection { replication_factor, min_insync_replicas, ..single.section };
    let problems = block_on(Installation::at(copied).admin().problems()).unwrap();
    let settings: Vec<(&str, &str)> = problems
        .iter()
        .map(|problem| match problem {
            TopicProblem::Wrong { setting, expected, .. } => (setting.as_str(), expected.as_str()),
            other => panic!("{other}"),
        })
        .collect();
    let of_each_topic = [("replication.factor", "at least 3"), ("min.insync.replicas", "at least 2")];
    assert_eq!(settings, of_each_topic.repeat(5));
}

#[test]
fn a_cluster_that_nobody_runs_is_unreachable_within_the_time_limit() {
    let nobody = Installation::at(KafkaSection { request_timeout_ms: 500, ..test_section("127.0.0.1:1") });
    let started = Instant::now();
    let error = block_on(nobody.admin().problems()).unwrap_err();
    assert!(matches!(error, KafkaError::Unreachable(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}
