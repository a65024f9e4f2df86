//! How long a client may take over what it sends, and how old its connection gets.
//!
//! actix-http bounds the first head of a connection alone: on one that is kept, a client could dribble its next head, or any body, a byte a second for
//! ever. So the stream itself knows what it waits for, and ends the connection where that does not come in time. Answers have no limit here: whoever
//! streams bounds its streams.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::rt::net::TcpStream;
use actix_web::rt::time::{Instant, Sleep, sleep_until};
use actix_web::web::Bytes;
use actix_web::{HttpMessage as _, http::StatusCode};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listener::HttpSection;
use crate::problem::{Code, PROBLEM_JSON, Problem};

/// After an answer that did not wait for the request's body, what still comes of it is read, and thrown away, for so long: a connection that is closed
/// while its client sends is reset, and the client might never see the answer.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// The limits of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    head: Duration,
    body: Duration,
    age: Duration,
}

impl Limits {
    pub(crate) fn new(section: &HttpSection) -> Self {
        Self {
            head: Duration::from_millis(section.head_ms_max.into()),
            body: Duration::from_millis(section.body_ms_max.into()),
            age: Duration::from_secs(section.connection_s_max.into()),
        }
    }
}

/// A connection, as its stream and its requests know it. All of them live on one thread.
pub(crate) struct Connection {
    limits: Limits,
    awaits: Cell<Awaits>,
    /// Of what is awaited now, once it had to be waited for.
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
    /// Of the request that is answered now, there is a body that nobody has read to its end.
    body_left: Cell<bool>,
    /// Answers from then on ask to close it.
    old_at: Instant,
}

/// What a connection waits for.
#[derive(Clone, Copy)]
enum Awaits {
    /// The first byte of another request; `keep_alive_s` bounds that.
    Request,
    /// The end of a head, by then.
    HeadBy(Instant),
    /// An answer, and until then the request's body, which has a limit of its own.
    Answer,
    /// What is left of a body that nobody reads, no longer than until then.
    RestBy(Instant),
}

impl Connection {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let [chance, ..] = RandomState::new().hash_one(()).to_le_bytes();
        Self {
            limits,
            // A client that has connected has something to say.
            awaits: Cell::new(Awaits::HeadBy(now + limits.head)),
            timer: RefCell::new(None),
            body_left: Cell::new(false),
            old_at: now + spread(limits.age, chance),
        }
    }

    fn now_awaits(&self, awaits: Awaits) {
        self.awaits.set(awaits);
        self.timer.take();
    }

    /// Bytes have come.
    fn heard(&self) -> io::Result<()> {
        match self.awaits.get() {
            Awaits::Request => {
                self.now_awaits(Awaits::HeadBy(Instant::now() + self.limits.head));
                Ok(())
            }
            // A head is not judged by bytes that are there: a process that was short of breath may have come to them late.
            Awaits::HeadBy(_) | Awaits::Answer => Ok(()),
            Awaits::RestBy(by) if Instant::now() < by => Ok(()),
            Awaits::RestBy(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// No bytes are there. Ready once what is awaited is late; the task is woken for it.
    fn poll_late(&self, context: &mut Context<'_>) -> Poll<Late> {
        let (late, by) = match self.awaits.get() {
            Awaits::Request | Awaits::Answer => return Poll::Pending,
            Awaits::HeadBy(by) => (Late::Head, by),
            Awaits::RestBy(by) => (Late::Rest, by),
        };
        let mut timer = self.timer.borrow_mut();
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(by)));
        timer.as_mut().poll(context).map(|()| late)
    }
}

/// What did not come in time.
enum Late {
    Head,
    Rest,
}

/// An age of 90 to 100 % of the longest, by `chance`: connections that were opened at once do not all end at once.
fn spread(longest: Duration, chance: u8) -> Duration {
    longest - longest * u32::from(chance) / 2_560
}

/// A stream whose client may not take for ever.
pub(crate) struct BoundedStream {
    stream: TcpStream,
    connection: Rc<Connection>,
    /// The last write was taken whole: nothing of an answer waits to be written.
    written: bool,
}

