//! Refreshing the Redis view, by a task of its own: nothing here slows a decision.
//!
//! The worker says how far each coupon is durable; the task reads "ranks a to b" from the ledger and writes them. Nothing is queued but
//! deferrals, so a Redis that is away for long costs only the catching up. While claims wait in line they come first, since people wait for them, and the view's work
//! takes as much of a machine as theirs: the task then rests after each write, [`REST`] times as long as Redis took, and waits, [`BULK_WAIT`] at most, until there is
//! enough for a bulk.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coupon_domain::view_buckets::bucket_of;
use coupon_domain::view_sync::{
    Bulk, Durable, Mending, PushId, Reply, Step, StepLimits, ViewSync, ViewWatermark,
};
use coupon_domain::{ClaimAnswer, CouponId, CouponStatus, Ledger, Offset, Partition, ledger::SettledClaim};
use infrastructure_redis::writer::CLAIMS_PER_SCRIPT_MAX;
use infrastructure_redis::{CouponCounts, PreparedWrite, ViewWrite};
use parking_lot::Mutex;
use service_runtime::limit::QueueDepth;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::worker::{Desk, Shared};

/// How long the task rests while claims wait in line, in times that Redis took for the write before.
const REST: u32 = 3;

/// How long the task waits for a bulk while claims wait in line.
const BULK_WAIT: Duration = Duration::from_secs(1);

/// Buckets of a view that are looked at each time it is compared: one after the other all of them are.
const LOOKED_AT: u32 = 1_000;

/// Lost buckets whose claims are found by one walk through the ledger.
const FOUND_AT_ONCE: usize = 1_024;

/// Claims that are brought up in bulk before the watermark moves: their ranks are sorted beforehand, which takes eight bytes each.
const BULK: u32 = 500_000;

/// Claims of the ledger that are walked past before the line may have it.
const WALKED_AT_ONCE: u32 = 20_000;

/// In so many parts all views are compared within `decide.refresh_interval_ms`.
const SHARES: u32 = 20;

/// After Redis did not answer, the task tries again this much later.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The worker's side.
pub(crate) struct View {
    board: Arc<Board>,
    deferrals_max: usize,
    deferrals: Arc<QueueDepth>,
    refresh_interval: Duration,
    refreshed: Instant,
    /// Coupons whose views are still to be compared in this interval.
    to_compare: Vec<CouponId>,
    /// How many are compared at a time.
    share: usize,
    _end_with_the_line: DropGuard,
}

/// Where worker and task meet.
#[derive(Default)]
struct Board {
    wanted: Mutex<Wanted>,
    changed: Notify,
    /// The last batch was as large as a batch may be: claims wait in line.
    is_backed_up: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    /// The partition's first offset that is not durable.
    next_src: Option<Offset>,
    /// Those that changed, or are to be compared.
    coupons: HashMap<CouponId, Target>,
    deferrals: VecDeque<ClaimAnswer>,
    /// Retired, and not looked at yet.
    retired: Vec<CouponId>,
    /// All that ever stood in `retired`.
    retired_before: HashSet<CouponId>,
}

/// Up to where a coupon's view shall go, and what its hash shall say then.
#[derive(Clone, Copy)]
struct Target {
    durable: Durable,
    counts: CouponCounts,
}

