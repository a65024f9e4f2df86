//! Keeping a view: what the task that refreshes Redis does next for one coupon.
//!
//! The view of a coupon is its settled claims, its counts, and a watermark that says up to where they are true. The claims lie in buckets
//! ([`crate::view_buckets`]); the coupon's hash names the push that made the view, and every bucket bears that push's id. Claims and watermark
//! are written by one script that names the watermark and the push that it expects to find. Another one, or none, means that the view was
//! lost or put back in time: nothing is written and the whole view is pushed again. A push lays empty buckets, in chunks; from
//! then on the view is like any that has fallen behind. While they are laid a *marker* stands in the watermark's place, counted up by every chunk, so that two
//! pushes, or a push and a flush, cannot pass for one complete view.
//!
//! A view that is far behind is brought up in *bulk*: the claims that it lacks are written in the order of their buckets, many to a bucket at a time, which costs
//! less than half of rank by rank. They stand in one transaction with the script, before it, and are written whatever it finds. What the watermark covers stays the same
//! until the last of them is there, but each write marks it, so that a view that is put back in between is noticed. Claims that it does not cover are no
//! harm: what is final stays true.
//!
//! A bucket without the id is not whole, and nobody believes that a claim is absent from it: whatever is lost takes its claim to completeness along.
//! The script says which those are; each is made anew from the ledger while the rest stands.
//!
//! The ledger keeps settled claims by rank and only ever appends, so every kind of refresh reads "ranks a to b" from it:
//! no payload is queued, and a Redis that hangs for an hour costs nothing but the catching up.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::position::Offset;
use crate::view_buckets::bucket_count;

/// Most buckets that one script makes anew together with their claims.
const MENDED_AT_ONCE: usize = 8;

/// Most buckets that one script splits off beyond those that its claims need.
const SPLIT_AT_ONCE: u32 = 32;

/// Buckets are split beforehand for so many waiting claims at most: not all that waits need be claims that settle, and an empty bucket takes about 100 bytes.
pub const CLAIMS_AHEAD_MAX: u32 = 10_000_000;

/// Which push made a view, or which script of a bulk was the last. Drawn at random for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PushId(pub u64);

impl fmt::Display for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for PushId {
    type Err = MalformedWatermark;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self).map_err(|_| MalformedWatermark)
    }
}

/// What stands in a view's watermark field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewWatermark {
    /// The view is true up to before this claims offset.
    Reflects(Offset),
    /// It is, and claims behind it are being written in bulk.
    InBulk {
        /// See [`ViewWatermark::Reflects`].
        next_src: Offset,
        /// Which script of a bulk was the last.
        step_id: PushId,
    },
    /// A full push is under way: its own number, and how many chunks it has written.
    Pushing {
        /// Which push.
        push_id: PushId,
        /// Chunks written so far.
        chunks: u32,
    },
}

impl fmt::Display for ViewWatermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reflects(next_src) => write!(f, "{next_src}"),
            Self::InBulk { next_src, step_id } => write!(f, "{next_src}+{step_id}"),
            Self::Pushing { push_id, chunks } => write!(f, "push.{push_id}.{chunks}"),
        }
    }
}

/// A field of a view that none of our releases wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the view's watermark is neither an offset nor the marker of a push")]
pub struct MalformedWatermark;

impl FromStr for ViewWatermark {
    type Err = MalformedWatermark;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(marker) = text.strip_prefix("push.") {
            let (push_id, chunks) = marker.split_once('.').ok_or(MalformedWatermark)?;
            let chunks = chunks.parse().map_err(|_| MalformedWatermark)?;
            return Ok(Self::Pushing { push_id: push_id.parse()?, chunks });
        }
        let (number, marker) =
            text.split_once('+').map_or((text, None), |(number, marker)| (number, Some(marker)));
        let number = number.parse().map_err(|_| MalformedWatermark)?;
        let next_src = Offset::new(number).map_err(|_| MalformedWatermark)?;
        let Some(marker) = marker else { return Ok(Self::Reflects(next_src)) };
        Ok(Self::InBulk { next_src, step_id: marker.parse()? })
    }
}

impl ViewWatermark {
    /// Up to before which claims offset the view is true; none while it is pushed anew.
    #[must_use]
    pub fn next_src(self) -> Option<Offset> {
        match self {
            Self::Reflects(next_src) | Self::InBulk { next_src, .. } => Some(next_src),
            Self::Pushing { .. } => None,
        }
    }
}

