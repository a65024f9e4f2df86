//! Users who press the button as fast as they are answered: connections that are kept, one request at a time on each, all on one thread. It
//! costs about as little as a client can, and is the same for everything that it measures.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::figure::per_second;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 32;

/// What is pressed, by whom, for how long.
pub(crate) struct Presses {
    pub(crate) address: SocketAddr,
    pub(crate) coupon_id: String,
    pub(crate) connections: u32,
    /// Each user's token.
    pub(crate) tokens: Arc<[String]>,
    pub(crate) until: Until,
}

/// When it is over.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// After the warm-up and the window, of which only the latter counts; or when each user has pressed once.
    OncePerUser { warm_up: Duration, window: Duration },
    /// The same, but users press again and again.
    TimeIsUp { warm_up: Duration, window: Duration },
    /// When each user has pressed once, however long it takes; everything counts.
    AllHavePressed,
}

/// What came of it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pressed {
    /// Answers by status, of the time that counts.
    pub(crate) answers: BTreeMap<u16, u64>,
    /// The time that counts.
    pub(crate) time: Duration,
}

impl Pressed {
    /// Answers per second, which must all have this status.
    pub(crate) fn rate_of(&self, status: u16) -> Result<f64> {
        let count = self.answers.get(&status).copied().unwrap_or(0);
        ensure!(
            count > 0 && self.answers.len() == 1,
            "every answer should have been {status}, but by status there were {:?}",
            self.answers
        );
        Ok(per_second(count, self.time))
    }
}

impl Presses {
    /// Presses, on a thread of its own.
    pub(crate) async fn run(self) -> Result<Pressed> {
        let pressing = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let scene = Rc::new(Scene::new(&self.coupon_id, self.tokens, self.until));
            LocalSet::new().block_on(&runtime, press(self.address, self.connections, &scene))
        });
        pressing.await?
    }
}

/// What the connections of one thread share.
struct Scene {
    head: String,
    tokens: Arc<[String]>,
    until: Until,
    next: Cell<usize>,
    answers: RefCell<BTreeMap<u16, u64>>,
    before: RefCell<BTreeMap<u16, u64>>,
    began: Cell<Instant>,
    ended: Cell<Option<Instant>>,
}

impl Scene {
    fn new(coupon_id: &str, tokens: Arc<[String]>, until: Until) -> Self {
        Self {
            head: format!(
                "POST /v1/coupons/{coupon_id}/claims HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            ),
            tokens,
            until,
            next: Cell::new(0),
            answers: RefCell::default(),
            before: RefCell::default(),
            began: Cell::new(Instant::now()),
            ended: Cell::new(None),
        }
    }

    /// The next user, unless it is over.
    fn next_token(&self) -> Option<&str> {
        if self.ended.get().is_some() {
            return None;
        }
        let number = self.next.replace(self.next.get() + 1);
        let number = match self.until {
            Until::TimeIsUp { .. } => number.checked_rem(self.tokens.len())?,
            Until::OncePerUser { .. } | Until::AllHavePressed => number,
        };
        let token = self.tokens.get(number);
        if token.is_none() && !matches!(self.until, Until::AllHavePressed) {
            self.end();
        }
        token.map(String::as_str)
    }

    fn answered(&self, status: u16) {
        if self.ended.get().is_none() {
            *self.answers.borrow_mut().entry(status).or_default() += 1;
        }
    }

    fn begin(&self) {
        self.before.replace(self.answers.borrow().clone());
        self.began.set(Instant::now());
    }

    fn end(&self) {
        if self.ended.get().is_none() {
            self.ended.set(Some(Instant::now()));
        }
    }

    async fn keep_time(&self) {
        match self.until {
            Until::AllHavePressed => {}
            Until::OncePerUser { warm_up, window } | Until::TimeIsUp { warm_up, window } => {
                tokio::time::sleep(warm_up).await;
                self.begin();
                tokio::time::sleep(window).await;
                self.end();
            }
        }
    }

    fn pressed(&self) -> Result<Pressed> {
        let ended = self.ended.get().context("nobody said that it is over")?;
        let mut answers = self.answers.borrow().clone();
        for (status, before) in &*self.before.borrow() {
            if let Some(count) = answers.get_mut(status) {
                *count -= before;
            }
        }
        answers.retain(|_, count| *count > 0);
        Ok(Pressed { answers, time: ended.saturating_duration_since(self.began.get()) })
    }
}

async fn press(address: SocketAddr, connections: u32, scene: &Rc<Scene>) -> Result<Pressed> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let mut users = JoinSet::new();
    scene.began.set(Instant::now());
    for stream in streams {
        let scene = Rc::clone(scene);
        users.spawn_local(async move { use_connection(stream, &scene).await });
    }
    let all = async {
        while let Some(user) = users.join_next().await {
            user??;
        }
        anyhow::Ok(())
    };
    let clock = async {
        scene.keep_time().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = all => ended?,
        () = clock => {}
    }
    scene.end();
    scene.pressed()
}