impl BoundedStream {
    pub(crate) fn new(stream: TcpStream, limits: Limits) -> Self {
        Self { stream, connection: Rc::new(Connection::new(limits)), written: true }
    }

    pub(crate) fn connection(&self) -> Rc<Connection> {
        Rc::clone(&self.connection)
    }

    /// Tells the client what its connection ends for, where that goes without waiting.
    fn refuse_head(&self) {
        let limit = self.connection.limits.head.as_millis();
        let problem = Problem::new(Code::RequestTimeout, format!("head: did not arrive within {limit} ms"));
        let (status, body) = (StatusCode::REQUEST_TIMEOUT, problem.body());
        let head = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncache-control: no-store\r\ncontent-type: {PROBLEM_JSON}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        if self.written {
            drop(self.stream.try_write(&[head.as_bytes(), &body].concat()));
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => Poll::Ready(self.connection.heard()),
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => {
                if let Late::Head = ready!(self.connection.poll_late(context)) {
                    self.refuse_head();
                }
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written = matches!(polled, Poll::Ready(Ok(count)) if count == bytes.len());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A request, from the end of its head to the end of its answer.
pub(crate) struct Exchange(Rc<Connection>);

impl Exchange {
    /// The request's head is there; its body, if it has one, is bounded from now on. None where its connection is not one of ours.
    pub(crate) fn begin(request: &mut ServiceRequest) -> Option<Self> {
        let connection = Rc::clone(request.conn_data::<Rc<Connection>>()?);
        connection.now_awaits(Awaits::Answer);
        let payload = request.take_payload();
        let has_body = !matches!(payload, Payload::None);
        connection.body_left.set(has_body);
        if has_body {
            let by = Instant::now() + connection.limits.body;
            let payload = BoundedBody { payload, by, timer: None, connection: Rc::clone(&connection) };
            request.set_payload(Payload::Stream { payload: Box::pin(payload) });
        }
        Some(Self(connection))
    }

    /// Whether an answer given now closes the connection: it is old, or the next request could not be told from what is left of this one's body.
    pub(crate) fn closes(&self) -> bool {
        self.0.body_left.get() || Instant::now() >= self.0.old_at
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.now_awaits(match self.0.body_left.get() {
            true => Awaits::RestBy(Instant::now() + LINGER),
            false => Awaits::Request,
        });
    }
}

/// The body of a request that may not take for ever: an error of the kind `TimedOut` once it has.
struct BoundedBody {
    payload: Payload,
    by: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    connection: Rc<Connection>,
}

impl Stream for BoundedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // What has come in time is looked at first.
        match Pin::new(&mut this.payload).poll_next(context) {
            Poll::Ready(None) => {
                this.connection.body_left.set(false);
                Poll::Ready(None)
            }
            Poll::Ready(chunk) => Poll::Ready(chunk),
            Poll::Pending => {
                let by = this.by;
                let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(by)));
                ready!(timer.as_mut().poll(context));
                let limit = this.connection.limits.body.as_millis();
                let late =
                    io::Error::new(io::ErrorKind::TimedOut, format!("did not arrive within {limit} ms"));
                Poll::Ready(Some(Err(PayloadError::Io(late))))
            }
        }
    }
}

/// The body of an answer, which ends its exchange.
pub(crate) struct Answer {
    body: BoxBody,
    _exchange: Option<Exchange>,
}

impl Answer {
    pub(crate) fn new(body: BoxBody, exchange: Option<Exchange>) -> Self {
        Self { body, _exchange: exchange }
    }
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::rt::time::{sleep, timeout};
    use actix_web::web::{self, ServiceConfig};
    use actix_web::{HttpResponse, Responder};
    use futures_util::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::listener::tests::{LONG, Served};
    use crate::listener::{Farewell, read_body};

    const GET: &[u8] = b"GET /here HTTP/1.1\r\nHost: here\r\n\r\n";

    /// How often a client that dribbles sends a byte.
    const DRIBBLE: Duration = Duration::from_millis(10);

