//! A user's life: carries out what [`crate::user`] decides, and writes down what was heard.

use std::sync::Arc;
use std::time::Duration;

use coupon_domain::ClaimId;
use futures_util::future::{Either, select};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::answers::{self, Asked, Pressed, Said};
use crate::behaviour::{Behaviour, Manner, Shares};
use crate::client::{Client, Sender};
use crate::connections::Share;
use crate::listening::{Listening, Next};
use crate::progress::Progress;
use crate::story::{Channel, Story, ToldAt, WordKind};
use crate::task;
use crate::user::{Ending, Step, User, better, is_decisive, is_stale};

/// A client that loses its answer goes away this long after it sent the request, at most.
const ABORT_AFTER_MAX: Duration = Duration::from_millis(20);
/// Longest wait for the code of a granted coupon: a little more than the notifier itself waits for PostgreSQL.
const CODE_WAIT_MAX: Duration = Duration::from_secs(6);
/// How often a winner looks whether the code is there.
const CODE_INTERVAL: Duration = Duration::from_millis(200);
/// Longest wait for the end of a stream that has nothing more to say.
const END_WAIT_MAX: Duration = Duration::from_secs(2);

/// What all users of a crowd share.
pub(crate) struct Scene {
    pub(crate) client: Client,
    /// One per user.
    pub(crate) senders: Vec<Sender>,
    pub(crate) behaviours: Shares,
    pub(crate) seed: u64,
    /// When the coupon opens, by our clock.
    pub(crate) opens_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) presses: Share,
    pub(crate) streams: Share,
    pub(crate) asks: Share,
    pub(crate) progress: Arc<Progress>,
}

/// One press that was answered (or given up), and when.
struct Answered {
    answer: Pressed,
    at: Instant,
    /// It had to wait for a connection of ours.
    waited: bool,
}

struct Life {
    scene: Arc<Scene>,
    number: u32,
    user: User,
    story: Story,
    random: SmallRng,
    arrival: Instant,
    /// The intended moment of the last press.
    pressed_at: Instant,
    /// When the last answer was heard, and how.
    heard: (Instant, Channel),
    gateway: usize,
    notifier: usize,
    /// The other half of a double click.
    straggler: Option<JoinHandle<Answered>>,
    /// A stream that may still say the coupon's code.
    listening: Option<Listening>,
    last_event_id: Option<String>,
}

/// Lives through one user's stampede, from the arrival (which is now or was a moment ago).
pub(crate) async fn live(scene: Arc<Scene>, number: u32, arrival: Instant) -> Story {
    let mut life = Life::new(scene, number, arrival);
    life.story.late = arrival.elapsed();
    life.scene.progress.count_arrival();
    let deadline = life.scene.deadline;
    let ending = match timeout_at(deadline, life.run()).await {
        Ok(ending) => ending,
        Err(_) => Ending::Unresolved(format!("{} when the deadline came", life.user.doing())),
    };
    life.end(ending);
    life.look_back().await;
    life.story
}

impl Life {
    fn new(scene: Arc<Scene>, number: u32, arrival: Instant) -> Self {
        let mut random = SmallRng::seed_from_u64(scene.seed.wrapping_add(number.into()));
        let behaviour = Behaviour::draw(scene.behaviours, &mut random);
        let place = usize::try_from(number).unwrap_or(0);
        Self {
            user: User::new(behaviour, SmallRng::from_rng(&mut random)),
            story: Story::new(number),
            random,
            arrival,
            pressed_at: arrival,
            heard: (arrival, Channel::Press),
            gateway: place,
            notifier: place,
            straggler: None,
            listening: None,
            last_event_id: None,
            scene,
            number,
        }
    }

    async fn run(&mut self) -> Ending {
        let mut step = self.user.begin();
        loop {
            step = match step {
                Step::Press { after, manner } => {
                    self.pressed_at = self.due(after);
                    self.story.again += u32::from(!self.story.presses.is_empty());
                    wait_until(self.pressed_at).await;
                    let answer = self.press(manner).await;
                    if matches!(answer, Pressed::Lost | Pressed::Busy(_)) {
                        self.gateway = self.gateway.wrapping_add(1);
                    }
                    let looks = matches!(&answer, Pressed::Refused(refused) if refused.advisory && !refused.is_deferral());
                    self.story.follow.advisory_looks += u32::from(looks);
                    self.user.pressed(answer, self.until_open())
                }
                Step::Stream { after } => {
                    wait_until(self.due(after)).await;
                    let answer = self.stream().await;
                    self.hear(answer)
                }
                Step::Ask { after, patient } => {
                    wait_until(self.due(after)).await;
                    let answer = self.ask(patient).await;
                    self.hear(answer)
                }
                Step::End(ending) => return ending,
            }
        }
    }

