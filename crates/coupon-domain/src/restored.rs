//! Was the store put back in time? Everything about a published coupon returns by itself; redemptions are born in the store, and those
//! made after the point to which it went back are lost. So a store that is older than what was published of it, or another one,
//! must not redeem until a person has looked.
//!
//! db-writer raises a partition's beat with every batch and every idle ten seconds, and publishes it afterwards: a store may be ahead
//! of what was published, never behind. Whoever closes redemptions raises the beats above everything published in the same write:
//! so the newest record of `coupon.persisted` stays the highest, whatever compaction takes, and a second restore is noticed like the first.

use std::collections::BTreeMap;
use std::fmt;

use crate::position::Partition;
use crate::wire::PersistedWatermark;

/// What was published of a store, as far as `coupon.persisted` was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedBeats(BTreeMap<Partition, PublishedBeat>);

/// What was published of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedBeat {
    /// The highest beat ever seen.
    pub highest: i64,
    /// The cluster that the newest record names.
    pub system_identifier: String,
}

/// What a store says of itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStand {
    /// PostgreSQL's own name for its cluster.
    pub system_identifier: String,
    /// Each partition's beat.
    pub beats: BTreeMap<Partition, i64>,
}

/// How a store differs from what was published of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It lies in another cluster.
    AnotherCluster {
        /// Where it was noticed.
        partition: Partition,
        /// The cluster that was published last.
        published: String,
        /// The cluster that it is in.
        found: String,
    },
    /// It is older.
    WentBack {
        /// Where it was noticed.
        partition: Partition,
        /// The highest beat that was published.
        published: i64,
        /// The beat that it has; none where it does not know the partition.
        found: Option<i64>,
    },
}

impl PublishedBeats {
    /// Takes a record of `coupon.persisted`, in the order of the log.
    pub fn saw(&mut self, watermark: &PersistedWatermark) {
        let highest = self.0.get(&watermark.partition).map_or(watermark.beat, |known| known.highest);
        let newest = PublishedBeat {
            highest: highest.max(watermark.beat),
            system_identifier: watermark.system_identifier.clone(),
        };
        self.0.insert(watermark.partition, newest);
    }

    /// What was published, by partition.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, &PublishedBeat)> {
        self.0.iter().map(|(partition, published)| (*partition, published))
    }

    /// The beats that were published: a store that goes on after a closure must be above them.
    #[must_use]
    pub fn floors(&self) -> Vec<(Partition, i64)> {
        self.0.iter().map(|(partition, published)| (*partition, published.highest)).collect()
    }

    /// Compares a store with what had been published before it was asked. None: nothing speaks against it.
    #[must_use]
    pub fn judge(&self, store: &StoreStand) -> Option<Restored> {
        self.0.iter().find_map(|(partition, published)| {
            if published.system_identifier != store.system_identifier {
                return Some(Restored::AnotherCluster {
                    partition: *partition,
                    published: published.system_identifier.clone(),
                    found: store.system_identifier.clone(),
                });
            }
            let found = store.beats.get(partition).copied();
            let went_back = found.is_none_or(|found| found < published.highest);
            went_back.then_some(Restored::WentBack {
                partition: *partition,
                published: published.highest,
                found,
            })
        })
    }
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnotherCluster { partition, published, found } => write!(
                f,
                "partition {partition} was written to cluster {published}, and this is cluster {found}"
            ),
            Self::WentBack { partition, published, found: Some(found) } => {
                write!(f, "partition {partition} had beat {published}, and has {found} now")
            }
            Self::WentBack { partition, published, found: None } => {
                write!(f, "partition {partition} had beat {published}, and is not there now")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Chain;
    use crate::position::Offset;

    fn partition(number: i32) -> Partition {
        Partition::new(number).unwrap()
    }

    fn record(number: i32, system_identifier: &str, beat: i64) -> PersistedWatermark {
        PersistedWatermark {
            partition: partition(number),
            next_src: Offset::ZERO,
            next_outcome_offset: Offset::ZERO,
            chain: Chain::genesis(partition(number)),
            system_identifier: system_identifier.to_owned(),
            beat,
        }
    }

    fn published(records: &[(i32, &str, i64)]) -> PublishedBeats {
        let mut beats = PublishedBeats::default();
        for (number, system_identifier, beat) in records {
            beats.saw(&record(*number, system_identifier, *beat));
        }
        beats
    }

    fn store(system_identifier: &str, beats: &[(i32, i64)]) -> StoreStand {
        StoreStand {
            system_identifier: system_identifier.to_owned(),
            beats: beats.iter().map(|(number, beat)| (partition(*number), *beat)).collect(),
        }
    }

    #[test]
    fn a_store_may_be_level_or_ahead_but_never_behind() {
        let beats = published(&[(0, "a", 7), (1, "a", 3)]);
        assert_eq!(beats.judge(&store("a", &[(0, 7), (1, 3)])), None);
        assert_eq!(beats.judge(&store("a", &[(0, 9), (1, 4), (2, 0)])), None);
        let behind = Restored::WentBack { partition: partition(1), published: 3, found: Some(2) };
        assert_eq!(beats.judge(&store("a", &[(0, 7), (1, 2)])), Some(behind));
        let missing = Restored::WentBack { partition: partition(1), published: 3, found: None };
        assert_eq!(beats.judge(&store("a", &[(0, 7)])), Some(missing));
    }

    #[test]
    fn before_anything_was_published_every_store_is_the_first() {
        assert_eq!(PublishedBeats::default().judge(&store("a", &[])), None);
        assert_eq!(published(&[]).judge(&store("b", &[(0, 5)])), None);
    }

    #[test]
    fn another_cluster_is_noticed_however_far_it_is_until_it_was_published_itself() {
        let mut beats = published(&[(0, "a", 7)]);
        let moved = store("b", &[(0, 99)]);
        assert!(matches!(beats.judge(&moved), Some(Restored::AnotherCluster { .. })));
        beats.saw(&record(0, "b", 99));
        assert_eq!(beats.judge(&moved), None);
        assert!(beats.judge(&store("a", &[(0, 99)])).is_some(), "there is no way back either");
    }

    #[test]
    fn the_highest_beat_counts_whatever_came_last() {
        let beats = published(&[(0, "a", 9), (0, "a", 4)]);
        assert!(beats.judge(&store("a", &[(0, 8)])).is_some());
        assert_eq!(beats.floors(), [(partition(0), 9)]);
    }

    #[test]
    fn a_store_that_was_raised_when_it_was_closed_is_not_complained_about_again() {
        let beats = published(&[(0, "a", 9)]);
        let raised: Vec<_> = beats.floors().iter().map(|(_, floor)| (0, floor + 1)).collect();
        assert!(beats.judge(&store("a", &[(0, 5)])).is_some());
        assert_eq!(beats.judge(&store("a", &raised)), None);
    }
}
