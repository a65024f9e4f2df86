//! Keeping a view: what the task that refreshes Redis does next for one coupon.
//!
//! The view of a coupon is its settled claims, its counts, and a watermark that says up to where they are true. Claims and watermark
//! are written by one script that names the watermark it expects to find. Another one, or none, means that the view was
//! lost or put back in time: nothing is written and the whole view is pushed again, in chunks. While a push is under
//! way a *marker* stands in the watermark's place, counted up by every chunk, so that two pushes, or a push and a
//! flush, cannot pass for one complete view.
//!
//! The ledger keeps settled claims by rank and only ever appends, so both kinds of refresh read "ranks a to b" from it:
//! no payload is queued, and a Redis that hangs for an hour costs nothing but the catching up.

use std::fmt;
use std::str::FromStr;

use crate::position::Offset;

/// What stands in a view's watermark field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewWatermark {
    /// The view is true up to before this claims offset.
    Reflects(Offset),
    /// A full push is under way: its own number, and how many chunks it has written.
    Pushing {
        /// Drawn at random for each push.
        push_id: u64,
        /// Chunks written so far.
        chunks: u32,
    },
}

impl fmt::Display for ViewWatermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reflects(next_src) => write!(f, "{next_src}"),
            Self::Pushing { push_id, chunks } => write!(f, "push.{push_id:016x}.{chunks}"),
        }
    }
}

/// A watermark field that none of our releases wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the view's watermark is neither an offset nor the marker of a push")]
pub struct MalformedWatermark;

impl FromStr for ViewWatermark {
    type Err = MalformedWatermark;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(marker) = text.strip_prefix("push.") else {
            let number = text.parse().map_err(|_| MalformedWatermark)?;
            return Offset::new(number).map(Self::Reflects).map_err(|_| MalformedWatermark);
        };
        let (push_id, chunks) = marker.split_once('.').ok_or(MalformedWatermark)?;
        Ok(Self::Pushing {
            push_id: u64::from_str_radix(push_id, 16).map_err(|_| MalformedWatermark)?,
            chunks: chunks.parse().map_err(|_| MalformedWatermark)?,
        })
    }
}

/// How far a coupon's outcomes are durable: the partition's first undecided claims offset, and how many of the coupon's claims
/// were settled before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The partition's first claims offset without a durable outcome.
    pub next_src: Offset,
    /// The coupon's last rank before it.
    pub settled: u32,
}

/// The next write, for one script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The watermark to find; absent: whatever stands there is replaced (the start of a push).
    pub expects: Option<ViewWatermark>,
    /// The watermark to leave.
    pub leaves: ViewWatermark,
    /// Write the claims of ranks `from_rank + 1 ..= to_rank`.
    pub from_rank: u32,
    /// See `from_rank`.
    pub to_rank: u32,
}

/// What the script said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done: everything was written.
    Written,
    /// Nothing was written; this was found instead (none: no watermark at all, or no sense in it).
    Found(Option<ViewWatermark>),
    /// No answer in time, or an error: it may have been written or not.
    Unknown,
}

/// The state of one coupon's view, as far as its writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewSync {
    phase: Phase,
    /// What the last step that got no answer would have left.
    in_doubt: Option<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Synced { next_src: Offset, settled: u32 },
    Lost,
    Pushing { push_id: u64, chunks: u32, settled: u32, target: Durable },
}

impl ViewSync {
    /// A view of which nothing is known yet: it is pushed whole.
    #[must_use]
    pub fn lost() -> Self {
        Self { phase: Phase::Lost, in_doubt: None }
    }

    /// A view that was found with this watermark, of a coupon that had `settled` claims before it.
    #[must_use]
    pub fn synced(next_src: Offset, settled: u32) -> Self {
        Self { phase: Phase::Synced { next_src, settled }, in_doubt: None }
    }

