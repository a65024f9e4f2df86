//! A crowd: prepared, let loose, told, and checked.

use std::sync::Arc;
use std::time::Duration;

use coupon_domain::CouponId;
use infrastructure_http::TokenMint;
use infrastructure_http::time::from_rfc3339;
use reqwest::header::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::answers::CouponView;
use crate::arrivals::Arrivals;
use crate::behaviour::Shares;
use crate::client::{Client, Sender, Target};
use crate::clock::Clock;
use crate::connections::{Budget, OpenFiles, Share};
use crate::life::{Scene, live};
use crate::progress::Progress;
use crate::report::Report;
use crate::story::Story;
use crate::tally::{Expect, Tally, agrees, at_end, rate};

/// From the last preparation to the first arrival.
const HEAD_START: Duration = Duration::from_millis(100);
/// How long a gateway may take to know the coupon, and at the end to know its counter.
const SETTLE_MAX: Duration = Duration::from_secs(10);
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);
/// Tokens outlive the crowd's deadline by this much.
const TOKEN_SPARE_MS: i64 = 3_600_000;

/// A crowd of users of one coupon.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// Where the services are.
    pub target: Target,
    /// What is claimed.
    pub coupon_id: CouponId,
    /// How many users.
    pub users: u32,
    /// All arrive within this time.
    pub within: Duration,
    /// How they are spread over it.
    pub arrivals: Arrivals,
    /// The share of users who press twice at once, 0 to 1.
    pub duplicates: f64,
    /// The share of users who lose their first answer and press again, 0 to 1.
    pub retries: f64,
    /// The share of users who follow their claim by events, 0 to 1; the others ask.
    pub sse_share: f64,
    /// From the start; whoever has not been told by then is unresolved.
    pub deadline: Duration,
    /// Most connections at once; none: as many as are needed and the limit of open files allows.
    pub connections_max: Option<u64>,
    /// Users are named `<prefix>-<number>`.
    pub user_prefix: String,
    /// Fixes arrivals, who does what, and every jitter.
    pub seed: u64,
    /// `Some`: the first user arrives this long before the coupon opens (at once, if that is past).
    pub before_opening: Option<Duration>,
    /// All must be issued at the end.
    pub expect_sold_out: bool,
    /// Others claim the same coupon at the same time, or these users have claimed it before: its counter is not theirs alone.
    pub shared: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum CrowdError {
    /// The crowd makes no sense as it is described.
    #[error("{0}")]
    Usage(String),
    /// It could not be let loose.
    #[error("{0}")]
    Failed(String),
}

impl Crowd {
    /// A thousand users within two seconds, as the command line has them, under a name of their own.
    #[must_use]
    pub fn new(target: Target, coupon_id: CouponId) -> Self {
        Self {
            target,
            coupon_id,
            users: 1_000,
            within: Duration::from_secs(2),
            arrivals: Arrivals::Uniform,
            duplicates: 0.10,
            retries: 0.05,
            sse_share: 0.5,
            deadline: Duration::from_secs(120),
            connections_max: None,
            user_prefix: random_prefix(),
            seed: rand::random(),
            before_opening: None,
            expect_sold_out: false,
            shared: false,
        }
    }

    /// Lets the crowd loose and waits until everybody was told or the deadline has passed. Dropping the future sends everybody home.
    ///
    /// # Errors
    /// [`CrowdError`]: it never started. Whatever goes wrong later stands in the report.
    pub async fn run(&self, progress: &Arc<Progress>) -> Result<Report, CrowdError> {
        self.check()?;
        let mut notes = Vec::new();
        let budget = self.budget(&mut notes)?;
        let client = Client::new(&self.target, self.coupon_id, budget.presses.max(budget.asks))
            .await
            .map_err(CrowdError::Usage)?;
        let clock = Clock::read();
        let mint = TokenMint::new(&self.target.jwt_secret, &self.target.jwt_issuer);
        let before = self.first_look(&client, &self.sender(&mint, &clock, 0, false)?).await?;
        let several = before.per_user_limit > 1;
        let senders = (0..self.users)
            .map(|number| self.sender(&mint, &clock, number, several))
            .collect::<Result<Vec<Sender>, CrowdError>>()?;

        let opening = from_rfc3339(&before.opens_at)
            .map_err(|error| CrowdError::Failed(format!("the coupon's opens_at {error}")))?;
        let opens_at = clock.moment_of(opening);
        let mut start = Instant::now() + HEAD_START;
        if let Some(before_opening) = self.before_opening {
            start = start.max(opens_at.checked_sub(before_opening).unwrap_or(start));
        }
        let deadline = start + self.deadline;
        if opens_at >= deadline {
            return Err(CrowdError::Usage(format!(
                "the coupon opens at {}, after the deadline: nobody could be told",
                before.opens_at
            )));
        }
        progress.begin(self.users.into());
        let scene = Arc::new(Scene {
            client,
            senders,
            behaviours: self.shares(),
            seed: self.seed,
            opens_at,
            deadline,
            presses: Share::new(budget.presses),
            streams: Share::new(budget.streams),
            asks: Share::new(budget.asks),
            progress: Arc::clone(progress),
        });
        let told = self.let_loose(&scene, start).await;
        Ok(self.report(&scene, told, &before, notes).await)
    }