    /// The first press is due at the arrival; whatever follows, a while after the user decides on it.
    fn due(&self, after: Duration) -> Instant {
        if self.story.presses.is_empty() { self.arrival } else { Instant::now() + after }
    }

    fn until_open(&self) -> Duration {
        self.scene.opens_at.saturating_duration_since(Instant::now())
    }

    async fn press(&mut self, manner: Manner) -> Pressed {
        match manner {
            Manner::Single => {
                let answered = self.one_press(self.gateway).await;
                self.hear_press(answered)
            }
            Manner::Double => self.double_click().await,
            Manner::LosingTheAnswer => self.lose_the_answer().await,
        }
    }

    fn one_press(&self, gateway: usize) -> impl Future<Output = Answered> + Send + use<> {
        press(Arc::clone(&self.scene), self.number, gateway)
    }

    fn hear_press(&mut self, answered: Answered) -> Pressed {
        let Answered { answer, at, waited } = answered;
        self.story.hear_press(&answer, at.saturating_duration_since(self.pressed_at));
        self.story.follow.connection_waits += u32::from(waited);
        self.heard = (at, Channel::Press);
        answer
    }

    /// Presses twice at once, with a second gateway where there is one, and goes on with the first answer that leads on.
    async fn double_click(&mut self) -> Pressed {
        let one = task::spawn(self.one_press(self.gateway));
        let other = task::spawn(self.one_press(self.gateway.wrapping_add(1)));
        let (first, left) = match select(one, other).await {
            Either::Left((first, left)) | Either::Right((first, left)) => (first, left),
        };
        let first = self.hear_press(whole(first));
        if is_decisive(&first) {
            self.straggler = Some(left);
            return first;
        }
        let second = self.hear_press(whole(left.await));
        better(first, second)
    }

    /// Presses, and goes away before or after the answer, without having read it.
    async fn lose_the_answer(&mut self) -> Pressed {
        let gone = Instant::now() + self.random.random_range(Duration::from_millis(1)..=ABORT_AFTER_MAX);
        let answered = timeout_at(gone, self.one_press(self.gateway)).await;
        // The user has not seen it, but it must be right all the same.
        let claim_id = answered.ok().and_then(|answered| match answered.answer {
            Pressed::Accepted(accepted) => Some(accepted.claim_id),
            Pressed::Decided(answer) => Some(answer.claim_id),
            Pressed::Refused(refused) => refused.claim_id,
            Pressed::Busy(busy) => busy.claim_id,
            Pressed::Lost | Pressed::Wrong(_) => None,
        });
        self.story.hear_nothing(self.pressed_at.elapsed(), claim_id);
        Pressed::Lost
    }

    /// Takes in what following has brought.
    fn hear(&mut self, answer: Asked) -> Step {
        self.story.hear_look(&answer);
        if matches!(answer, Asked::Broken(_) | Asked::Busy(_)) {
            self.notifier = self.notifier.wrapping_add(1);
        }
        if let Asked::Answer(answer) = &answer
            && matches!(answer.said, Said::Deferred(_))
        {
            let stale = is_stale(answer.decided_offset, self.user.ticket());
            self.story.follow.stale_deferrals += u32::from(stale);
            self.story.follow.deferred += u32::from(!stale);
        }
        self.user.asked(answer, self.until_open())
    }

    /// Follows the claim's events until it is decided.
    async fn stream(&mut self) -> Asked {
        let Some(place) = self.scene.streams.try_take() else {
            self.story.follow.streams_denied += 1;
            return self.ask(true).await;
        };
        let (Some(claim_id), Some(token)) = (self.user.claim_id(), self.user.stream_token()) else {
            return Asked::NoStream;
        };
        let last_id = self.last_event_id.as_deref();
        let response = match self.scene.client.listen(&claim_id, token, last_id, self.notifier).await {
            Ok(response) => response,
            Err(instead) => return instead,
        };
        self.story.follow.streams += 1;
        let mut listening = Listening::new(response, place);
        loop {
            match listening.next().await {
                Next::Event(event) if event.name == "decided" => {
                    self.heard = (Instant::now(), Channel::Stream);
                    let told = answers::told(event.data.as_bytes());
                    if matches!(&told, Asked::Answer(answer) if answer.said == Said::Granted) {
                        self.listening = Some(listening);
                    } else {
                        listening.rest(END_WAIT_MAX, drop).await;
                    }
                    return told;
                }
                Next::Event(_) => {}
                Next::End | Next::Broken => {
                    self.last_event_id = listening.last_id().map(str::to_owned);
                    self.story.follow.reconnects += 1;
                    return Asked::Broken(listening.retry());
                }
            }
        }
    }

