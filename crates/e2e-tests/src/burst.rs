//! A burst of users that goes on while something is done to the system. Each presses until they are told something, and then asks until the log has
//! answered: like real clients, they try again after a refused connection, a 503 or a broken answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use reqwest::StatusCode;
use tokio::task::JoinHandle;

use crate::user::User;
use crate::waiting::GENEROUS;
use crate::world::World;

/// A running burst.
pub struct Burst {
    arrivals: JoinHandle<Result<Vec<JoinHandle<Result<Told>>>>>,
    accepted: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

/// Most users of one burst: a scenario that hangs must not go on for ever.
const USERS_MAX: usize = 10_000;

/// What a user was told in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Who.
    pub user: String,
    /// The claim, where there was a 202 or a decision.
    pub claim_id: Option<String>,
    /// The last word.
    pub code: String,
}

impl Burst {
    /// Lets users press, `per_second` of them each second, until [`Burst::end`].
    ///
    /// # Errors
    /// There is no gateway.
    #[expect(clippy::disallowed_methods, reason = "users are tasks of the test; their results are joined")]
    pub fn start(world: &World, coupon_id: &str, per_second: u32) -> Result<Self> {
        let (accepted, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let template = world.user("burst")?;
        let mint = world.user_mint();
        let (coupon_id, counter, stopped) = (coupon_id.to_owned(), Arc::clone(&accepted), Arc::clone(&over));
        let arrivals = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(1) / per_second);
            let mut users = Vec::new();
            while !stopped.load(Ordering::Relaxed) && users.len() < USERS_MAX {
                every.tick().await;
                let user = template.as_somebody_else(&mint, &format!("burst-{}", users.len()))?;
                let (coupon_id, counter) = (coupon_id.clone(), Arc::clone(&counter));
                users.push(tokio::spawn(async move { take_part(&user, &coupon_id, &counter).await }));
            }
            Ok(users)
        });
        Ok(Self { arrivals, accepted, over })
    }

    /// How many 202s there were so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until there were at least so many 202s.
    ///
    /// # Errors
    /// There were not, after a while.
    pub async fn wait_for_accepted(&self, least: usize) -> Result<()> {
        crate::eventually("enough claims are accepted", async || Ok((self.accepted() >= least).then_some(())))
            .await
    }

    /// Lets nobody else arrive, and waits for everybody to be told.
    ///
    /// # Errors
    /// Somebody was not.
    pub async fn end(self) -> Result<Vec<Told>> {
        self.over.store(true, Ordering::Relaxed);
        let users = self.arrivals.await??;
        let mut told = Vec::with_capacity(users.len());
        for user in users {
            told.push(user.await??);
        }
        Ok(told)
    }
}

async fn take_part(user: &User, coupon_id: &str, accepted: &AtomicUsize) -> Result<Told> {
    let deadline = Instant::now() + GENEROUS;
    let told = |claim_id: Option<&str>, code: &str| Told {
        user: user.name.clone(),
        claim_id: claim_id.map(str::to_owned),
        code: code.to_owned(),
    };
    while Instant::now() < deadline {
        match user.press(coupon_id).await {
            Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                accepted.fetch_add(1, Ordering::Relaxed);
                let claim_id = answer.text("claim_id").to_owned();
                let code = await_answer(user, &claim_id, deadline).await?;
                return Ok(told(Some(&claim_id), &code));
            }
            Ok(answer) if answer.status == StatusCode::OK => {
                return Ok(told(Some(answer.text("claim_id")), answer.code()));
            }
            Ok(answer) if answer.status.is_client_error() => return Ok(told(None, answer.code())),
            // 503, or no answer at all: press again.
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    bail!("{} was never told anything", user.name)
}

async fn await_answer(user: &User, claim_id: &str, deadline: Instant) -> Result<String> {
    let path = format!("/v1/claims/{claim_id}");
    while Instant::now() < deadline {
        match user.notifier.get(&path, &[("Prefer", "wait=5")]).await {
            // An earlier press of theirs may have got in as a record that cannot be read: not the one that was accepted.
            Ok(answer) if answer.code() == "invalid" => {}
            // A notifier that ends, or has just begun, is asked more often than one user may.
            Ok(answer) if answer.code() == "rate_limited" => {}
            Ok(answer) if answer.status == StatusCode::OK && !answer.code().is_empty() => {
                return Ok(answer.code().to_owned());
            }
            Ok(answer) => ensure!(!answer.status.is_client_error(), "{} was answered {answer:?}", user.name),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{} was promised an answer to {claim_id} and got none", user.name)
}
