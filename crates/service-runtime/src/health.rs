//! What the probes tell: whether start-up is done, whether every loop turns, whether work can be done now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The health of the process. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

struct Inner {
    started: Instant,
    loop_stall_max: Duration,
    /// Conditions that are not met, with their reasons.
    starting: Mutex<Conditions>,
    not_ready: Mutex<Conditions>,
    /// What is wrong without keeping the process from its work, by name.
    notes: Mutex<BTreeMap<String, String>>,
    conditions_made: AtomicU64,
    loops: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    draining: std::sync::atomic::AtomicBool,
}

/// By name: whose it is, and the reason. A name may pass to another owner while the one before still ends.
type Conditions = BTreeMap<String, (u64, String)>;

/// A probe's answer: fine, or the reasons why not.
pub type Answer = Result<(), Vec<String>>;

impl Health {
    /// A healthy process whose loops must turn within `loop_stall_max`.
    #[must_use]
    pub fn new(loop_stall_max: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                started: Instant::now(),
                loop_stall_max,
                starting: Mutex::default(),
                not_ready: Mutex::default(),
                notes: Mutex::default(),
                conditions_made: AtomicU64::new(0),
                loops: Mutex::default(),
                draining: false.into(),
            }),
        }
    }

    /// A condition of `/startupz`, not met yet.
    #[must_use]
    pub fn startup_condition(&self, name: &str, reason: &str) -> Condition {
        Condition::new(self, Probe::Startup, name, reason)
    }

    /// A condition of `/readyz`, not met yet.
    #[must_use]
    pub fn ready_condition(&self, name: &str, reason: &str) -> Condition {
        Condition::new(self, Probe::Ready, name, reason)
    }

    /// A loop that `/livez` watches until the handle is dropped.
    #[must_use]
    pub fn watch_loop(&self, name: impl Into<String>) -> LoopTurn {
        let name = name.into();
        let turned = Arc::new(AtomicU64::new(self.elapsed_ms()));
        self.inner.loops.lock().insert(name.clone(), Arc::clone(&turned));
        LoopTurn { health: self.clone(), name, turned }
    }

    /// From now on `/readyz` says no: the process is about to end.
    pub fn start_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// `/startupz`.
    pub fn startup(&self) -> Answer {
        answer(reasons(&self.inner.starting.lock()))
    }

    /// `/livez`.
    pub fn live(&self) -> Answer {
        let stalled = self.loop_ages().into_iter().filter(|(_, age)| *age > self.inner.loop_stall_max);
        answer(
            stalled
                .map(|(name, age)| format!("loop {name} has not turned for {} s", age.as_secs()))
                .collect(),
        )
    }

    /// `/readyz`.
    pub fn ready(&self) -> Answer {
        let mut all = reasons(&self.inner.starting.lock());
        all.extend(reasons(&self.inner.not_ready.lock()));
        if self.inner.draining.load(Ordering::Acquire) {
            all.push("draining".to_owned());
        }
        answer(all)
    }

    /// Lets `/readyz` tell of something that is wrong without saying no, or no more of it: there the process answers better than nobody.
    pub fn note(&self, name: &str, wrong: Option<String>) {
        let mut notes = self.inner.notes.lock();
        match wrong {
            Some(wrong) => notes.insert(name.to_owned(), wrong),
            None => notes.remove(name),
        };
    }

    /// What is to be told beside a yes or no.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.inner.notes.lock().iter().map(|(name, wrong)| format!("{name}: {wrong}")).collect()
    }

    /// How long ago each loop turned.
    #[must_use]
    pub fn loop_ages(&self) -> Vec<(String, Duration)> {
        let now = self.elapsed_ms();
        let loops = self.inner.loops.lock();
        loops
            .iter()
            .map(|(name, turned)| {
                let age = now.saturating_sub(turned.load(Ordering::Relaxed));
                (name.clone(), Duration::from_millis(age))
            })
            .collect()
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn conditions(&self, probe: Probe) -> &Mutex<Conditions> {
        match probe {
            Probe::Startup => &self.inner.starting,
            Probe::Ready => &self.inner.not_ready,
        }
    }
}