/// What a coupon's hash says of its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Up to where it is true.
    pub watermark: ViewWatermark,
    /// The push that made it: a bucket without this id is not part of it.
    pub push_id: PushId,
}

/// How far a coupon's outcomes are durable: the partition's first undecided claims offset, how many of the coupon's claims
/// were settled before it, and about how many wait behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The partition's first claims offset without a durable outcome.
    pub next_src: Offset,
    /// The coupon's last rank before it.
    pub settled: u32,
    /// Claims of the coupon that are thought to wait in line. Nothing but the number of buckets follows from it.
    pub ahead: u32,
}

impl Durable {
    /// How many buckets the view shall have: enough for what waits, too, since a bucket is split the cheaper the less it holds.
    fn buckets(self) -> u32 {
        bucket_count(self.settled.saturating_add(self.ahead.min(CLAIMS_AHEAD_MAX)))
    }
}

/// How much one script may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Claims, and empty buckets.
    pub claims: u32,
    /// Buckets whose id is looked at, whatever else is done.
    pub looked_at: u32,
    /// Claims that are brought up in bulk before the watermark moves.
    pub bulk: u32,
}

/// Claims that are written in the order of their buckets, before the watermark moves past all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulk {
    /// The coupon's last rank that the watermark covers.
    pub from_rank: u32,
    /// Up to where the watermark goes once all of them are written.
    pub target: Durable,
    /// How many buckets the view has by then.
    pub buckets: u32,
}

/// The next write, for one script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The watermark to find, under `push_id`; absent: whatever stands there is replaced (the start of a push).
    pub expects: Option<ViewWatermark>,
    /// The push whose view it is.
    pub push_id: PushId,
    /// The watermark to leave.
    pub leaves: ViewWatermark,
    /// Write the claims of ranks `from_rank + 1 ..= to_rank`.
    pub from_rank: u32,
    /// See `from_rank`.
    pub to_rank: u32,
    /// How many buckets the view has before, and how many afterwards: those in between are split off.
    pub buckets: Range<u32>,
    /// A step of such a bulk, and which of its claims to write, counted in the order of their buckets.
    pub bulk: Option<(Bulk, Range<u32>)>,
    /// Buckets to make anew, empty but for the id.
    pub lays: Vec<u32>,
    /// Put every claim of ranks `1 ..= from_rank` that belongs there into the buckets that are made anew.
    pub fills: bool,
    /// Buckets to look at, whether they bear the id.
    pub looks_at: Range<u32>,
}

/// What the script said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done: everything was written, but for what belongs into these buckets, which do not bear the id.
    Written(Vec<u32>),
    /// Nothing was written; this was found instead (none: no view at all, or no sense in it).
    Found(Option<Standing>),
    /// No answer in time, or an error: it may have been written or not.
    Unknown,
}

/// Buckets to make anew with their claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mending {
    /// Which.
    pub lays: Vec<u32>,
    /// The last rank that belongs into them.
    pub settled: u32,
    /// How many buckets the view has.
    pub buckets: u32,
}

/// The state of one coupon's view, as far as its writer knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewSync {
    phase: Phase,
    /// What the last step that got no answer would have left.
    in_doubt: Option<Phase>,
    /// Buckets that are not whole.
    lost: BTreeSet<u32>,
    /// The bucket to look at next.
    looks_at: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Synced(Synced),
    Lost,
    Pushing { push_id: PushId, chunks: u32, laid: u32, target: Durable },
    Bulk { synced: Synced, bulk: Bulk, written: u32 },
}

/// A view that is true up to some offset before which so many claims were settled, in so many buckets: at least as many as those need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Synced {
    push_id: PushId,
    /// None that marks a push.
    watermark: ViewWatermark,
    settled: u32,
    buckets: u32,
}

impl ViewSync {
    fn in_phase(phase: Phase) -> Self {
        Self { phase, in_doubt: None, lost: BTreeSet::new(), looks_at: 0 }
    }

    /// A view of which nothing is known yet: it is pushed whole.
    #[must_use]
    pub fn lost() -> Self {
        Self::in_phase(Phase::Lost)
    }

    /// A view that was found, of a coupon that had `settled` claims before its watermark and has as many as `durable` says now, in `buckets` buckets. Where
    /// that is no number for so many claims, somebody else made it, and it is pushed anew.
    #[must_use]
    pub fn found(standing: Standing, settled: u32, buckets: u32, durable: Durable) -> Self {
        let most = Durable { ahead: CLAIMS_AHEAD_MAX, ..durable }.buckets();
        let is_number = (bucket_count(settled)..=most).contains(&buckets);
        if !is_number || standing.watermark.next_src().is_none() {
            return Self::lost();
        }
        let Standing { watermark, push_id } = standing;
        Self::in_phase(Phase::Synced(Synced { push_id, watermark, settled, buckets }))
    }

