//! How many answers one user waits for at once. Users are counted by 64-bit hashes with a random seed.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use coupon_domain::UserId;
use infrastructure_http::{Code, Problem};
use parking_lot::Mutex;
use prometheus::IntCounter;

/// The users who wait, and for how many answers.
#[derive(Clone)]
pub(crate) struct PerUser(Arc<State>);

struct State {
    waiting: Mutex<HashMap<u64, u32>>,
    hasher: foldhash::quality::RandomState,
    most: u32,
    hits: IntCounter,
}

/// A place among those that a user may take; given back when dropped.
pub(crate) struct UserPlace {
    users: PerUser,
    user: u64,
}

impl PerUser {
    /// Nobody waits.
    pub(crate) fn new(most: u32, hits: IntCounter) -> Self {
        let state = State {
            waiting: Mutex::default(),
            hasher: foldhash::quality::RandomState::default(),
            most,
            hits,
        };
        Self(Arc::new(state))
    }

    /// A place for one more answer that this user waits for.
    ///
    /// # Errors
    /// 429: they wait for as many as one user may.
    pub(crate) fn take(&self, user_id: &UserId) -> Result<UserPlace, Problem> {
        let user = self.0.hasher.hash_one(user_id);
        let mut waiting = self.0.waiting.lock();
        let count = waiting.entry(user).or_default();
        if *count >= self.0.most {
            self.0.hits.inc();
            let detail = format!(
                "{} answers are waited for with this token; one user waits for no more at once",
                self.0.most
            );
            return Err(Problem::new(Code::RateLimited, detail));
        }
        *count += 1;
        Ok(UserPlace { users: self.clone(), user })
    }
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        let mut waiting = self.users.0.waiting.lock();
        if let Some(count) = waiting.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_waits_for_so_many_answers_and_for_more_once_some_are_given() {
        let users = PerUser::new(2, IntCounter::new("hits", "so many").unwrap());
        let (ann, bob): (UserId, UserId) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let (first, second) = (users.take(&ann).unwrap(), users.take(&ann).unwrap());
        assert_eq!(users.take(&ann).err().unwrap().code(), Code::RateLimited);
        assert_eq!(users.0.hits.get(), 1);
        assert!(users.take(&bob).is_ok());
        drop(first);
        drop((users.take(&ann).unwrap(), second));
        assert!(users.0.waiting.lock().is_empty(), "nobody is remembered who does not wait");
    }
}