    /// True while a full push is due or under way.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        !matches!(self.phase, Phase::Synced { .. })
    }

    /// True where the view reflects everything that is durable.
    #[must_use]
    pub fn is_current(&self, durable: Durable) -> bool {
        matches!(self.phase, Phase::Synced { next_src, .. } if next_src >= durable.next_src)
    }

    /// The next write. `push_id` is used if a push has to start; `offset_behind` gives the claims offset right behind the claim of a
    /// rank; at most `chunk` claims go into one script.
    #[must_use]
    pub fn next_step(
        &self,
        durable: Durable,
        chunk: u32,
        push_id: u64,
        offset_behind: impl Fn(u32) -> Offset,
    ) -> Step {
        match self.phase {
            Phase::Synced { next_src, settled } => {
                let to_rank = settled.saturating_add(chunk).min(durable.settled.max(settled));
                let leaves = if to_rank >= durable.settled {
                    durable.next_src.max(next_src)
                } else {
                    offset_behind(to_rank)
                };
                Step {
                    expects: Some(ViewWatermark::Reflects(next_src)),
                    leaves: ViewWatermark::Reflects(leaves),
                    from_rank: settled,
                    to_rank,
                }
            }
            Phase::Lost => Step {
                expects: None,
                leaves: ViewWatermark::Pushing { push_id, chunks: 0 },
                from_rank: 0,
                to_rank: 0,
            },
            Phase::Pushing { push_id, chunks, settled, target } => {
                let to_rank = settled.saturating_add(chunk).min(target.settled);
                let leaves = if to_rank == target.settled {
                    ViewWatermark::Reflects(target.next_src)
                } else {
                    ViewWatermark::Pushing { push_id, chunks: chunks.saturating_add(1) }
                };
                Step {
                    expects: Some(ViewWatermark::Pushing { push_id, chunks }),
                    leaves,
                    from_rank: settled,
                    to_rank,
                }
            }
        }
    }

    /// Takes the script's answer to `step`, which was made from this state and `durable`.
    pub fn answered(&mut self, step: Step, durable: Durable, reply: Reply) {
        let done = self.after(step, durable);
        match reply {
            Reply::Written => *self = Self { phase: done, in_doubt: None },
            Reply::Unknown => self.in_doubt = Some(done),
            Reply::Found(found) => {
                let landed = self.in_doubt.filter(|phase| found.is_some() && phase.watermark() == found);
                *self = Self { phase: landed.unwrap_or(Phase::Lost), in_doubt: None };
            }
        }
    }

    fn after(&self, step: Step, durable: Durable) -> Phase {
        match (step.leaves, self.phase) {
            (ViewWatermark::Reflects(next_src), _) => Phase::Synced { next_src, settled: step.to_rank },
            (ViewWatermark::Pushing { push_id, chunks }, Phase::Pushing { target, .. }) => {
                Phase::Pushing { push_id, chunks, settled: step.to_rank, target }
            }
            (ViewWatermark::Pushing { push_id, chunks }, Phase::Lost | Phase::Synced { .. }) => {
                Phase::Pushing { push_id, chunks, settled: step.to_rank, target: durable }
            }
        }
    }
}

impl Phase {
    fn watermark(&self) -> Option<ViewWatermark> {
        match *self {
            Self::Synced { next_src, .. } => Some(ViewWatermark::Reflects(next_src)),
            Self::Pushing { push_id, chunks, .. } => Some(ViewWatermark::Pushing { push_id, chunks }),
            Self::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Default)]
    struct View {
        watermark: Option<ViewWatermark>,
        ranks: BTreeSet<u32>,
    }

    impl View {
        fn run(&mut self, step: Step) -> Reply {
            if step.expects.is_some() && step.expects != self.watermark {
                return Reply::Found(self.watermark);
            }
            self.watermark = Some(step.leaves);
            self.ranks.extend(step.from_rank + 1..=step.to_rank);
            Reply::Written
        }
    }

    /// Rank r was decided at offset 2r, so `Reflects(2r + 1)` or more must mean that ranks 1..=r are there.
    fn offset_behind(rank: u32) -> Offset {
        Offset::new(i64::from(rank) * 2 + 1).unwrap()
    }