    /// What a listener of the tests allows.
    const SHORT: Duration = Duration::from_secs(1);

    fn short() -> HttpSection {
        HttpSection { head_ms_max: 1_000, body_ms_max: 1_000, ..HttpSection::default() }
    }

    fn served(section: HttpSection) -> Served {
        Served::start(section, &Farewell::default(), |app: &mut ServiceConfig| {
            app.route("/here", web::get().to(async || "here"))
                .route("/read", web::post().to(read))
                .route("/json", web::post().to(async |_: web::Json<()>| "json"))
                .route("/early", web::post().to(async || "early"))
                .route("/stream", web::get().to(long_stream));
        })
    }

    async fn read(body: Result<Bytes, actix_web::Error>) -> Result<Bytes, Problem> {
        read_body(body, 4_096)
    }

    /// Lasts for several times as long as heads and bodies may.
    async fn long_stream() -> impl Responder {
        HttpResponse::Ok().streaming(Box::pin(stream::unfold(0, async |sent| {
            sleep(SHORT / 2).await;
            (sent < 6).then(|| (Ok::<_, PayloadError>(Bytes::from(format!("event {sent};"))), sent + 1))
        })))
    }

    /// A client's end of a connection.
    struct Client(TcpStream);

    impl Client {
        async fn connect(served: &Served) -> Self {
            Self(TcpStream::connect(served.address).await.unwrap())
        }

        /// What comes until `end` does.
        async fn hear(&mut self, end: &str) -> String {
            let (mut heard, mut chunk) = (Vec::new(), [0; 1_024]);
            while !heard.ends_with(end.as_bytes()) {
                let read = timeout(LONG, self.0.read(&mut chunk)).await.unwrap().unwrap();
                assert!(read > 0, "{:?} has no {end:?}", String::from_utf8_lossy(&heard));
                heard.extend_from_slice(&chunk[..read]);
            }
            String::from_utf8(heard).unwrap().to_lowercase()
        }

        async fn ask(&mut self) -> String {
            self.0.write_all(GET).await.unwrap();
            self.hear("here").await
        }

        /// Sends `bytes` one by one, and then their last one again and again, until the connection ends. What came until then.
        async fn dribble(&mut self, bytes: &[u8]) -> String {
            let (mut heard, mut chunk) = (Vec::new(), [0; 1_024]);
            let mut left = bytes;
            let end = async {
                loop {
                    match timeout(DRIBBLE, self.0.read(&mut chunk)).await {
                        Ok(Ok(0) | Err(_)) => return,
                        Ok(Ok(read)) => heard.extend_from_slice(&chunk[..read]),
                        Err(_) => {
                            // Where the other side no longer listens, the next read says so.
                            drop(self.0.write_all(&left[..1]).await);
                            left = if left.len() > 1 { &left[1..] } else { left };
                        }
                    }
                }
            };
            timeout(LONG, end).await.expect("the connection is not ended");
            String::from_utf8(heard).unwrap().to_lowercase()
        }
    }

