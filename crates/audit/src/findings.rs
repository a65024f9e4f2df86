//! What an audit finds: how much was compared for each promise, what broke it, and what is merely behind.

use std::collections::BTreeMap;

use coupon_domain::invariant::Invariant;
use serde_json::{Value, json};

/// Most violations of a promise that are spelled out; all are counted.
pub(crate) const SPELLED_MAX: usize = 20;

/// What was found so far.
pub struct Findings {
    /// Lag is a violation: the installation is said to be at rest.
    quiet: bool,
    promises: BTreeMap<&'static str, Promise>,
    /// How many violations are lag and nothing else.
    late: u64,
    /// What is no violation, and worth knowing.
    notes: Vec<String>,
}

#[derive(Default)]
struct Promise {
    /// What was compared, in the order in which it was first met.
    checked: Vec<(&'static str, u64)>,
    broken: u64,
    spelled: Vec<String>,
}

impl Findings {
    /// Nothing yet; `quiet` where the installation is said to be at rest.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let provable = Invariant::ALL.into_iter().filter(|invariant| invariant.provable_from_data());
        let promises = provable.map(|invariant| (invariant.id(), Promise::default())).collect();
        Self { quiet, promises, late: 0, notes: Vec::new() }
    }

    fn promise(&mut self, invariant: Invariant) -> &mut Promise {
        self.promises.entry(invariant.id()).or_default()
    }

    /// So many more of `what` were compared.
    pub(crate) fn checked(&mut self, invariant: Invariant, what: &'static str, count: u64) {
        let checked = &mut self.promise(invariant).checked;
        match checked.iter_mut().find(|(known, _)| *known == what) {
            Some((_, counted)) => *counted += count,
            None => checked.push((what, count)),
        }
    }

    /// A promise is broken.
    pub(crate) fn broken(&mut self, invariant: Invariant, place: &str, finding: &str) {
        let promise = self.promise(invariant);
        promise.broken += 1;
        if promise.spelled.len() < SPELLED_MAX {
            promise.spelled.push(format!("{place}: {finding}"));
        }
    }

    /// Something is behind: no harm while the system works, a broken promise where it is said to be at rest.
    pub(crate) fn late(&mut self, invariant: Invariant, place: &str, finding: &str) {
        if self.quiet {
            self.late += 1;
            self.broken(invariant, place, finding);
        } else {
            self.note(format!("{place}: {finding}"));
        }
    }

    /// Something worth knowing.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// What is no violation, and worth knowing.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// True where the installation is said to be at rest.
    #[must_use]
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// How often each promise that data can prove was seen broken.
    pub fn violations(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.promises.iter().map(|(id, promise)| (*id, promise.broken))
    }

    /// True where all that was found is lag: it may be gone once everybody has had the time to come to rest.
    #[must_use]
    pub fn only_late(&self) -> bool {
        self.late > 0 && self.late == self.violations().map(|(_, count)| count).sum::<u64>()
    }

    /// What was spelled out of the violations.
    pub fn spelled(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.promises
            .iter()
            .flat_map(|(id, promise)| promise.spelled.iter().map(|finding| (*id, finding.as_str())))
    }

    /// The promises that are broken, with how often; empty where all hold.
    #[must_use]
    pub fn verdict(&self) -> String {
        let broken = self.promises.iter().filter(|(_, promise)| promise.broken > 0);
        let counts: Vec<String> = broken.map(|(id, promise)| format!("{id} {}", promise.broken)).collect();
        counts.join(", ")
    }

    /// The promises for which nothing was there to compare.
    #[must_use]
    pub fn unproven(&self) -> String {
        let unproven = self.promises.iter().filter(|(_, promise)| !promise.is_checked());
        // A coupon need not have been redeemed.
        let ids = unproven.map(|(id, _)| *id).filter(|id| *id != Invariant::OnceUsed.id());
        ids.collect::<Vec<_>>().join(", ")
    }

    /// A line for each promise, in the order of the documentation.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        let known = Invariant::ALL
            .into_iter()
            .filter_map(|invariant| self.promises.get(invariant.id()).map(|promise| (invariant, promise)));
        known
            .map(|(invariant, promise)| {
                let checked: serde_json::Map<String, Value> =
                    promise.checked.iter().map(|(what, count)| ((*what).to_owned(), json!(count))).collect();
                json!({
                    "promise": invariant.id(),
                    "verdict": promise.verdict(),
                    "violations": promise.broken,
                    "checked": checked,
                    "examples": promise.spelled,
                })
            })
            .collect()
    }
}

impl Promise {
    fn is_checked(&self) -> bool {
        self.checked.iter().any(|(_, count)| *count > 0)
    }

    fn verdict(&self) -> &'static str {
        match (self.broken, self.is_checked()) {
            (0, true) => "holds",
            (0, false) => "unproven",
            _ => "BROKEN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_all_counted_and_some_spelled() {
        let mut findings = Findings::new(false);
        assert_eq!(findings.verdict(), "");
        for number in 0..SPELLED_MAX + 5 {
            findings.broken(Invariant::Agree, "somewhere", &number.to_string());
        }
        findings.checked(Invariant::Agree, "rows", 3);
        findings.checked(Invariant::Agree, "rows", 4);
        assert_eq!(findings.verdict(), format!("AGREE {}", SPELLED_MAX + 5));
        let agree = findings.lines().into_iter().find(|line| line["promise"] == "AGREE").unwrap();
        assert_eq!(agree["examples"].as_array().unwrap().len(), SPELLED_MAX);
        assert_eq!(agree["checked"]["rows"], 7);
    }

    #[test]
    fn lag_is_a_violation_only_at_rest() {
        for (quiet, verdict, notes) in [(false, "", 1), (true, "AGREE 1", 0)] {
            let mut findings = Findings::new(quiet);
            findings.late(Invariant::Agree, "partition 0", "is behind");
            assert_eq!((findings.verdict().as_str(), findings.notes().len()), (verdict, notes));
            assert_eq!(findings.only_late(), quiet);
            findings.broken(Invariant::Agree, "partition 0", "contradicts");
            assert!(!findings.only_late());
        }
    }
}
