//! The brake: a flood of records that cannot be read is a bug upstream, not dirt. The line halts rather than drain it into the dead-letter queue,
//! where each would have to be put back by hand.

/// Records over which the share of unreadable ones is taken.
const WINDOW_RECORDS: u32 = 1_000;

/// Counts unreadable records in a line.
#[derive(Clone, Debug)]
pub struct Brake {
    consecutive_max: u32,
    percent_max: u32,
    consecutive: u32,
    records: u32,
    unreadable: u32,
}

impl Brake {
    /// A brake that is pulled by more than `consecutive_max` unreadable records in a row, or by more than `percent_max` of them among a
    /// thousand.
    #[must_use]
    pub fn new(consecutive_max: u32, percent_max: u32) -> Self {
        Self { consecutive_max, percent_max, consecutive: 0, records: 0, unreadable: 0 }
    }

    /// Takes the next record of the line; true where the line must halt before it.
    pub fn is_pulled_by(&mut self, is_readable: bool) -> bool {
        if is_readable {
            self.consecutive = 0;
        } else {
            self.consecutive += 1;
            self.unreadable += 1;
        }
        self.records += 1;
        let too_many = self.unreadable.saturating_mul(100) > self.percent_max.saturating_mul(WINDOW_RECORDS);
        if self.records == WINDOW_RECORDS {
            (self.records, self.unreadable) = (0, 0);
        }
        self.consecutive > self.consecutive_max || too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirt_passes_and_a_run_does_not() {
        let mut brake = Brake::new(3, 100);
        for readable in [false, false, false, true, false, false, false] {
            assert!(!brake.is_pulled_by(readable));
        }
        assert!(brake.is_pulled_by(false), "the fourth in a row");
    }

    #[test]
    fn too_large_a_share_pulls_it_though_none_is_in_a_row() {
        let pulled_at = |every: u32| {
            let mut brake = Brake::new(3, 20);
            (1..=5 * WINDOW_RECORDS).find(|number| brake.is_pulled_by(number % every != 0))
        };
        assert_eq!(pulled_at(5), None, "a fifth is what may be");
        assert_eq!(pulled_at(4), Some(4 * 201), "the first one above it");
    }
}