/// One user after the other presses on this connection.
async fn use_connection(mut stream: TcpStream, scene: &Scene) -> Result<()> {
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    while let Some(token) = scene.next_token() {
        request.clear();
        request.extend_from_slice(scene.head.as_bytes());
        request.extend_from_slice(token.as_bytes());
        request.extend_from_slice(b"\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(&request).await?;
        let status = read_answer(&mut stream, &mut answer).await?;
        scene.answered(status);
    }
    Ok(())
}

/// Reads one answer to its end and tells its status.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<u16> {
    answer.clear();
    let mut expected = None;
    loop {
        let read = stream.read_buf(answer).await?;
        ensure!(read > 0, "the server hung up in the middle of an answer");
        ensure!(answer.len() <= ANSWER_BYTES_MAX, "an answer of more than {ANSWER_BYTES_MAX} bytes");
        if expected.is_none() {
            expected = parse_head(answer)?;
        }
        match expected {
            Some((status, length)) if answer.len() == length => return Ok(status),
            Some((_, length)) => ensure!(answer.len() < length, "more than one answer to a request"),
            None => {}
        }
    }
}

/// The status, and the length of head and body; none where the head is not there yet.
fn parse_head(answer: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(answer)? else { return Ok(None) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let Some(length) = length else { bail!("an answer without a length") };
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    let status = response.code.context("an answer without a status")?;
    Ok(Some((status, head + length)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every request with the number of the user in its token as the status.
    async fn serve(listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(tokio::runtime::Handle::current().spawn(async move {
                let mut bytes = Vec::new();
                while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                    if bytes.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8(std::mem::take(&mut bytes)).unwrap();
                        let token = text.split("Bearer ").nth(1).unwrap().lines().next().unwrap();
                        let answer = format!("HTTP/1.1 {token} X\r\ncontent-length: 2\r\n\r\nok");
                        let (first, rest) = answer.as_bytes().split_at(11);
                        stream.write_all(first).await.unwrap();
                        stream.write_all(rest).await.unwrap();
                    }
                }
            }));
        }
    }

    async fn presses(tokens: &[&str], until: Until) -> Pressed {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let presses = Presses {
            address: listener.local_addr().unwrap(),
            coupon_id: "c".to_owned(),
            connections: 3,
            tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
            until,
        };
        tokio::select! {
            pressed = presses.run() => pressed.unwrap(),
            () = serve(listener) => unreachable!(),
        }
    }

    #[tokio::test]
    async fn each_user_presses_once_and_answers_are_told_apart() {
        let pressed = presses(&["202", "202", "409", "202", "503"], Until::AllHavePressed).await;
        assert_eq!(pressed.answers, BTreeMap::from([(202, 3), (409, 1), (503, 1)]));
        assert!(pressed.rate_of(202).is_err(), "a figure of other answers would mean nothing");
    }

    #[tokio::test]
    async fn what_is_answered_before_or_after_the_window_does_not_count() {
        let [warm_up, window] = [50, 100].map(Duration::from_millis);
        let pressed = presses(&["200"], Until::TimeIsUp { warm_up, window }).await;
        assert!(pressed.time >= window && pressed.time < 10 * window, "{pressed:?}");
        assert!(pressed.rate_of(200).unwrap() > 0.0);
        let nobody_is_left =
            presses(&["200"; 50], Until::OncePerUser { warm_up: Duration::ZERO, window: 600 * window });
        assert!(nobody_is_left.await.time < 300 * window);
    }
}