    /// Asks for the claim.
    async fn ask(&mut self, patient: bool) -> Asked {
        let Some(claim_id) = self.user.claim_id() else {
            return Asked::Wrong("there is no claim to ask for".to_owned());
        };
        let place = match self.scene.asks.try_take() {
            Some(place) => Some(place),
            None => {
                self.story.follow.connection_waits += 1;
                self.scene.asks.take().await
            }
        };
        let answer = self.get(&claim_id, patient).await;
        drop(place);
        self.heard = (Instant::now(), Channel::Ask);
        answer
    }

    async fn get(&mut self, claim_id: &ClaimId, patient: bool) -> Asked {
        self.story.follow.asks += 1;
        match usize::try_from(self.number).ok().and_then(|place| self.scene.senders.get(place)) {
            Some(sender) => self.scene.client.ask(sender, claim_id, patient, self.notifier).await,
            None => Asked::Wrong("a user without a token".to_owned()),
        }
    }

    fn end(&mut self, ending: Ending) {
        let (at, by) = self.heard;
        let told = ToldAt {
            by,
            at,
            after_press: at.saturating_duration_since(self.pressed_at),
            after_arrival: at.saturating_duration_since(self.arrival),
        };
        match &ending {
            Ending::Granted(_) => self.scene.progress.count_granted(),
            Ending::Refused(_) => self.scene.progress.count_refused(),
            Ending::Unresolved(_) => self.scene.progress.count_unresolved(),
        }
        self.story.told = (!matches!(ending, Ending::Unresolved(_))).then_some(told);
        self.story.ending = ending;
    }

    /// Collects what a told user no longer waits for: the coupon's code, and the answer to the other click.
    async fn look_back(&mut self) {
        if let Some(listening) = self.listening.take() {
            let coupon_code = &mut self.story.coupon_code;
            let each = |event: crate::event_stream::Event| {
                if event.name == "persisted" {
                    *coupon_code = answers::persisted(&event.data).or(coupon_code.take());
                }
            };
            listening.rest(CODE_WAIT_MAX, each).await;
        }
        if let Some(straggler) = self.straggler.take() {
            let Answered { answer, at, .. } = whole(straggler.await);
            // Only the first press is ever a double click.
            self.story.hear_press(&answer, at.saturating_duration_since(self.arrival));
        }
        if let Ending::Granted(claim_id) = self.story.ending {
            self.fetch_code(&claim_id).await;
        }
        self.correct();
    }

    /// Asks until the coupon's code is shown: it is there as soon as PostgreSQL has the coupon, a moment after the grant.
    async fn fetch_code(&mut self, claim_id: &ClaimId) {
        let give_up = Instant::now() + CODE_WAIT_MAX;
        while self.story.coupon_code.is_none() && Instant::now() < give_up {
            let place = self.scene.asks.take().await;
            let answer = self.get(claim_id, false).await;
            drop(place);
            self.story.hear_look(&answer);
            if self.story.coupon_code.is_none() {
                sleep(CODE_INTERVAL).await;
            }
        }
    }

    /// A grant of another round that came with the other click is a grant all the same.
    fn correct(&mut self) {
        let granted = self.story.words.iter().find(|word| word.kind == WordKind::Final(None));
        if let (Ending::Refused(_), Some(word)) = (&self.story.ending, granted) {
            self.story.ending = Ending::Granted(word.claim_id);
        }
    }
}

/// Sleeping has a grain of a millisecond: what is due is not slept for.
async fn wait_until(moment: Instant) {
    if moment > Instant::now() {
        sleep_until(moment).await;
    }
}

/// One press, as soon as there is a connection for it.
async fn press(scene: Arc<Scene>, number: u32, gateway: usize) -> Answered {
    let free = scene.presses.try_take();
    let waited = free.is_none();
    let _place = match free {
        Some(place) => Some(place),
        None => scene.presses.take().await,
    };
    let answer = match usize::try_from(number).ok().and_then(|place| scene.senders.get(place)) {
        Some(sender) => scene.client.press(sender, gateway).await,
        None => Pressed::Wrong("a user without a token".to_owned()),
    };
    Answered { answer, at: Instant::now(), waited }
}

fn whole(answered: Result<Answered, JoinError>) -> Answered {
    answered.unwrap_or_else(|error| Answered {
        answer: Pressed::Wrong(format!("a press of ours broke: {error}")),
        at: Instant::now(),
        waited: false,
    })
}