impl View {
    /// Starts the task. It ends when the view is dropped.
    pub(crate) fn start(desk: Desk<'_>, ledger: Arc<Mutex<Ledger>>) -> Self {
        let shared = Arc::clone(desk.shared);
        let config = &shared.context.config.decide;
        let (board, end) = (Arc::<Board>::default(), CancellationToken::new());
        let deferrals = Arc::new(shared.view_deferrals.of(desk.partition()));
        let task = Task {
            syncs: HashMap::new(),
            board: Arc::clone(&board),
            partition: desk.partition(),
            shared: Arc::clone(&shared),
            deferrals: Arc::clone(&deferrals),
            ledger,
        };
        let ended = end.clone();
        let _runtime = shared.runtime.enter();
        shared.context.tasks.spawn("view", async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = task.run() => {}
            }
        });
        Self {
            board,
            deferrals_max: usize::try_from(config.view_deferrals_max).unwrap_or(0),
            deferrals,
            refresh_interval: Duration::from_millis(config.refresh_interval_ms.into()),
            refreshed: Instant::now(),
            to_compare: Vec::new(),
            share: 0,
            _end_with_the_line: end.drop_guard(),
        }
    }

    /// A batch is durable. `ledger` holds nothing that is not; `touched` says how many more claims of each coupon are thought to wait in line.
    pub(crate) fn advance(
        &self,
        ledger: &Ledger,
        touched: impl IntoIterator<Item = (CouponId, u32)>,
        deferrals: &[ClaimAnswer],
    ) {
        let mut wanted = self.board.wanted.lock();
        wanted.next_src = Some(ledger.next_src());
        for (coupon_id, ahead) in touched {
            wanted.aim(ledger, coupon_id, ahead);
        }
        wanted.deferrals.extend(deferrals);
        while wanted.deferrals.len() > self.deferrals_max {
            wanted.deferrals.pop_front();
            self.deferrals.was_full();
        }
        self.deferrals.set(wanted.deferrals.len());
        drop(wanted);
        self.board.changed.notify_one();
    }

    /// Says whether claims wait in line. While they do, decisions come first: the task rests after each write.
    pub(crate) fn line_is_backed_up(&self, is_backed_up: bool) {
        self.board.is_backed_up.store(is_backed_up, Ordering::Relaxed);
    }

    /// Lets every live coupon's view be compared and brought up, though nothing else happens: a quiet view heals too.
    pub(crate) fn refresh_all(&mut self, ledger: &Ledger) {
        self.refreshed = Instant::now();
        let mut wanted = self.board.wanted.lock();
        wanted.next_src = Some(ledger.next_src());
        let coupons: Vec<CouponId> = ledger.coupons().map(|state| state.coupon_id).collect();
        for coupon_id in coupons {
            wanted.aim(ledger, coupon_id, 0);
        }
        drop(wanted);
        self.board.changed.notify_one();
    }

    /// Has the next views compared, when it is time: all of them within the interval, a share at a time.
    pub(crate) fn refresh_due(&mut self, ledger: &Mutex<Ledger>) {
        if self.refreshed.elapsed() < self.refresh_interval / SHARES {
            return;
        }
        self.refreshed = Instant::now();
        let ledger = ledger.lock();
        if self.to_compare.is_empty() {
            self.to_compare = ledger.coupons().map(|state| state.coupon_id).collect();
            self.share = self.to_compare.len().div_ceil(usize::try_from(SHARES).unwrap_or(1));
        }
        let mut wanted = self.board.wanted.lock();
        wanted.next_src = Some(ledger.next_src());
        let rest = self.to_compare.len().saturating_sub(self.share);
        for coupon_id in self.to_compare.drain(rest..) {
            wanted.aim(&ledger, coupon_id, 0);
        }
        drop(wanted);
        self.board.changed.notify_one();
    }
}

impl Wanted {
    fn aim(&mut self, ledger: &Ledger, coupon_id: CouponId, ahead: u32) {
        let Some(state) = ledger.coupon(coupon_id) else {
            return;
        };
        if state.status == CouponStatus::Retired {
            self.coupons.remove(&coupon_id);
            if self.retired_before.insert(coupon_id) {
                self.retired.push(coupon_id);
            }
            return;
        }
        let settled = ledger.settled_count(coupon_id);
        let durable = Durable { next_src: ledger.next_src(), settled, ahead };
        self.coupons.insert(coupon_id, Target { durable, counts: CouponCounts::from(state) });
    }
}

struct Task {
    shared: Arc<Shared>,
    partition: Partition,
    ledger: Arc<Mutex<Ledger>>,
    board: Arc<Board>,
    deferrals: Arc<QueueDepth>,
    syncs: HashMap<CouponId, Known>,
}

/// What there is to do.
struct Work {
    next_src: Option<Offset>,
    targets: Vec<(CouponId, Target)>,
    deferrals: HashMap<CouponId, Vec<ClaimAnswer>>,
    retired: Vec<CouponId>,
}

struct Known {
    sync: ViewSync,
    /// What the view was last brought up to.
    target: Target,
    /// When its buckets were last looked at.
    looked: Instant,
    /// When it was last brought up.
    written: Instant,
    found: Found,
}

/// What was found by walks through the ledger.
#[derive(Default)]
struct Found {
    /// The ranks of claims that belong into lost buckets, of so many that were settled when it was looked.
    settled: u32,
    lost: HashMap<u32, Vec<u32>>,
    /// The ranks of a bulk's claims, in the order of their buckets.
    bulk: Option<(Bulk, Vec<u32>)>,
}

/// How bringing up a view ended.
enum BroughtUp {
    /// It reflects its target.
    Done,
    /// It will, once there is enough for a bulk.
    Waits,
    /// Redis gave no answer.
    Unanswered,
}

