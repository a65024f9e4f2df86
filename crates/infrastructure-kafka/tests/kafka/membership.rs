//! Sharing out partitions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use infrastructure_kafka::{AssignmentHandler, KafkaSection, Membership, ProducerPurpose, Topic};
use local_stack::eventually;
use parking_lot::Mutex;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::installation::{Installation, SOON, append, record};

/// What a member was told so far.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Calls>>);

#[derive(Default)]
struct Calls {
    held: BTreeSet<i32>,
    assigned: Vec<Vec<i32>>,
    revoked: Vec<Vec<i32>>,
    turns: usize,
}

impl AssignmentHandler for Told {
    fn assigned(&mut self, partitions: &[i32]) {
        let mut calls = self.0.lock();
        for partition in partitions {
            assert!(calls.held.insert(*partition), "{partition} was ours already");
        }
        calls.assigned.push(partitions.to_vec());
    }

    fn revoked(&mut self, partitions: &[i32]) {
        let mut calls = self.0.lock();
        for partition in partitions {
            assert!(calls.held.remove(partition), "{partition} was not ours");
        }
        calls.revoked.push(partitions.to_vec());
    }

    fn turn(&mut self) {
        self.0.lock().turns += 1;
    }
}

impl Told {
    pub(crate) fn holds(&self, partitions: &[i32]) -> bool {
        self.0.lock().held.iter().eq(partitions)
    }

    fn held(&self) -> BTreeSet<i32> {
        self.0.lock().held.clone()
    }

    fn turns(&self) -> usize {
        self.0.lock().turns
    }
}

/// Joins the installation's group for claims.
pub(crate) fn join(installation: &Installation, told: &Told) -> Membership {
    let group = installation.section.group("workers");
    let topic = installation.topic(Topic::Claims);
    Membership::join(&installation.connection, &group, &topic, Box::new(told.clone())).unwrap()
}

fn leave(member: Membership) {
    assert!(!member.has_ended());
    member.leave(SOON).unwrap();
}

fn committed(installation: &Installation, partition: i32) -> Option<i64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &installation.section.bootstrap_servers)
        .set("group.id", installation.section.group("workers"))
        .create()
        .unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&installation.topic(Topic::Claims), partition);
    let found = consumer.committed_offsets(asked, Duration::from_secs(20)).unwrap();
    match found.elements()[0].offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

#[test]
fn members_share_the_partitions_and_whoever_leaves_gives_its_own_to_the_others() {
    let installation = Installation::new("share", 4).with_topics();
    let (first, second) = (Told::default(), Told::default());
    let one = join(&installation, &first);
    assert!(eventually(SOON, || first.holds(&[0, 1, 2, 3])));

    let other = join(&installation, &second);
    assert!(eventually(SOON, || first.held().len() == 2 && second.held().len() == 2));
    assert!(first.held().is_disjoint(&second.held()));
    let kept = first.held();
    assert_eq!(first.0.lock().revoked.concat().len(), 2, "only what moves is stopped");

    let turns = first.turns();
    assert!(eventually(SOON, || first.turns() > turns + 3), "the loop turns");

    leave(other);
    assert!(second.held().is_empty(), "told to stop before the group is told");
    assert!(eventually(SOON, || first.holds(&[0, 1, 2, 3])));
    assert!(first.held().is_superset(&kept));
    assert_eq!(first.0.lock().revoked.len(), 1, "what stayed was never interrupted");

    let metrics = installation.connection.metrics();
    let labels = [installation.section.group("workers"), installation.topic(Topic::Claims)];
    let assigned = metrics.assigned_partitions.with_label_values(&labels);
    assert!(eventually(SOON, || assigned.get() == 4));
    leave(one);
    assert!(first.held().is_empty());
    assert!(metrics.rebalances_total.with_label_values(&labels[..1]).get() >= 3);
}

#[test]
fn a_member_for_whom_nothing_is_left_is_told_that_it_has_joined() {
    let installation = Installation::new("spare", 1).with_topics();
    let (first, second) = (Told::default(), Told::default());
    let one = join(&installation, &first);
    assert!(eventually(SOON, || first.holds(&[0])));
    let spare = join(&installation, &second);
    assert!(eventually(SOON, || second.0.lock().assigned == [Vec::<i32>::new()]));
    assert!(first.holds(&[0]));
    leave(one);
    assert!(eventually(SOON, || second.holds(&[0])), "and takes over when it is needed");
    leave(spare);
}

#[test]
fn partitions_that_are_added_later_are_found_by_members_and_producers() {
    let installation = Installation::new("grown", 1).with_topics();
    let (told, topic) = (Told::default(), installation.topic(Topic::Claims));
    let member = join(&installation, &told);
    assert!(eventually(SOON, || told.holds(&[0])));
    let producer = installation.producer(ProducerPurpose::Claims);
    append(&producer, &record(&topic, 0, "old")).unwrap();
    let section = KafkaSection { partitions: 3, ..installation.section };
    let _grown = Installation::at(section).with_topics();
    assert!(eventually(SOON, || told.holds(&[0, 1, 2])));
    assert!(eventually(SOON, || append(&producer, &record(&topic, 2, "new")).is_ok()));
    leave(member);
}

#[test]
fn a_commit_is_the_groups_committed_offset() {
    let installation = Installation::new("commit", 2).with_topics();
    let topic = installation.topic(Topic::Claims);
    installation.append_all(&topic, 1, &["0", "1", "2", "3", "4"]);
    let told = Told::default();
    let member = join(&installation, &told);
    assert!(eventually(SOON, || told.holds(&[0, 1])));
    assert_eq!(committed(&installation, 1), None);
    member.commit(1, 2);
    member.commit(1, 3);
    assert!(eventually(SOON, || committed(&installation, 1) == Some(3)));
    assert_eq!(committed(&installation, 0), None);
    // The last word before leaving counts too.
    member.commit(1, 5);
    leave(member);
    assert!(eventually(SOON, || committed(&installation, 1) == Some(5)));
}
