//! What kind of user somebody is: drawn once, the same for the same seed.

use rand::RngExt;
use rand::rngs::SmallRng;

/// How the button is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Once.
    Single,
    /// Twice at once: a double click.
    Double,
    /// Once, but the answer gets lost on its way.
    LosingTheAnswer,
}

/// How large a share of the users does what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// Press twice at once.
    pub(crate) duplicates: f64,
    /// Lose the first answer.
    pub(crate) retries: f64,
    /// Follow their claim by its events; the others ask.
    pub(crate) streams: f64,
}

/// What one user is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behaviour {
    /// The first press.
    pub(crate) first_press: Manner,
    /// Follows by events.
    pub(crate) streams: bool,
}

impl Behaviour {
    /// Draws one.
    pub(crate) fn draw(shares: Shares, random: &mut SmallRng) -> Self {
        let lot: f64 = random.random();
        let first_press = if lot < shares.duplicates {
            Manner::Double
        } else if lot < shares.duplicates + shares.retries {
            Manner::LosingTheAnswer
        } else {
            Manner::Single
        };
        Self { first_press, streams: random.random::<f64>() < shares.streams }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn shares_are_kept_among_many() {
        let mut random = SmallRng::seed_from_u64(1);
        let shares = Shares { duplicates: 0.10, retries: 0.05, streams: 0.5 };
        let all: Vec<Behaviour> = (0..10_000).map(|_| Behaviour::draw(shares, &mut random)).collect();
        let count = |is: &dyn Fn(&Behaviour) -> bool| all.iter().filter(|behaviour| is(behaviour)).count();
        assert!(count(&|one| one.first_press == Manner::Double).abs_diff(1_000) < 150);
        assert!(count(&|one| one.first_press == Manner::LosingTheAnswer).abs_diff(500) < 100);
        assert!(count(&|one| one.streams).abs_diff(5_000) < 250);
    }

    #[test]
    fn a_share_of_one_is_everybody() {
        let mut random = SmallRng::seed_from_u64(1);
        let shares = Shares { duplicates: 1.0, retries: 0.0, streams: 1.0 };
        let everybody = Behaviour { first_press: Manner::Double, streams: true };
        assert!((0..100).all(|_| Behaviour::draw(shares, &mut random) == everybody));
    }
}
