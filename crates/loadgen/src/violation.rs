//! What must not be.

use std::fmt;

use serde::Serialize;

/// Examples that are kept of each violation; all are counted.
const EXAMPLES_MAX: usize = 5;

/// What is checked. Where it is one of the design's promises, it has the promise's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Check {
    /// No more granted than there are.
    #[serde(rename = "NO-OVERSELL")]
    NoOversell,
    /// Nobody was told `sold_out` while something was left.
    #[serde(rename = "FIRST-COME")]
    FirstCome,
    /// Everybody was told, before the deadline.
    #[serde(rename = "TOLD")]
    Told,
    /// All presses of a user name the same claim.
    #[serde(rename = "NAMED-DOUBT")]
    OneClaim,
    /// One final answer per claim, whoever is asked and however often.
    #[serde(rename = "ONE-OUTCOME")]
    OneOutcome,
    /// As many were granted as the coupon says were issued.
    #[serde(rename = "AGREE")]
    Agree,
    /// No two users have the same code.
    #[serde(rename = "DISTINCT-CODES")]
    DistinctCodes,
    /// All are sold, where that is expected.
    #[serde(rename = "SOLD-OUT")]
    SoldOut,
}

impl Check {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoOversell => "NO-OVERSELL",
            Self::FirstCome => "FIRST-COME",
            Self::Told => "TOLD",
            Self::OneClaim => "NAMED-DOUBT",
            Self::OneOutcome => "ONE-OUTCOME",
            Self::Agree => "AGREE",
            Self::DistinctCodes => "DISTINCT-CODES",
            Self::SoldOut => "SOLD-OUT",
        }
    }
}

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// How often.
    pub count: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ×{}: {}", self.check.as_str(), self.count, self.examples.join("; "))
    }
}

/// Violations as they are found.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<Violation>);

impl Violations {
    pub(crate) fn add(&mut self, check: Check, what: impl FnOnce() -> String) {
        let known = self.0.iter_mut().find(|violation| violation.check == check);
        match known {
            Some(violation) => {
                violation.count += 1;
                if violation.examples.len() < EXAMPLES_MAX {
                    violation.examples.push(what());
                }
            }
            None => self.0.push(Violation { check, count: 1, examples: vec![what()] }),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Violation> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_a_few_shown() {
        let mut violations = Violations::default();
        for number in 0..20 {
            violations.add(Check::Told, || format!("user {number}"));
        }
        violations.add(Check::Agree, || "one".to_owned());
        let all = violations.into_vec();
        assert_eq!((all.len(), all[0].count, all[0].examples.len()), (2, 20, EXAMPLES_MAX));
        assert!(all[0].to_string().starts_with("TOLD ×20: user 0; user 1"));
    }

    #[test]
    fn names_are_spelled_alike() {
        for check in [Check::NoOversell, Check::OneClaim, Check::DistinctCodes] {
            assert_eq!(serde_json::to_value(check).unwrap(), check.as_str());
        }
    }
}