fn reasons(conditions: &Conditions) -> Vec<String> {
    conditions.iter().map(|(name, (_, reason))| format!("{name}: {reason}")).collect()
}

fn answer(reasons: Vec<String>) -> Answer {
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

#[derive(Clone, Copy)]
enum Probe {
    Startup,
    Ready,
}

/// Something that has to be so before a probe says yes. Dropped, it no longer counts.
pub struct Condition {
    health: Health,
    probe: Probe,
    name: String,
    owner: u64,
}

impl Condition {
    fn new(health: &Health, probe: Probe, name: &str, reason: &str) -> Self {
        let owner = health.inner.conditions_made.fetch_add(1, Ordering::Relaxed);
        let condition = Self { health: health.clone(), probe, name: name.to_owned(), owner };
        health.conditions(probe).lock().insert(name.to_owned(), (owner, reason.to_owned()));
        condition
    }

    /// It is so.
    pub fn met(&self) {
        let mut conditions = self.health.conditions(self.probe).lock();
        if conditions.get(&self.name).is_some_and(|(owner, _)| *owner == self.owner) {
            conditions.remove(&self.name);
        }
    }

    /// It is not so, for this reason.
    pub fn unmet(&self, reason: impl Into<String>) {
        let mut conditions = self.health.conditions(self.probe).lock();
        // Whoever has taken over the name since speaks for it.
        if conditions.get(&self.name).is_none_or(|(owner, _)| *owner <= self.owner) {
            conditions.insert(self.name.clone(), (self.owner, reason.into()));
        }
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.met();
    }
}

/// A loop's proof that it turns. Waiting for a dependency wakes up every second and counts as turning.
pub struct LoopTurn {
    health: Health,
    name: String,
    turned: Arc<AtomicU64>,
}

impl LoopTurn {
    /// The loop has turned.
    pub fn turn(&self) {
        self.turned.store(self.health.elapsed_ms(), Ordering::Relaxed);
    }
}

impl Drop for LoopTurn {
    fn drop(&mut self) {
        let mut loops = self.health.inner.loops.lock();
        if loops.get(&self.name).is_some_and(|turned| Arc::ptr_eq(turned, &self.turned)) {
            loops.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_give_their_reasons() {
        let health = Health::new(Duration::from_secs(15));
        let schema = health.startup_condition("schema", "older");
        let tail = health.ready_condition("tail", "behind");
        assert_eq!(health.startup(), Err(vec!["schema: older".to_owned()]));
        schema.met();
        assert_eq!(health.startup(), Ok(()));
        assert_eq!(health.ready(), Err(vec!["tail: behind".to_owned()]));
        drop(tail);
        assert_eq!(health.ready(), Ok(()));
        health.start_draining();
        assert_eq!(health.ready(), Err(vec!["draining".to_owned()]));
        assert_eq!(health.startup(), Ok(()));
    }

    #[test]
    fn whoever_ends_late_takes_nothing_away_from_a_successor() {
        let health = Health::new(Duration::ZERO);
        let (old, old_turn) =
            (health.ready_condition("partition-3", "starting"), health.watch_loop("partition-3"));
        let (new, new_turn) =
            (health.ready_condition("partition-3", "starting"), health.watch_loop("partition-3"));
        new.unmet("halted");
        old.unmet("waiting");
        old.met();
        drop((old, old_turn));
        assert_eq!(health.ready(), Err(vec!["partition-3: halted".to_owned()]));
        assert_eq!(health.loop_ages().len(), 1);
        drop((new, new_turn));
        assert_eq!(health.ready(), Ok(()));
        assert_eq!(health.loop_ages().len(), 0);
    }

    #[test]
    fn a_loop_that_stalls_is_named_until_it_turns_or_ends() {
        let health = Health::new(Duration::ZERO);
        let turn = health.watch_loop("fold-3");
        while health.live().is_ok() {
            std::thread::yield_now();
        }
        assert!(health.live().unwrap_err()[0].contains("fold-3"));
        turn.turn();
        drop(turn);
        assert_eq!(health.live(), Ok(()));
    }
}