    fn is_timeout_of(part: &str, answer: &str) {
        assert!(answer.starts_with("http/1.1 408 request timeout\r\n"), "{answer}");
        assert!(answer.contains("\r\ncontent-type: application/problem+json\r\n"), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
        assert!(answer.contains(&format!("\"{part}: did not arrive within 1000 ms\"")), "{answer}");
    }

    #[actix_web::test]
    async fn a_head_that_dribbles_ends_a_new_connection() {
        let served = served(short());
        let began = Instant::now();
        let mut client = Client::connect(&served).await;
        is_timeout_of("head", &client.dribble(GET.strip_suffix(b"\r\n\r\n").unwrap()).await);
        assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
        served.stop().await;
    }

    #[actix_web::test]
    async fn a_head_that_dribbles_ends_a_kept_connection() {
        let served = served(short());
        let mut client = Client::connect(&served).await;
        for _ in 0..2 {
            client.ask().await;
        }
        let began = Instant::now();
        is_timeout_of("head", &client.dribble(GET.strip_suffix(b"\r\n\r\n").unwrap()).await);
        assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
        served.stop().await;
    }

    #[actix_web::test]
    async fn a_head_that_begins_and_goes_no_further_ends_its_connection() {
        let served = served(short());
        let mut client = Client::connect(&served).await;
        client.ask().await;
        client.0.write_all(b"G").await.unwrap();
        let mut answer = String::new();
        timeout(LONG, client.0.read_to_string(&mut answer)).await.unwrap().unwrap();
        is_timeout_of("head", &answer.to_lowercase());
        served.stop().await;
    }

    #[actix_web::test]
    async fn a_body_that_dribbles_is_answered_408_and_ends_its_connection() {
        let served = served(short());
        for head in [
            "POST /read HTTP/1.1\r\nHost: here\r\nContent-Length: 4000\r\n\r\n",
            "POST /json HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n4000\r\n",
        ] {
            let mut client = Client::connect(&served).await;
            client.ask().await;
            let began = Instant::now();
            client.0.write_all(head.as_bytes()).await.unwrap();
            is_timeout_of("body", &client.dribble(b" ").await);
            assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
        }
        served.stop().await;
    }

    #[actix_web::test]
    async fn an_answer_that_did_not_wait_for_the_body_ends_its_connection() {
        let served = served(short());
        for framing in ["Content-Length: 4000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n4000\r\n"] {
            let mut client = Client::connect(&served).await;
            let head = format!("POST /early HTTP/1.1\r\nHost: here\r\n{framing}");
            client.0.write_all(head.as_bytes()).await.unwrap();
            let answer = client.dribble(b" ").await;
            assert!(answer.ends_with("early") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
        }
        served.stop().await;
    }

    #[actix_web::test]
    async fn who_is_slow_but_in_time_is_served_again_and_again() {
        let in_time = u32::try_from(LONG.as_millis()).unwrap();
        let section = HttpSection { head_ms_max: in_time, body_ms_max: in_time, ..HttpSection::default() };
        let served = served(section);
        let mut client = Client::connect(&served).await;
        for _ in 0..3 {
            for byte in b"POST /read HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nslow" {
                client.0.write_all(&[*byte]).await.unwrap();
                sleep(Duration::from_millis(2)).await;
            }
            let answer = client.hear("slow").await;
            assert!(answer.starts_with("http/1.1 200") && !answer.contains("connection: close"), "{answer}");
        }
        served.stop().await;
    }

    #[actix_web::test]
    async fn neither_a_long_stream_nor_an_idle_connection_is_cut() {
        let served = served(short());
        let mut client = Client::connect(&served).await;
        client.0.write_all(b"GET /stream HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
        let answer = client.hear("\r\n0\r\n\r\n").await;
        assert!(answer.contains("event 0;") && answer.contains("event 5;"), "{answer}");
        let idle = timeout(2 * SHORT, client.0.read(&mut [0])).await;
        assert!(idle.is_err(), "{idle:?}");
        client.ask().await;
        served.stop().await;
    }

    #[actix_web::test]
    async fn an_answer_on_an_old_connection_closes_it() {
        let served = served(HttpSection { connection_s_max: 1, ..HttpSection::default() });
        let began = Instant::now();
        let mut client = Client::connect(&served).await;
        while !client.ask().await.contains("\r\nconnection: close\r\n") {
            assert!(began.elapsed() < LONG, "the connection never gets old");
            sleep(DRIBBLE).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        let end = timeout(LONG, client.0.read(&mut [0])).await.unwrap();
        assert_eq!(end.unwrap(), 0, "the connection stays open");
        served.stop().await;
    }

    #[test]
    fn ages_are_spread_over_a_tenth() {
        let longest = Duration::from_secs(3_600);
        assert_eq!(spread(longest, 0), longest);
        assert!(spread(longest, 128) < longest * 96 / 100);
        assert!(spread(longest, u8::MAX) < longest * 91 / 100);
        assert!(spread(longest, u8::MAX) >= longest * 90 / 100);
    }
}