    /// True while a full push is due or under way.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self.phase, Phase::Lost | Phase::Pushing { .. })
    }

    /// True where the view reflects everything that is durable, as far as its writer knows.
    #[must_use]
    pub fn is_current(&self, durable: Durable) -> bool {
        self.lost.is_empty()
            && matches!(self.phase, Phase::Synced(synced) if synced.watermark.next_src() >= Some(durable.next_src))
    }

    /// The next buckets that are made anew with their claims, `most` at most, the last rank that belongs into them, and how many buckets there are; none where
    /// there are none to mend. Until they are, nothing else is written, so it pays to find the claims of many at once.
    #[must_use]
    pub fn to_mend(&self, most: usize) -> Option<Mending> {
        match self.phase {
            Phase::Synced(Synced { settled, buckets, .. }) if !self.lost.is_empty() => {
                Some(Mending { lays: self.lost.iter().copied().take(most).collect(), settled, buckets })
            }
            _ => None,
        }
    }

    /// True where the view lacks too few claims for a bulk (of so many at `most`), and those that wait in line will make it one.
    #[must_use]
    pub fn may_become_bulk(&self, durable: Durable, most: u32) -> bool {
        let Phase::Synced(synced) = self.phase else { return false };
        let behind = durable.settled.saturating_sub(synced.settled);
        let buckets = synced.buckets.max(durable.buckets());
        self.lost.is_empty()
            && !pays_in_bulk(behind, buckets)
            && pays_in_bulk(behind.saturating_add(durable.ahead).min(most), buckets)
    }

    /// The claims that are written in bulk now: to be sorted before the next step is asked for.
    #[must_use]
    pub fn bulk(&self) -> Option<Bulk> {
        match self.phase {
            Phase::Bulk { bulk, .. } => Some(bulk),
            _ => None,
        }
    }

    /// The next write. `push_id` is used if a push has to start, and to mark a step of a bulk; `offset_behind` gives the claims offset right behind the claim of a
    /// rank.
    #[must_use]
    pub fn next_step(
        &self,
        durable: Durable,
        limits: StepLimits,
        push_id: PushId,
        offset_behind: impl Fn(u32) -> Offset,
    ) -> Step {
        match self.phase {
            Phase::Synced(synced) => {
                let behind = durable.settled.saturating_sub(synced.settled);
                let target_settled = synced.settled.saturating_add(behind.min(limits.bulk));
                let step = self.step_of(synced, limits);
                if let Some(Mending { lays, settled, .. }) = self.to_mend(MENDED_AT_ONCE) {
                    return Step {
                        from_rank: settled,
                        to_rank: settled,
                        lays,
                        fills: true,
                        looks_at: 0..0,
                        ..step
                    };
                }
                let reached =
                    |rank| if rank >= durable.settled { durable.next_src } else { offset_behind(rank) };
                let buckets = synced.buckets.max(durable.buckets());
                if behind > limits.claims && pays_in_bulk(target_settled - synced.settled, buckets) {
                    let target =
                        Durable { next_src: reached(target_settled), settled: target_settled, ahead: 0 };
                    let bulk = Bulk { from_rank: synced.settled, target, buckets };
                    // Which claims come first is known once they are sorted, and that is for whoever asks what the bulk is.
                    return next_of_bulk(step, bulk, push_id, 0, StepLimits { claims: 0, ..limits });
                }
                let to_rank = synced.settled.saturating_add(limits.claims.min(behind));
                let leaves = synced
                    .watermark
                    .next_src()
                    .map_or(reached(to_rank), |next_src| reached(to_rank).max(next_src));
                let leaves = ViewWatermark::Reflects(leaves);
                // Who splits moves the watermark, too: a split whose answer was lost is made again else, and what went over the first time is gone.
                let at_once = if leaves == synced.watermark { 0 } else { SPLIT_AT_ONCE };
                let ahead = buckets.min(synced.buckets.saturating_add(at_once));
                let buckets = synced.buckets..ahead.max(bucket_count(to_rank));
                Step { leaves, to_rank, buckets, ..step }
            }
            Phase::Bulk { synced, bulk, written } => {
                next_of_bulk(self.step_of(synced, limits), bulk, push_id, written, limits)
            }
            Phase::Lost => {
                let leaves = ViewWatermark::Pushing { push_id, chunks: 0 };
                step_of_push(None, push_id, leaves, durable.buckets(), Vec::new())
            }
            Phase::Pushing { push_id, chunks, laid, target } => {
                let buckets = target.buckets();
                let lays = laid..laid.saturating_add(limits.claims).min(buckets);
                let leaves = if lays.end < buckets {
                    ViewWatermark::Pushing { push_id, chunks: chunks.saturating_add(1) }
                } else {
                    ViewWatermark::Reflects(empty_watermark(target))
                };
                let expects = Some(ViewWatermark::Pushing { push_id, chunks });
                step_of_push(expects, push_id, leaves, buckets, lays.collect())
            }
        }
    }

    /// A step that writes nothing, and looks at the next buckets.
    fn step_of(&self, synced: Synced, limits: StepLimits) -> Step {
        let Synced { push_id, watermark, settled, buckets } = synced;
        let looks_to = self.looks_at.saturating_add(limits.looked_at).min(buckets);
        Step {
            expects: Some(watermark),
            push_id,
            leaves: watermark,
            from_rank: settled,
            to_rank: settled,
            buckets: buckets..buckets,
            bulk: None,
            lays: Vec::new(),
            fills: false,
            looks_at: self.looks_at.min(looks_to)..looks_to,
        }
    }

    /// Takes the script's answer to `step`, which was made from this state and `durable`.
    pub fn answered(&mut self, step: &Step, durable: Durable, reply: &Reply) {
        let done = self.after(step, durable);
        match reply {
            Reply::Written(without_id) => {
                self.phase = done;
                self.in_doubt = None;
                if step.expects.is_none() {
                    self.lost.clear();
                }
                for bucket in &step.lays {
                    self.lost.remove(bucket);
                }
                self.lost.extend(without_id);
                if let (false, Phase::Bulk { synced, .. }) = (self.lost.is_empty(), self.phase) {
                    // What of it was in those buckets is written with the next bulk.
                    self.phase = Phase::Synced(synced);
                }
                self.looks_at = if step.looks_at.end >= step.buckets.end { 0 } else { step.looks_at.end };
            }
            Reply::Unknown => self.in_doubt = Some(done),
            Reply::Found(found) => {
                let landed = self.in_doubt.filter(|phase| found.is_some() && phase.standing() == *found);
                match landed {
                    // Which buckets it found without the id nobody heard: the next look at them tells.
                    Some(phase) => (self.phase, self.in_doubt) = (phase, None),
                    None => *self = Self::lost(),
                }
            }
        }
    }

    fn after(&self, step: &Step, durable: Durable) -> Phase {
        let (push_id, buckets) = (step.push_id, step.buckets.end);
        match step.leaves {
            ViewWatermark::Pushing { chunks, .. } => {
                let (laid, target) = match self.phase {
                    Phase::Pushing { laid, target, .. } => (laid, target),
                    _ => (0, durable),
                };
                let laid = step.lays.last().map_or(laid, |last| last.saturating_add(1));
                Phase::Pushing { push_id, chunks, laid, target }
            }
            watermark => match &step.bulk {
                Some((bulk, part)) if matches!(watermark, ViewWatermark::InBulk { .. }) => {
                    let synced = Synced { push_id, watermark, settled: step.to_rank, buckets };
                    Phase::Bulk { synced, bulk: *bulk, written: part.end }
                }
                bulk => {
                    let settled = bulk.as_ref().map_or(step.to_rank, |(bulk, _)| bulk.target.settled);
                    Phase::Synced(Synced { push_id, watermark, settled, buckets })
                }
            },
        }
    }
}