    fn check(&self) -> Result<(), CrowdError> {
        let shares =
            [("duplicates", self.duplicates), ("retries", self.retries), ("sse-share", self.sse_share)];
        let wrong = if self.users == 0 {
            "a crowd has at least one user".to_owned()
        } else if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share))
        {
            format!("{name} is a share between 0 and 1, not {share}")
        } else if self.duplicates + self.retries > 1.0 {
            "duplicates and retries are different users: together at most 1".to_owned()
        } else if self.connections_max == Some(0) {
            "without connections nobody can press".to_owned()
        } else {
            return Ok(());
        };
        Err(CrowdError::Usage(wrong))
    }

    fn shares(&self) -> Shares {
        Shares { duplicates: self.duplicates, retries: self.retries, streams: self.sse_share }
    }

    /// The connections that there may be, within the limit of open files.
    fn budget(&self, notes: &mut Vec<String>) -> Result<Budget, CrowdError> {
        let needed = Budget::wanted(self.users, self.duplicates, self.sse_share);
        let wanted = self.connections_max.unwrap_or(u64::MAX).min(needed.total());
        let files = OpenFiles::raise(wanted)
            .map_err(|error| CrowdError::Failed(format!("the limit of open files: {error}")))?;
        notes.extend(files.shortfall());
        let budget = needed.within(wanted.min(files.connections()));
        if budget != needed {
            let Budget { presses, streams, asks } = budget;
            notes.push(format!(
                "connections at once: {presses} for presses, {streams} for streams, {asks} for GETs, where up to {}, {} and {} \
                 might be needed; users without a stream ask by GET",
                needed.presses, needed.streams, needed.asks
            ));
        }
        Ok(budget)
    }

    fn sender(
        &self,
        mint: &TokenMint,
        clock: &Clock,
        number: u32,
        several: bool,
    ) -> Result<Sender, CrowdError> {
        let name = format!("{}-{number}", self.user_prefix);
        let lifetime_ms =
            i64::try_from(self.deadline.as_millis()).unwrap_or(0).saturating_add(TOKEN_SPARE_MS);
        let token = mint
            .mint(&name, &self.target.jwt_audience, None, clock.wall().plus_ms(lifetime_ms))
            .map_err(|error| CrowdError::Usage(format!("tokens cannot be made: {error}")))?;
        let header = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| {
                CrowdError::Usage(format!("the user prefix {:?} fits in no header", self.user_prefix))
            })
        };
        let mut authorization = header(&format!("Bearer {token}"))?;
        authorization.set_sensitive(true);
        let idempotency_key = if several { Some(header(&name)?) } else { None };
        Ok(Sender { authorization, idempotency_key })
    }

    /// The coupon before the start; a gateway may just be hearing of it.
    async fn first_look(&self, client: &Client, sender: &Sender) -> Result<CouponView, CrowdError> {
        let give_up = Instant::now() + SETTLE_MAX;
        loop {
            match client.coupon(sender).await {
                Ok(coupon) => return Ok(coupon),
                Err(error) if Instant::now() >= give_up => return Err(CrowdError::Failed(error)),
                Err(_) => sleep(SETTLE_INTERVAL).await,
            }
        }
    }

    /// Lets everybody arrive in time, and adds their stories up as they end.
    async fn let_loose(&self, scene: &Arc<Scene>, start: Instant) -> Told {
        let mut arrivals = self.arrivals.offsets(self.users, self.within, self.seed);
        let mut next_arrival = || arrivals.next().map(|offset| start + offset);
        let mut told =
            Told { tally: Tally::default(), broken: 0, arriving: Duration::ZERO, telling: Duration::ZERO };
        let mut users = JoinSet::new();
        let mut next = next_arrival();
        let mut number = 0;
        while next.is_some() || !users.is_empty() {
            tokio::select! {
                () = sleep_until(next.unwrap_or(start)), if next.is_some() => {
                    let now = Instant::now();
                    told.arriving = now.saturating_duration_since(start);
                    while let Some(arrival) = next.filter(|arrival| *arrival <= now) {
                        users.spawn(live(Arc::clone(scene), number, arrival));
                        number += 1;
                        next = next_arrival();
                    }
                }
                Some(ended) = users.join_next() => told.take(ended.ok(), start),
            }
        }
        told
    }

    async fn report(&self, scene: &Scene, told: Told, before: &CouponView, mut notes: Vec<String>) -> Report {
        let Told { mut tally, broken, arriving, telling } = told;
        let mut unchecked = Vec::new();
        if broken > 0 {
            unchecked.push(format!("{broken} users: their tasks panicked"));
        }
        let expect = Expect { sold_out: self.expect_sold_out, alone: !self.shared };
        let coupon = match self.last_look(scene, before, tally.granted, expect).await {
            Ok(after) => Some(tally.check_coupon(before, &after, expect)),
            Err(error) => {
                unchecked.push(format!("the coupon's counter: {error}"));
                None
            }
        };
        let denied = tally.followed.streams_denied;
        if denied > 0 {
            notes.push(format!(
                "{denied} times no connection was left for a stream; those users asked by GET"
            ));
        }
        Report {
            coupon_id: self.coupon_id,
            user_prefix: self.user_prefix.clone(),
            seed: self.seed,
            arrivals: self.arrivals,
            users: tally.users,
            arrivals_per_s: rate(tally.users, arriving),
            told_within_s: telling.as_secs_f64(),
            granted: tally.granted,
            refused: std::mem::take(&mut tally.refused),
            unresolved: tally.unresolved,
            pressed: std::mem::take(&mut tally.pressed),
            followed: std::mem::take(&mut tally.followed),
            latencies: tally.latencies(),
            coupon,
            violations: tally.into_violations(),
            unchecked,
            notes,
        }
    }

    /// The coupon after the end, as soon as it agrees; gateways hear of grants a moment later.
    async fn last_look(
        &self,
        scene: &Scene,
        before: &CouponView,
        granted: u64,
        expect: Expect,
    ) -> Result<CouponView, String> {
        let sender = scene.senders.first().ok_or("there are no users")?;
        let give_up = Instant::now() + SETTLE_MAX;
        loop {
            let looked = scene.client.coupon(sender).await;
            let settled = looked.as_ref().is_ok_and(|after| agrees(granted, at_end(before, after), expect));
            if settled || Instant::now() >= give_up {
                return looked;
            }
            sleep(SETTLE_INTERVAL).await;
        }
    }
}