    fn holds_what_it_says(view: &View) -> bool {
        let Some(ViewWatermark::Reflects(next_src)) = view.watermark else {
            return true;
        };
        let promised = u32::try_from((next_src.number() - 1).max(0) / 2).unwrap();
        (1..=promised).all(|rank| view.ranks.contains(&rank))
    }

    #[derive(Clone, Debug)]
    enum Event {
        Settle(u32),
        Write,
        WriteAnswerLost,
        RequestLost,
        Flush,
        Snapshot,
        PutBack,
        OtherWriter,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            3 => (0u32..20).prop_map(Event::Settle),
            8 => Just(Event::Write),
            1 => Just(Event::WriteAnswerLost),
            1 => Just(Event::RequestLost),
            1 => Just(Event::Flush),
            1 => Just(Event::Snapshot),
            1 => Just(Event::PutBack),
            1 => Just(Event::OtherWriter),
        ];
        proptest::collection::vec(event, 0..120)
    }

    proptest! {
        /// Whatever is lost, put back or written by a second writer: the view never says more than it holds, and once
        /// left in peace it becomes current.
        #[test]
        fn a_view_never_says_more_than_it_holds_and_heals(events in events()) {
            let (mut view, mut snapshot) = (View::default(), View::default());
            let mut writers = [ViewSync::lost(), ViewSync::lost()];
            let mut durable = Durable { next_src: Offset::ZERO, settled: 0 };
            let mut push_id = 0;
            let peace = std::iter::repeat_n(Event::Write, 1_000);
            for event in events.into_iter().chain(peace) {
                let writer = usize::from(matches!(event, Event::OtherWriter));
                push_id += 1;
                let step = writers[writer].next_step(durable, 7, push_id, offset_behind);
                match event {
                    Event::Settle(more) => {
                        durable.settled += more;
                        durable.next_src = offset_behind(durable.settled);
                    }
                    Event::Write | Event::OtherWriter => {
                        let reply = view.run(step);
                        writers[writer].answered(step, durable, reply);
                    }
                    Event::WriteAnswerLost => {
                        view.run(step);
                        writers[writer].answered(step, durable, Reply::Unknown);
                    }
                    Event::RequestLost => writers[writer].answered(step, durable, Reply::Unknown),
                    Event::Flush => view = View::default(),
                    Event::Snapshot => snapshot = view.clone(),
                    Event::PutBack => view = snapshot.clone(),
                }
                prop_assert!(holds_what_it_says(&view), "{:?}", view.watermark);
            }
            prop_assert!(writers[0].is_current(durable), "{:?}", writers[0]);
            prop_assert_eq!(view.watermark, Some(ViewWatermark::Reflects(durable.next_src)));
        }
    }

    #[test]
    fn an_answer_that_was_lost_is_recognised_by_what_it_left() {
        let durable = Durable { next_src: offset_behind(3), settled: 3 };
        let mut sync = ViewSync::synced(Offset::ZERO, 0);
        let step = sync.next_step(durable, 10, 1, offset_behind);
        sync.answered(step, durable, Reply::Unknown);
        let again = sync.next_step(durable, 10, 1, offset_behind);
        sync.answered(again, durable, Reply::Found(Some(step.leaves)));
        assert!(sync.is_current(durable));
        let mut other = ViewSync::synced(Offset::ZERO, 0);
        other.answered(step, durable, Reply::Found(Some(ViewWatermark::Reflects(offset_behind(2)))));
        assert!(other.is_lost());
    }

    #[test]
    fn watermarks_read_back() {
        for watermark in [
            ViewWatermark::Reflects(Offset::ZERO),
            ViewWatermark::Reflects(offset_behind(9)),
            ViewWatermark::Pushing { push_id: u64::MAX, chunks: 3 },
        ] {
            assert_eq!(watermark.to_string().parse(), Ok(watermark));
        }
        for wrong in ["", "-1", "push.1", "push.x.1"] {
            assert_eq!(wrong.parse::<ViewWatermark>(), Err(MalformedWatermark), "{wrong:?}");
        }
    }
}