impl Task {
    async fn run(mut self) {
        loop {
            let Work { next_src, targets, mut deferrals, retired } = self.take_work();
            let (mut trouble, mut waits) = (false, false);
            for coupon_id in retired {
                trouble |= !self.forget(coupon_id).await;
            }
            for (coupon_id, target) in targets {
                let deferred = deferrals.remove(&coupon_id).unwrap_or_default();
                match self.bring_up(coupon_id, target, deferred).await {
                    BroughtUp::Done => continue,
                    BroughtUp::Waits => waits = true,
                    BroughtUp::Unanswered => trouble = true,
                }
                self.board.wanted.lock().coupons.entry(coupon_id).or_insert(target);
            }
            self.show_watermark(next_src);
            if trouble {
                tokio::time::sleep(BACK_OFF).await;
            } else if waits {
                // In time for the next bulk, or for the end of the wait.
                drop(tokio::time::timeout(BULK_WAIT, self.board.changed.notified()).await);
            } else {
                self.board.changed.notified().await;
            }
        }
    }

    fn take_work(&self) -> Work {
        let mut wanted = self.board.wanted.lock();
        let mut deferrals: HashMap<_, Vec<_>> = HashMap::new();
        for answer in wanted.deferrals.drain(..) {
            deferrals.entry(answer.claim_id.coupon_id).or_default().push(answer);
        }
        self.deferrals.set(0);
        let targets = wanted.coupons.drain().collect();
        Work { next_src: wanted.next_src, targets, deferrals, retired: std::mem::take(&mut wanted.retired) }
    }

    /// Writes until the coupon's view reflects its target, each write spelled out while the one before is under way.
    async fn bring_up(
        &mut self,
        coupon_id: CouponId,
        target: Target,
        mut deferrals: Vec<ClaimAnswer>,
    ) -> BroughtUp {
        let known = self.syncs.remove(&coupon_id);
        if self.shared.context.clock.now() >= self.shared.view_writer.expires_at(target.counts.closes_at) {
            return BroughtUp::Done;
        }
        let mut known = match known {
            Some(known) => known,
            None => match self.look(coupon_id, &target).await {
                Some(sync) => {
                    let found = Found::default();
                    Known { sync, target, looked: long_ago(), written: Instant::now(), found }
                }
                None => return BroughtUp::Unanswered,
            },
        };
        known.target = target;
        let (shared, mut ahead) = (Arc::clone(&self.shared), None);
        let quiet = Duration::from_millis(self.shared.context.config.decide.refresh_interval_ms.into());
        let ended = loop {
            // A view that reflects everything is still compared now and then: it, or some of its buckets, may have been lost meanwhile.
            let looks = known.looked.elapsed() >= quiet / 2;
            if deferrals.is_empty() && !looks {
                if known.sync.is_current(target.durable) {
                    known.written = Instant::now();
                    break BroughtUp::Done;
                }
                let is_backed_up = self.board.is_backed_up.load(Ordering::Relaxed);
                if is_backed_up
                    && known.written.elapsed() < BULK_WAIT
                    && known.sync.may_become_bulk(target.durable, BULK)
                {
                    break BroughtUp::Waits;
                }
            }
            let started = Instant::now();
            let (step, prepared) = match ahead.take().filter(|_| !looks) {
                Some(ready) => ready,
                None => {
                    self.find_lost(coupon_id, &mut known);
                    self.sort_bulk(coupon_id, &mut known);
                    let (step, answers) =
                        self.next_write(&known.sync, &known.found, looks, &target, &mut deferrals);
                    let prepared = spell_out(&shared, &step, &target, &answers);
                    (step, prepared)
                }
            };
            let writing = Instant::now();
            let write = async { (shared.view_writer.run(&prepared).await, writing.elapsed()) };
            let ((reply, took), next) = tokio::join!(write, self.look_ahead(&shared, &known, &step, &target));
            ahead = next.filter(|_| reply == Reply::Written(Vec::new()));
            self.count(&known.sync, &step, &reply, started);
            known.sync.answered(&step, target.durable, &reply);
            match &reply {
                Reply::Unknown => break BroughtUp::Unanswered,
                Reply::Found(_) => tracing::warn!(coupon.id = %coupon_id, partition = %self.partition,
                    "the view was lost or put back; it is pushed anew"),
                Reply::Written(lost) if !lost.is_empty() => tracing::warn!(coupon.id = %coupon_id,
                    partition = %self.partition, buckets = lost.len(), "a part of the view was lost; it is pushed again"),
                Reply::Written(_) => {}
            }
            if looks {
                known.looked = Instant::now();
            }
            if self.board.is_backed_up.load(Ordering::Relaxed) {
                tokio::time::sleep(took * REST).await;
            }
        };
        self.syncs.insert(coupon_id, known);
        ended
    }