/// What the users had to tell.
struct Told {
    tally: Tally,
    /// Users whose story was lost.
    broken: u64,
    /// From the start to the last arrival, as it really was.
    arriving: Duration,
    /// From the start until the last user was told.
    telling: Duration,
}

impl Told {
    fn take(&mut self, story: Option<Story>, start: Instant) {
        let Some(story) = story else {
            self.broken += 1;
            return;
        };
        if let Some(told) = story.told {
            self.telling = self.telling.max(told.at.saturating_duration_since(start));
        }
        self.tally.take(story);
    }
}

/// A name that no crowd before had.
pub(crate) fn random_prefix() -> String {
    format!("crowd-{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd() -> Crowd {
        let target = Target {
            api_urls: vec!["http://127.0.0.1:1".to_owned()],
            notifier_urls: vec!["http://127.0.0.1:1".to_owned()],
            jwt_secret: "secret".to_owned(),
            jwt_issuer: "firstcome".to_owned(),
            jwt_audience: "firstcome".to_owned(),
        };
        Crowd::new(target, format!("c0-{}", "1".repeat(32)).parse().unwrap())
    }

    #[test]
    fn a_crowd_that_makes_no_sense_is_refused() {
        assert!(crowd().check().is_ok());
        for wrong in [
            Crowd { users: 0, ..crowd() },
            Crowd { duplicates: 1.1, ..crowd() },
            Crowd { sse_share: f64::NAN, ..crowd() },
            Crowd { duplicates: 0.6, retries: 0.6, ..crowd() },
            Crowd { connections_max: Some(0), ..crowd() },
        ] {
            assert!(matches!(wrong.check(), Err(CrowdError::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_named_limit_is_kept_and_named() {
        let mut notes = Vec::new();
        let crowd = Crowd { connections_max: Some(100), ..crowd() };
        let budget = crowd.budget(&mut notes).unwrap();
        assert!(budget.total() <= 100, "{budget:?}");
        assert!(notes.iter().any(|note| note.contains("50 for streams")), "{notes:?}");
    }

    #[test]
    fn two_crowds_are_different_people() {
        assert_ne!(crowd().user_prefix, crowd().user_prefix);
    }
}