/// From one claim for each bucket on it pays to sort them.
fn pays_in_bulk(claims: u32, buckets: u32) -> bool {
    claims >= buckets
}

/// A step of a push: it lays these of its buckets.
fn step_of_push(
    expects: Option<ViewWatermark>,
    push_id: PushId,
    leaves: ViewWatermark,
    buckets: u32,
    lays: Vec<u32>,
) -> Step {
    Step {
        expects,
        push_id,
        leaves,
        from_rank: 0,
        to_rank: 0,
        buckets: buckets..buckets,
        bulk: None,
        lays,
        fills: false,
        looks_at: 0..0,
    }
}

/// Up to where a view without claims is true.
fn empty_watermark(target: Durable) -> Offset {
    if target.settled == 0 { target.next_src } else { Offset::ZERO }
}

/// The next step of a bulk of which so many claims are written: first the buckets, then the claims. `step` is one that writes nothing.
fn next_of_bulk(step: Step, bulk: Bulk, step_id: PushId, written: u32, limits: StepLimits) -> Step {
    let all = bulk.target.settled.saturating_sub(bulk.from_rank);
    let (buckets, part) = if step.buckets.end < bulk.buckets {
        let end = step.buckets.end.saturating_add(SPLIT_AT_ONCE).min(bulk.buckets);
        (step.buckets.start..end, 0..0)
    } else {
        (step.buckets.clone(), written..written.saturating_add(limits.claims).min(all))
    };
    let leaves = if part.end == all {
        ViewWatermark::Reflects(bulk.target.next_src)
    } else {
        let next_src = step.leaves.next_src().unwrap_or(Offset::ZERO);
        ViewWatermark::InBulk { next_src, step_id }
    };
    Step { leaves, buckets, bulk: Some((bulk, part)), ..step }
}

