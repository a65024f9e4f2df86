//! Was the store put back in time? Everything about a published coupon returns by itself; redemptions are born in the store, and those
//! made after the point to which it went back are lost. So a store that is older than what was published of it, or another one,
//! must not redeem until a person has looked.
//!
//! db-writer raises a partition's beat with every batch and every idle ten seconds, and publishes it afterwards: a store may be ahead
//! of what was published, never behind. Whoever closes redemptions raises the beats above everything published in the same write:
//! so the newest record of `coupon.persisted` stays the highest, whatever compaction takes, and a second restore is noticed like the first.
//!
//! A store may also go on in two places: a standby was promoted, and somebody still works with the old primary. Both have the same
//! name and raise the same beats. Each number is given once by each of them, so two records of one beat that are not the same one
//! come from two stores, and so do records whose beats rise while the watermark goes back. Of two stores that have both published
//! their newest beat, one is always behind, or both have published the same beat: whichever order the records have.
//!
//! A closure begins an era of beats. Within an era the watermark never goes back, since a store that went back begins the next one:
//! so only records of one era are compared. A beat that is higher than what was left is no sign of another store: whoever raised it
//! may have died before it was published.

use std::collections::BTreeMap;
use std::fmt;

use crate::position::Partition;
use crate::wire::PersistedWatermark;

/// A closure raises the beats to the next multiple of this. Between two closures beats never come near it: a thousand a second would
/// take thirty years.
pub const BEATS_PER_ERA: i64 = 1_000_000_000_000;

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
    /// The record of the highest beat.
    record: PersistedWatermark,
    /// The beats of two records that cannot come from one store, the latest that were seen.
    of_two_stores: Option<(i64, i64)>,
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
    /// It goes on in two places.
    TwoStores {
        /// Where it was noticed.
        partition: Partition,
        /// The beats of two records that were published and cannot come from one store.
        beats: (i64, i64),
    },
}

impl PublishedBeat {
    fn first(watermark: &PersistedWatermark) -> Self {
        Self {
            highest: watermark.beat,
            system_identifier: watermark.system_identifier.clone(),
            record: watermark.clone(),
            of_two_stores: None,
        }
    }

    fn saw(&mut self, watermark: &PersistedWatermark) {
        if are_of_two_stores(&self.record, watermark) {
            self.of_two_stores = Some((self.highest.min(watermark.beat), self.highest.max(watermark.beat)));
        }
        self.system_identifier.clone_from(&watermark.system_identifier);
        if watermark.beat > self.highest {
            self.highest = watermark.beat;
            self.record = watermark.clone();
        }
    }
}

/// True where two records of a partition cannot have been published of one store, in whatever order, and however often, they come. A
/// record without a stamp says nothing: releases that wrote such ones began no eras.
#[must_use]
pub fn are_of_two_stores(one: &PersistedWatermark, other: &PersistedWatermark) -> bool {
    if one.stamp.is_none() || other.stamp.is_none() || era(one.beat) != era(other.beat) {
        return false;
    }
    if one.beat == other.beat {
        return one != other;
    }
    let (earlier, later) = if one.beat < other.beat { (one, other) } else { (other, one) };
    earlier.system_identifier != later.system_identifier
        || earlier.next_src > later.next_src
        || (earlier.next_src == later.next_src && earlier.chain != later.chain)
}

fn era(beat: i64) -> i64 {
    beat.div_euclid(BEATS_PER_ERA)
}

/// The last beat of the era that this one belongs to.
fn end_of_era(beat: i64) -> i64 {
    era(beat).saturating_add(1).saturating_mul(BEATS_PER_ERA).saturating_sub(1)
}

impl PublishedBeats {
    /// Takes a record of `coupon.persisted`, in the order of the log; or one that was committed and is about to be published, which a
    /// store must not fall behind either.
    pub fn saw(&mut self, watermark: &PersistedWatermark) {
        self.0
            .entry(watermark.partition)
            .and_modify(|known| known.saw(watermark))
            .or_insert_with(|| PublishedBeat::first(watermark));
    }