    /// Where the view of a coupon stands that this task has not written yet. A view that is true up to some earlier offset is brought up
    /// from there: its claims were settled in the order of the line, so the ledger knows which it holds.
    async fn look(&self, coupon_id: CouponId, target: &Target) -> Option<ViewSync> {
        match self.shared.view_maintenance.standing(coupon_id).await {
            Ok(Some((standing, buckets)))
                if standing
                    .watermark
                    .next_src()
                    .is_some_and(|next_src| next_src <= target.durable.next_src) =>
            {
                let next_src = standing.watermark.next_src();
                let ledger = self.ledger.lock();
                let settled = ledger.settled(coupon_id, 0, target.durable.settled);
                let held = settled.partition_point(|claim| Some(claim.decided_offset) < next_src);
                let held = u32::try_from(held).unwrap_or(0);
                Some(ViewSync::found(standing, held, buckets, target.durable))
            }
            Ok(_) => Some(ViewSync::lost()),
            Err(error) => {
                tracing::debug!(coupon.id = %coupon_id, "the view cannot be looked at: {error}");
                None
            }
        }
    }

    /// Walks through the ledger for the claims of lost buckets, a few at a time, so that the line need not wait.
    fn find_lost(&self, coupon_id: CouponId, known: &mut Known) {
        let Some(Mending { lays, settled, buckets }) = known.sync.to_mend(FOUND_AT_ONCE) else {
            known.found.lost = HashMap::new();
            return;
        };
        let found = &mut known.found;
        if found.settled == settled && lays.first().is_some_and(|first| found.lost.contains_key(first)) {
            return;
        }
        found.settled = settled;
        found.lost = lays.into_iter().map(|bucket| (bucket, Vec::new())).collect();
        self.walk(coupon_id, 0..settled, |rank, claim| {
            if let Some(ranks) = found.lost.get_mut(&bucket_of(&claim.mac, buckets)) {
                ranks.push(rank);
            }
        });
    }

    /// Puts the claims that are written in bulk in the order of their buckets.
    fn sort_bulk(&self, coupon_id: CouponId, known: &mut Known) {
        let Some(bulk) = known.sync.bulk() else {
            known.found.bulk = None;
            return;
        };
        if known.found.bulk.as_ref().is_some_and(|(sorted, _)| *sorted == bulk) {
            return;
        }
        let mut places = Vec::new();
        self.walk(coupon_id, bulk.from_rank..bulk.target.settled, |rank, claim| {
            places.push((bucket_of(&claim.mac, bulk.buckets), rank));
        });
        places.sort_unstable();
        known.found.bulk = Some((bulk, places.into_iter().map(|(_, rank)| rank).collect()));
    }

    /// Walks through the ledger's claims behind the first of these ranks, up to the second, a few at a time, so that the line need not wait.
    fn walk(&self, coupon_id: CouponId, ranks: Range<u32>, mut each: impl FnMut(u32, &SettledClaim)) {
        let mut from = ranks.start;
        while from < ranks.end {
            let to = from.saturating_add(WALKED_AT_ONCE).min(ranks.end);
            let ledger = self.ledger.lock();
            for (rank, claim) in (from.saturating_add(1)..).zip(ledger.settled(coupon_id, from, to)) {
                each(rank, claim);
            }
            from = to;
        }
    }