impl Phase {
    fn standing(&self) -> Option<Standing> {
        match *self {
            Self::Synced(synced) | Self::Bulk { synced, .. } => {
                Some(Standing { watermark: synced.watermark, push_id: synced.push_id })
            }
            Self::Pushing { push_id, chunks, .. } => {
                Some(Standing { watermark: ViewWatermark::Pushing { push_id, chunks }, push_id })
            }
            Self::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::view_buckets::{bucket_divisor, bucket_of, split_bucket};
    use proptest::prelude::*;

    const LIMITS: StepLimits = StepLimits { claims: 7, looked_at: 2, bulk: 100 };

    /// Redis, as the scripts use it.
    #[derive(Clone, Default)]
    struct View {
        hash: Option<(Standing, u32)>,
        buckets: BTreeMap<u32, Bucket>,
    }

    #[derive(Clone)]
    struct Bucket {
        push_id: PushId,
        divisor: u64,
        ranks: BTreeSet<u32>,
    }

    impl Bucket {
        /// One that began without a mark.
        fn of_nobody() -> Self {
            Self { push_id: PushId(u64::MAX), divisor: 0, ranks: BTreeSet::new() }
        }
    }

    /// The ranks of this part of a bulk.
    fn ranks_of(bulk: &Bulk, part: &Range<u32>) -> Vec<u32> {
        let mut ranks: Vec<u32> = (bulk.from_rank + 1..=bulk.target.settled).collect();
        ranks.sort_by_key(|rank| bucket_of(&mac(*rank), bulk.buckets));
        ranks[usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap()].to_vec()
    }

    impl View {
        fn run(&mut self, step: &Step) -> Reply {
            let found = self.hash.map(|(standing, _)| standing);
            let expected = step.expects.map(|watermark| Standing { watermark, push_id: step.push_id });
            let after = step.buckets.end;
            let mut without_id = BTreeSet::new();
            // The claims of a bulk are written before the script looks, whatever it finds then.
            for rank in step.bulk.iter().flat_map(|(bulk, part)| ranks_of(bulk, part)) {
                let number = bucket_of(&mac(rank), after);
                let bucket = self.buckets.entry(number).or_insert_with(Bucket::of_nobody);
                bucket.ranks.insert(rank);
                if bucket.push_id != step.push_id {
                    without_id.insert(number);
                }
            }
            if expected.is_some() && expected != found {
                return Reply::Found(found);
            }
            for bucket in &step.lays {
                let divisor = bucket_divisor(*bucket, after);
                self.buckets
                    .insert(*bucket, Bucket { push_id: step.push_id, divisor, ranks: BTreeSet::new() });
            }
            for new in step.buckets.clone() {
                let from = split_bucket(new);
                self.buckets.remove(&new);
                match self.buckets.get_mut(&from).filter(|bucket| bucket.push_id == step.push_id) {
                    Some(bucket) => {
                        let ranks =
                            bucket.ranks.extract_if(.., |rank| bucket_of(&mac(*rank), new + 1) == new);
                        let ranks = ranks.collect();
                        bucket.divisor = bucket_divisor(new, new + 1);
                        let split = Bucket { ranks, ..*bucket };
                        self.buckets.insert(new, split);
                    }
                    None => without_id.extend([from, new]),
                }
            }
            let filled = if step.fills { 1..step.from_rank + 1 } else { 0..0 };
            let filled = filled.filter(|rank| step.lays.contains(&bucket_of(&mac(*rank), step.buckets.end)));
            let by_rank = step.from_rank + 1..=step.to_rank;
            for rank in filled.chain(by_rank) {
                let number = bucket_of(&mac(rank), after);
                match self.buckets.get_mut(&number).filter(|bucket| bucket.push_id == step.push_id) {
                    Some(bucket) => {
                        bucket.divisor = bucket_divisor(number, after);
                        bucket.ranks.insert(rank);
                    }
                    // The script recognises a lost bucket by there being nothing at all.
                    None => drop(without_id.insert(number)),
                }
            }
            for number in step.looks_at.clone() {
                if self.buckets.get(&number).is_none_or(|bucket| bucket.push_id != step.push_id) {
                    without_id.insert(number);
                }
            }
            self.hash = Some((Standing { watermark: step.leaves, push_id: step.push_id }, step.buckets.end));
            Reply::Written(without_id.into_iter().collect())
        }

        /// A reader finds every claim of which the watermark speaks, or sees that the bucket is not whole, or not the one to ask.
        fn holds_what_it_says(&self) -> bool {
            let Some((Standing { watermark, push_id }, count)) = self.hash else { return true };
            let Some(next_src) = watermark.next_src() else { return true };
            let promised = u32::try_from((next_src.number() - 1).max(0) / 2).unwrap();
            (1..=promised).all(|rank| {
                let number = bucket_of(&mac(rank), count);
                let bucket = self.buckets.get(&number).filter(|bucket| bucket.push_id == push_id);
                let bucket = bucket.filter(|bucket| bucket.divisor == bucket_divisor(number, count));
                bucket.is_none_or(|bucket| bucket.ranks.contains(&rank))
            })
        }

        fn is_whole(&self) -> bool {
            let Some((standing, count)) = self.hash else { return false };
            (0..count)
                .all(|number| self.buckets.get(&number).is_some_and(|held| held.push_id == standing.push_id))
        }
    }

    fn mac(rank: u32) -> [u8; 16] {
        let mut mac = [0; 16];
        mac[..4].copy_from_slice(&rank.wrapping_mul(2_654_435_761).swap_bytes().to_le_bytes());
        mac
    }

    /// Rank r was decided at offset 2r, so `Reflects(2r + 1)` or more must mean that ranks 1..=r are there.
    fn offset_behind(rank: u32) -> Offset {
        Offset::new(i64::from(rank) * 2 + 1).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Event {
        Settle(u32),
        Queue(u32),
        Write,
        WriteAnswerLost,
        RequestLost,
        Flush,
        LoseBucket(u32),
        LoseHash,
        Snapshot,
        PutBack,
        OtherWriter,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            3 => (0u32..60).prop_map(Event::Settle),
            1 => (0u32..400).prop_map(Event::Queue),
            16 => Just(Event::Write),
            1 => Just(Event::WriteAnswerLost),
            1 => Just(Event::RequestLost),
            1 => Just(Event::Flush),
            3 => (0u32..12).prop_map(Event::LoseBucket),
            1 => Just(Event::LoseHash),
            1 => Just(Event::Snapshot),
            1 => Just(Event::PutBack),
            1 => Just(Event::OtherWriter),
        ];
        proptest::collection::vec(event, 0..160)
    }

    proptest! {
        // One fault in five hundred runs is worth nine seconds.
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Whatever is lost, put back or written by a second writer: absence is never believed of a claim that the watermark covers, and once
        /// left in peace the view becomes current and whole.
        #[test]
        fn a_view_never_says_more_than_it_holds_and_heals(events in events()) {
            let (mut view, mut snapshot) = (View::default(), View::default());
            let mut writers = [ViewSync::lost(), ViewSync::lost()];
            let mut durable = Durable { next_src: Offset::ZERO, settled: 0, ahead: 0 };
            let mut push_id = 0;
            let peace = std::iter::repeat_n(Event::Write, 3_000);
            for event in events.into_iter().chain(peace) {
                let writer = &mut writers[usize::from(matches!(event, Event::OtherWriter))];
                push_id += 1;
                let step = writer.next_step(durable, LIMITS, PushId(push_id), offset_behind);
                if let Some((bulk, part)) = &step.bulk {
                    prop_assert!(part.is_empty() || writer.bulk() == Some(*bulk), "claims of a bulk that nobody could sort yet");
                }
                match event {
                    Event::Settle(more) => {
                        durable.settled += more;
                        durable.next_src = offset_behind(durable.settled);
                    }
                    Event::Queue(claims) => durable.ahead = claims,
                    Event::Write | Event::OtherWriter => {
                        let reply = view.run(&step);
                        writer.answered(&step, durable, &reply);
                    }
                    Event::WriteAnswerLost => {
                        view.run(&step);
                        writer.answered(&step, durable, &Reply::Unknown);
                    }
                    Event::RequestLost => writer.answered(&step, durable, &Reply::Unknown),
                    Event::Flush => view = View::default(),
                    Event::LoseBucket(number) => drop(view.buckets.remove(&number)),
                    Event::LoseHash => view.hash = None,
                    Event::Snapshot => snapshot = view.clone(),
                    Event::PutBack => view = snapshot.clone(),
                }
                prop_assert!(view.holds_what_it_says(), "{:?}", view.hash);
            }
            prop_assert!(writers[0].is_current(durable), "{:?}", writers[0]);
            let (standing, count) = view.hash.unwrap();
            prop_assert_eq!(standing.watermark, ViewWatermark::Reflects(durable.next_src));
            prop_assert!(count >= bucket_count(durable.settled));
            prop_assert!(view.is_whole());
        }
    }

    #[test]
    fn a_bucket_that_is_lost_is_made_anew_alone() {
        let durable = Durable { next_src: offset_behind(200), settled: 200, ahead: 0 };
        let (mut view, mut sync) = (View::default(), ViewSync::lost());
        let turn = |view: &mut View, sync: &mut ViewSync| {
            let step = sync.next_step(durable, LIMITS, PushId(1), offset_behind);
            let reply = view.run(&step);
            sync.answered(&step, durable, &reply);
            step
        };
        while !sync.is_current(durable) {
            turn(&mut view, &mut sync);
        }
        let held = view.buckets.remove(&3).unwrap().ranks;
        assert!(!view.is_whole());
        while sync.is_current(durable) {
            turn(&mut view, &mut sync);
        }
        let buckets = bucket_count(200);
        assert_eq!(sync.to_mend(9), Some(Mending { lays: vec![3], settled: 200, buckets }));
        let step = turn(&mut view, &mut sync);
        assert_eq!((step.lays, step.fills), (vec![3], true));
        assert!(sync.is_current(durable) && view.is_whole());
        assert_eq!(view.buckets[&3].ranks, held);
    }

    #[test]
    fn an_answer_that_was_lost_is_recognised_by_what_it_left() {
        let durable = Durable { next_src: offset_behind(3), settled: 3, ahead: 0 };
        let found = |rank| {
            Reply::Found(Some(Standing {
                watermark: ViewWatermark::Reflects(offset_behind(rank)),
                push_id: PushId(5),
            }))
        };
        let zero = Standing { watermark: ViewWatermark::Reflects(Offset::ZERO), push_id: PushId(5) };
        let mut sync = ViewSync::found(zero, 0, 1, durable);
        let step = sync.next_step(durable, LIMITS, PushId(1), offset_behind);
        sync.answered(&step, durable, &Reply::Unknown);
        let again = sync.next_step(durable, LIMITS, PushId(1), offset_behind);
        sync.answered(&again, durable, &found(3));
        assert!(sync.is_current(durable));
        let mut other = ViewSync::found(zero, 0, 1, durable);
        other.answered(&step, durable, &found(2));
        assert!(other.is_lost());
        let most = bucket_count(3 + CLAIMS_AHEAD_MAX);
        assert!(!ViewSync::found(zero, 0, most, durable).is_lost(), "made for many that waited");
        assert!(ViewSync::found(zero, 0, most + 1, durable).is_lost(), "made by somebody else");
        let many = Durable { next_src: offset_behind(90), settled: 90, ahead: 0 };
        assert!(!ViewSync::found(zero, 0, 2, many).is_lost(), "left in the middle of a bulk");
        assert!(ViewSync::found(zero, 90, 1, many).is_lost());
    }

    /// What waits in line gets its buckets while they hold nothing, and none of them is split again.
    #[test]
    fn buckets_are_split_for_what_waits() {
        const BULK: u32 = 1_000;
        let mut durable = Durable { next_src: offset_behind(5), settled: 5, ahead: 95 + 48 * 300 };
        let (mut view, mut sync) = (View::default(), ViewSync::lost());
        let buckets = durable.buckets();
        assert!(!sync.may_become_bulk(durable, BULK), "there is no view yet");
        for settled in [5, 90, 800] {
            (durable.settled, durable.ahead) = (settled, durable.ahead - (settled - durable.settled));
            durable.next_src = offset_behind(settled);
            while !sync.is_current(durable) {
                let is_there = matches!(sync.phase, Phase::Synced(_));
                assert!(settled == 800 || sync.may_become_bulk(durable, BULK) == is_there);
                assert!(!sync.may_become_bulk(durable, buckets - 1), "no bulk is that large");
                let step = sync.next_step(durable, LIMITS, PushId(1), offset_behind);
                let reply = view.run(&step);
                sync.answered(&step, durable, &reply);
            }
            assert_eq!(view.hash.unwrap().1, buckets);
        }
        durable.ahead = 0;
        assert!(!sync.may_become_bulk(durable, BULK), "nothing waits");
    }

    /// A view that has buckets for fewer takes some more with every write.
    #[test]
    fn a_view_grows_for_what_waits_bit_by_bit() {
        let (mut view, mut sync) = (View::default(), ViewSync::lost());
        let mut counts = Vec::new();
        for settled in [5, 6, 7, 8] {
            let ahead = (settled - 5) * 48 * 500;
            let durable = Durable { next_src: offset_behind(settled), settled, ahead };
            while !sync.is_current(durable) {
                let step = sync.next_step(durable, LIMITS, PushId(1), offset_behind);
                let reply = view.run(&step);
                sync.answered(&step, durable, &reply);
            }
            counts.push(view.hash.unwrap().1);
        }
        assert_eq!(counts, [1, 33, 65, 97]);
        assert!(view.is_whole() && view.holds_what_it_says());
    }

    /// A look at a view that reflects everything splits nothing, whatever waits: the watermark would not tell of it.
    #[test]
    fn nothing_is_split_where_the_watermark_stays() {
        let durable = Durable { next_src: offset_behind(5), settled: 5, ahead: 0 };
        let (mut view, mut sync) = (View::default(), ViewSync::lost());
        while !sync.is_current(durable) {
            let step = sync.next_step(durable, LIMITS, PushId(1), offset_behind);
            let reply = view.run(&step);
            sync.answered(&step, durable, &reply);
        }
        let waiting = Durable { ahead: 500, ..durable };
        let look = sync.next_step(waiting, LIMITS, PushId(2), offset_behind);
        assert_eq!((look.buckets, look.leaves), (1..1, ViewWatermark::Reflects(durable.next_src)));
        let more = Durable { next_src: offset_behind(6), settled: 6, ..waiting };
        assert_eq!(sync.next_step(more, LIMITS, PushId(2), offset_behind).buckets, 1..11);
    }

    /// The watermark moves when all of a bulk is there, and every claim is written once.
    #[test]
    fn a_view_far_behind_is_brought_up_in_bulk() {
        let durable = Durable { next_src: offset_behind(130), settled: 130, ahead: 0 };
        let (mut view, mut sync) = (View::default(), ViewSync::lost());
        let (mut written, mut seen) = (0, Vec::new());
        while !sync.is_current(durable) {
            let step = sync.next_step(durable, LIMITS, PushId(1), offset_behind);
            written += step.bulk.as_ref().map_or(0, |(_, part)| part.len());
            written += usize::try_from(step.to_rank - step.from_rank).unwrap();
            let reply = view.run(&step);
            assert_eq!(reply, Reply::Written(vec![]));
            sync.answered(&step, durable, &reply);
            seen.extend(step.leaves.next_src());
        }
        seen.dedup();
        assert_eq!(
            seen,
            [0, 100, 130].map(|rank| if rank == 0 { Offset::ZERO } else { offset_behind(rank) })
        );
        assert_eq!(written, 130);
        assert!(view.is_whole() && view.holds_what_it_says());
    }

    #[test]
    fn watermarks_read_back() {
        for watermark in [
            ViewWatermark::Reflects(Offset::ZERO),
            ViewWatermark::Reflects(offset_behind(9)),
            ViewWatermark::InBulk { next_src: offset_behind(9), step_id: PushId(7) },
            ViewWatermark::Pushing { push_id: PushId(u64::MAX), chunks: 3 },
        ] {
            assert_eq!(watermark.to_string().parse(), Ok(watermark));
        }
        for wrong in ["", "-1", "7+", "+7", "7+x", "push.1", "push.x.1"] {
            assert_eq!(wrong.parse::<ViewWatermark>(), Err(MalformedWatermark), "{wrong:?}");
        }
    }
}