    /// What was published, by partition.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, &PublishedBeat)> {
        self.0.iter().map(|(partition, published)| (*partition, published))
    }

    /// A store that goes on after a closure must be above these: its beats belong to the next era.
    #[must_use]
    pub fn floors(&self) -> Vec<(Partition, i64)> {
        self.0.iter().map(|(partition, published)| (*partition, end_of_era(published.highest))).collect()
    }

    /// The same, and above the eras of this store as well: nothing has been published there yet.
    #[must_use]
    pub fn floors_above(&self, store: &StoreStand) -> Vec<(Partition, i64)> {
        let above = |(partition, floor): (Partition, i64)| {
            let own = store.beats.get(&partition).map_or(floor, |beat| end_of_era(*beat));
            (partition, floor.max(own))
        };
        self.floors().into_iter().map(above).collect()
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
            if found.is_none_or(|found| found < published.highest) {
                return Some(Restored::WentBack {
                    partition: *partition,
                    published: published.highest,
                    found,
                });
            }
            let beats = published.of_two_stores?;
            // A store of a later era was closed for it.
            let is_of_now = found.is_some_and(|found| era(found) == era(beats.1));
            is_of_now.then_some(Restored::TwoStores { partition: *partition, beats })
        })
    }
}

impl Restored {
    /// Where it was noticed.
    #[must_use]
    pub fn partition(&self) -> Partition {
        match self {
            Self::AnotherCluster { partition, .. }
            | Self::WentBack { partition, .. }
            | Self::TwoStores { partition, .. } => *partition,
        }
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
            Self::TwoStores { partition, beats: (one, other) } if one == other => {
                write!(f, "partition {partition} was given beat {one} twice, in two databases")
            }
            Self::TwoStores { partition, beats: (one, other) } => {
                write!(f, "partition {partition} had beats {one} and {other} in two databases")
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
            stamp: Some(u32::try_from(beat % BEATS_PER_ERA).unwrap()),
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
        let next = beats.floors()[0].1 + 1;
        beats.saw(&record(0, "b", next));
        assert_eq!(beats.judge(&store("b", &[(0, next)])), None);
        assert!(beats.judge(&store("a", &[(0, next)])).is_some(), "there is no way back either");
    }

    #[test]
    fn the_highest_beat_counts_whatever_came_last() {
        let beats = published(&[(0, "a", 9), (0, "a", 4)]);
        assert!(beats.judge(&store("a", &[(0, 8)])).is_some());
        assert_eq!(beats.floors(), [(partition(0), BEATS_PER_ERA - 1)]);
        assert_eq!(beats.floors_above(&store("a", &[(0, 10)])), beats.floors());
        let closed = store("a", &[(0, BEATS_PER_ERA), (1, 5)]);
        assert_eq!(beats.floors_above(&closed), [(partition(0), 2 * BEATS_PER_ERA - 1)]);
    }

    #[test]
    fn a_store_that_was_raised_when_it_was_closed_is_not_complained_about_again() {
        let beats = published(&[(0, "a", 9)]);
        let raised: Vec<_> = beats.floors().iter().map(|(_, floor)| (0, floor + 1)).collect();
        assert!(beats.judge(&store("a", &[(0, 5)])).is_some());
        assert_eq!(beats.judge(&store("a", &raised)), None);
    }

    #[test]
    fn a_beat_that_was_given_twice_is_noticed_on_both_sides_until_the_next_era() {
        let mut beats = published(&[(0, "a", 7)]);
        beats.saw(&record(0, "a", 7));
        assert_eq!(beats.judge(&store("a", &[(0, 7)])), None, "a copy of a record says nothing new");
        beats.saw(&PersistedWatermark { stamp: Some(1), ..record(0, "a", 7) });
        let twice = Restored::TwoStores { partition: partition(0), beats: (7, 7) };
        assert_eq!(beats.judge(&store("a", &[(0, 7)])), Some(twice.clone()));
        assert_eq!(beats.judge(&store("a", &[(0, 8)])), Some(twice.clone()), "and not forgotten");
        assert_eq!(twice.to_string(), "partition 0 was given beat 7 twice, in two databases");
        let closed = store("a", &[(0, beats.floors()[0].1 + 1)]);
        assert_eq!(beats.judge(&closed), None);
        beats.saw(&record(0, "a", BEATS_PER_ERA));
        assert_eq!(beats.judge(&closed), None);
    }

    #[test]
    fn a_watermark_goes_back_only_into_the_next_era() {
        let at = |beat, next_src| PersistedWatermark {
            next_src: Offset::new(next_src).unwrap(),
            ..record(0, "a", beat)
        };
        assert!(!are_of_two_stores(&at(7, 40), &at(8, 40)));
        assert!(!are_of_two_stores(&at(9, 60), &at(7, 40)), "it came late");
        assert!(are_of_two_stores(&at(7, 60), &at(8, 40)));
        assert!(are_of_two_stores(&at(8, 40), &at(7, 60)));
        assert!(are_of_two_stores(&at(7, 60), &at(7, 40)));
        assert!(!are_of_two_stores(&at(7, 60), &at(BEATS_PER_ERA, 40)), "redeeming was closed between them");
        let forged = PersistedWatermark { chain: Chain::genesis(partition(1)), ..at(8, 40) };
        assert!(are_of_two_stores(&at(7, 40), &forged));
        let moved = PersistedWatermark { system_identifier: "b".to_owned(), ..at(8, 40) };
        assert!(are_of_two_stores(&at(7, 40), &moved), "a store that is moved begins an era");
        let old = PersistedWatermark { stamp: None, ..at(8, 40) };
        assert!(!are_of_two_stores(&at(7, 60), &old), "an older release began no era");
    }

    mod histories {
        use proptest::prelude::*;

        use super::*;

        /// What befalls a store.
        #[derive(Clone, Debug)]
        enum Event {
            /// A batch of so many records, and whether its watermark is published.
            Batch(u8, bool),
            /// A beat of an idle writer or of a gateway, and whether it is published.
            Beat(bool),
            /// It is put back to what it was so many published records ago; whoever looks closes redeeming.
            PutBack(u8),
            /// An operator reopens, whether or not anything was wrong.
            Reopen,
        }

        fn events() -> impl Strategy<Value = Vec<Event>> {
            let event = prop_oneof![
                4 => (0u8..5, any::<bool>()).prop_map(|(records, told)| Event::Batch(records, told)),
                4 => any::<bool>().prop_map(Event::Beat),
                1 => (0u8..9).prop_map(Event::PutBack),
                1 => Just(Event::Reopen),
            ];
            proptest::collection::vec(event, 0..40)
        }

        /// One store, as its row says, and what was published of it.
        #[derive(Clone, Default)]
        struct Store {
            next_src: i64,
            next_outcome_offset: i64,
            beat: i64,
            stamps: u32,
            log: Vec<PersistedWatermark>,
        }

        impl Store {
            fn raise(&mut self, stamps_from: u32, told: bool) {
                self.beat += 1;
                self.stamps += 1;
                let mut chain = *Chain::genesis(partition(0)).as_bytes();
                chain[0] = u8::try_from(self.next_src % 251).unwrap();
                if told {
                    self.log.push(PersistedWatermark {
                        next_src: Offset::new(self.next_src).unwrap(),
                        next_outcome_offset: Offset::new(self.next_outcome_offset).unwrap(),
                        chain: Chain::from_bytes(chain),
                        stamp: Some(stamps_from + self.stamps),
                        ..record(0, "a", self.beat)
                    });
                }
            }

            fn close(&mut self, floors: &[(Partition, i64)]) {
                if let Some((_, floor)) = floors.first().filter(|(_, floor)| self.beat <= *floor) {
                    self.beat = floor + 1;
                }
            }

            fn live(&mut self, events: &[Event], stamps_from: u32) {
                for event in events {
                    match event {
                        Event::Batch(records, told) => {
                            self.next_src += i64::from(*records);
                            self.next_outcome_offset += i64::from(*records) + 1;
                            self.raise(stamps_from, *told);
                        }
                        Event::Beat(told) => self.raise(stamps_from, *told),
                        Event::PutBack(steps) => {
                            let kept = self.log.len().saturating_sub(usize::from(*steps) + 2);
                            let Some(copy) = self.log.get(kept) else { continue };
                            let is_lower = self.log.iter().any(|record| record.beat > copy.beat);
                            (self.next_src, self.beat) = (copy.next_src.number(), copy.beat);
                            self.next_outcome_offset = copy.next_outcome_offset.number();
                            let beats = read(&self.log);
                            assert_eq!(beats.judge(&self.stand()).is_some(), is_lower);
                            if is_lower {
                                self.close(&beats.floors());
                            }
                        }
                        Event::Reopen => self.close(&read(&self.log).floors_above(&self.stand())),
                    }
                }
            }

            fn stand(&self) -> StoreStand {
                store("a", &[(0, self.beat)])
            }
        }

        fn read(log: &[PersistedWatermark]) -> PublishedBeats {
            let mut beats = PublishedBeats::default();
            log.iter().for_each(|record| beats.saw(record));
            beats
        }

        proptest! {
            /// Batches, beats of several publishers, restores that were noticed: nothing speaks against the store, in whatever order
            /// its records come, and however often.
            #[test]
            fn one_store_is_never_taken_for_two(
                events in events(),
                order in proptest::collection::vec(any::<prop::sample::Index>(), 0..80),
            ) {
                let mut store = Store::default();
                store.live(&events, 0);
                prop_assert_eq!(read(&store.log).judge(&store.stand()), None);
                let mut log: Vec<_> = store.log.clone();
                if !log.is_empty() {
                    log = order.iter().map(|index| store.log[index.index(store.log.len())].clone()).collect();
                }
                prop_assert_eq!(read(&log).judge(&store.stand()), None);
            }

            /// A store that goes on in two places: once both have published their newest beat, at least one of them is told so,
            /// in whatever order the records come.
            #[test]
            fn of_two_stores_one_is_always_noticed(
                before in events(),
                here in events(),
                there in events(),
                order in proptest::collection::vec(any::<u64>(), 120),
                is_writer_down: bool,
                are_level: bool,
            ) {
                let quiet = |events: Vec<Event>| {
                    let is_quiet = |event: &Event| match event {
                        Event::Batch(..) => !is_writer_down,
                        Event::Beat(_) => true,
                        Event::PutBack(_) | Event::Reopen => false,
                    };
                    events.into_iter().filter(is_quiet).collect::<Vec<_>>()
                };
                let mut one = Store::default();
                one.live(&before, 0);
                let mut other = one.clone();
                let shared = one.log.len();
                one.live(&quiet(here), 1_000);
                other.live(&quiet(there), 2_000);
                while are_level && one.beat != other.beat {
                    let lower = if one.beat < other.beat { &mut one } else { &mut other };
                    lower.raise(3_000, false);
                }
                one.raise(1_000, true);
                other.raise(2_000, true);
                let mut later: Vec<_> = one.log[shared..].iter().chain(&other.log[shared..]).zip(order).collect();
                later.sort_by_key(|(_, place)| *place);
                let mut beats = read(&one.log[..shared]);
                later.iter().for_each(|(record, _)| beats.saw(record));
                let found = [&one, &other].map(|store| beats.judge(&store.stand()).is_some());
                prop_assert!(found[0] || found[1], "{:?}", beats);
            }
        }
    }
}