    /// The write that follows `step`, if that is answered as expected; none where nothing follows, or something else than claims.
    async fn look_ahead<'a>(
        &self,
        shared: &'a Shared,
        known: &Known,
        step: &Step,
        target: &Target,
    ) -> Option<(Step, PreparedWrite<'a>)> {
        // The write itself goes out first.
        tokio::task::yield_now().await;
        let mut sync = known.sync.clone();
        sync.answered(step, target.durable, &Reply::Written(Vec::new()));
        let is_sorted = sync.bulk() == known.found.bulk.as_ref().map(|(bulk, _)| *bulk);
        if sync.is_current(target.durable) || sync.to_mend(1).is_some() || !is_sorted {
            return None;
        }
        let (step, answers) = self.next_write(&sync, &known.found, false, target, &mut Vec::new());
        let prepared = spell_out(shared, &step, target, &answers);
        Some((step, prepared))
    }

    fn next_write(
        &self,
        sync: &ViewSync,
        found: &Found,
        looks: bool,
        target: &Target,
        deferrals: &mut Vec<ClaimAnswer>,
    ) -> (Step, Vec<ClaimAnswer>) {
        let coupon_id = target.counts.coupon_id;
        let ledger = self.ledger.lock();
        let offset_behind = |rank: u32| {
            let claim = ledger.settled(coupon_id, rank.saturating_sub(1), rank).first();
            claim.map_or(Offset::ZERO, |claim| claim.decided_offset.next())
        };
        let looked_at = if looks { LOOKED_AT } else { 0 };
        let limits = StepLimits { claims: CLAIMS_PER_SCRIPT_MAX, looked_at, bulk: BULK };
        let step = sync.next_step(target.durable, limits, PushId(rand::random()), offset_behind);
        let mut answers = Vec::new();
        let mut add = |rank: u32, claim: &SettledClaim| {
            let winner = ledger.granted_claim(coupon_id, claim);
            answers.push(ClaimAnswer::settled(claim.claim_id(coupon_id), rank, claim, winner));
        };
        let settled = ledger.settled(coupon_id, 0, target.durable.settled);
        let filled = step.lays.iter().filter(|_| step.fills).filter_map(|bucket| found.lost.get(bucket));
        let in_bulk = step.bulk.iter().filter_map(|(bulk, part)| {
            let (_, sorted) = found.bulk.as_ref().filter(|(sorted, _)| sorted == bulk)?;
            sorted.get(usize::try_from(part.start).ok()?..usize::try_from(part.end).ok()?)
        });
        for rank in filled.flatten().chain(in_bulk.flatten()) {
            let index = usize::try_from(rank.saturating_sub(1)).ok();
            if let Some(claim) = index.and_then(|index| settled.get(index)) {
                add(*rank, claim);
            }
        }
        let claims = ledger.settled(coupon_id, step.from_rank, step.to_rank);
        for (rank, claim) in (step.from_rank.saturating_add(1)..).zip(claims) {
            add(rank, claim);
        }
        drop(ledger);
        if sync.is_lost() {
            // Deferrals are hints: a push does not carry them.
            deferrals.clear();
        }
        let room = usize::try_from(CLAIMS_PER_SCRIPT_MAX).unwrap_or(0).saturating_sub(answers.len());
        answers.extend(deferrals.drain(..deferrals.len().min(room)));
        (step, answers)
    }

    fn count(&self, sync: &ViewSync, step: &Step, reply: &Reply, started: Instant) {
        let metrics = &self.shared.metrics;
        metrics.view_seconds.observe(started.elapsed().as_secs_f64());
        match (reply, sync.is_lost()) {
            (Reply::Written(_), false) if step.fills => {
                metrics.view_buckets.inc_by(u64::try_from(step.lays.len()).unwrap_or(0));
            }
            (Reply::Written(_), false) => metrics.view_deltas.inc(),
            (Reply::Found(_), false) => metrics.view_pushes.inc(),
            _ => {}
        }
    }

    /// Deletes a retired coupon's view, if there is one. False: Redis gave no answer, and it is tried again.
    async fn forget(&mut self, coupon_id: CouponId) -> bool {
        self.syncs.remove(&coupon_id);
        let maintenance = &self.shared.view_maintenance;
        let forgotten = match maintenance.has_view(coupon_id).await {
            Ok(false) => return true,
            Ok(true) => maintenance.forget(coupon_id).await,
            Err(error) => Err(error),
        };
        match forgotten {
            Ok(buckets) => {
                tracing::info!(coupon.id = %coupon_id, buckets, "the view of a retired coupon is gone");
                true
            }
            Err(error) => {
                tracing::warn!(coupon.id = %coupon_id, "the view of a retired coupon is still there: {error}");
                self.board.wanted.lock().retired.push(coupon_id);
                false
            }
        }
    }

    /// The lowest of those views that are as they should be; where there is none to keep, nothing is behind.
    fn show_watermark(&self, next_src: Option<Offset>) {
        let current = self.syncs.values().filter(|known| known.sync.is_current(known.target.durable));
        let lowest = current.map(|known| known.target.durable.next_src).min();
        if let Some(lowest) = lowest.or_else(|| next_src.filter(|_| self.syncs.is_empty())) {
            self.shared.metrics.watermark("redis", self.partition, lowest.number());
        }
    }
}

fn spell_out<'a>(
    shared: &'a Shared,
    step: &Step,
    target: &Target,
    answers: &[ClaimAnswer],
) -> PreparedWrite<'a> {
    let counts_hold = step.leaves == ViewWatermark::Reflects(target.durable.next_src);
    shared.view_writer.prepare(&ViewWrite { step, counts: target.counts, counts_hold, answers })
}

fn long_ago() -> Instant {
    Instant::now().checked_sub(Duration::from_secs(3_600)).unwrap_or_else(Instant::now)
}
