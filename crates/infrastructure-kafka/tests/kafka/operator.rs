//! What an operator, or somebody by mistake, does to topics behind our back.

use std::collections::HashMap;
use std::time::Duration;

use local_stack::eventually;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::installation::{SOON, block_on};

pub(crate) struct Operator(AdminClient<DefaultClientContext>);

impl Operator {
    pub(crate) fn of(bootstrap_servers: &str) -> Self {
        Self(ClientConfig::new().set("bootstrap.servers", bootstrap_servers).create().unwrap())
    }

    /// Creates a topic with these settings, also where one of its name is only just being deleted.
    pub(crate) fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        let created =
            eventually(SOON, || match sole(block_on(self.0.create_topics([&new], &AdminOptions::new()))) {
                Ok(_) => true,
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => false,
                Err((_, code)) => panic!("{topic} was not created: {code}"),
            });
        assert!(created, "{topic} is still there");
        let wanted = usize::try_from(partitions).unwrap();
        assert!(eventually(SOON, || self.partitions(topic) == wanted));
    }

    pub(crate) fn delete(&self, topic: &str) {
        sole(block_on(self.0.delete_topics(&[topic], &AdminOptions::new()))).unwrap();
        assert!(eventually(SOON, || self.partitions(topic) == 0));
    }

    /// As retention does: what lies before `before` goes.
    pub(crate) fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        let deleted = block_on(self.0.delete_records(&list, &AdminOptions::new())).unwrap();
        deleted.elements()[0].error().unwrap();
    }

    pub(crate) fn alter(&self, topic: &str, settings: &[(&str, &str)]) {
        let alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let alter = settings.iter().fold(alter, |alter, (key, value)| alter.set(key, value));
        block_on(self.0.alter_configs([&alter], &AdminOptions::new())).unwrap().remove(0).unwrap();
    }

    pub(crate) fn settings(&self, topic: &str) -> HashMap<String, String> {
        let resource = [ResourceSpecifier::Topic(topic)];
        let mut resources = block_on(self.0.describe_configs(&resource, &AdminOptions::new())).unwrap();
        let entries = resources.remove(0).unwrap().entries;
        entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
    }

    pub(crate) fn partitions(&self, topic: &str) -> usize {
        let metadata = self.0.inner().fetch_metadata(Some(topic), Duration::from_secs(20)).unwrap();
        metadata.topics()[0].partitions().len()
    }
}

fn sole(results: KafkaResult<Vec<TopicResult>>) -> TopicResult {
    results.unwrap().remove(0)
}
