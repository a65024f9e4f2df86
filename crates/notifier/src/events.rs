//! `GET /v1/claims/{claim_id}/events`: the claim's answer as server-sent events.
//!
//! `position` (at most this many ahead), `decided`, after a grant `waiting` while PostgreSQL does not hold the coupon yet and `persisted` (with its code) once it does, `end`.
//! The `end` carries the claims offset that it speaks of as its id: a client that reconnects having seen it gets 204, which stops an EventSource for good, and one that has
//! not gets everything again. The first event says after what time to come back should the stream break off.

use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::stream_token::StreamToken;
use coupon_domain::wire::PersistedWatermark;
use coupon_domain::{ClaimAnswer, ClaimCode, ClaimId, Offset};
use futures_util::Stream;
use infrastructure_http::{Code, Problem};
use infrastructure_postgres::look_up::IssuedCoupon;
use serde::{Deserialize, Serialize};
use service_runtime::Place;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::Desk;
use crate::answers::{DecidedView, PersistedView};
use crate::claims::{no_such_claim, parse_claim};
use crate::follow::{Followed, Following};
use crate::look_up::Question;

/// A stream that breaks off is opened again after so long by chance, in ms, unless it has said otherwise: not all of them at once.
const RETRY_MS: std::ops::RangeInclusive<u32> = 1_000..=3_000;

/// A winner whose code is not there after so long is told that it is waited for.
const WAITING_AFTER: Duration = Duration::from_secs(1);

/// How often a waiting client is told how many are ahead, if that has changed.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
pub(crate) struct Parameters {
    /// The single-claim token of the 202: browsers' EventSource sends no headers.
    token: Option<String>,
    /// As the header `Last-Event-ID`.
    #[serde(rename = "lastEventId")]
    last_event_id: Option<String>,
}

pub(crate) async fn stream(
    request: HttpRequest,
    path: Path<String>,
    parameters: Query<Parameters>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    let question = admit(&request, &parameters, parse_claim(&path)?, &desk).await?;
    if desk.context.shutdown.is_requested() {
        return Err(Problem::new(Code::ShuttingDown, "this process is about to end; try again"));
    }
    if let Some(seen) = last_event_id(&request, &parameters)
        && has_seen_the_end(&question, seen, &desk).await
    {
        return Ok(HttpResponse::NoContent().finish());
    }
    let place = desk
        .streams
        .take()
        .ok_or_else(|| Problem::new(Code::Overloaded, "as many streams as this process takes are open"))?;
    let following = desk.follower.register(question)?;
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("Cache-Control", "no-store"))
        // nginx would collect events until its buffer is full.
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(converse(desk, following, place)))
}

/// Lets in the claim's own user, or whoever holds its stream token, which carries the ticket.
async fn admit(
    request: &HttpRequest,
    parameters: &Parameters,
    claim_id: ClaimId,
    desk: &Desk,
) -> Result<Question, Problem> {
    if let Some(token) = &parameters.token {
        let token: StreamToken = token.parse().map_err(unauthorized)?;
        token.verify(&desk.keys, &claim_id, desk.context.clock.now()).map_err(unauthorized)?;
        desk.rates.admit(&claim_id)?;
        return Ok(Question { claim_id, user_id: None, ticket: token.ticket_offset });
    }
    let caller = desk.verifier.caller(request).await?;
    desk.rates.admit(&caller.user_id)?;
    if desk.keys.owns(&claim_id, &caller.user_id) {
        Ok(Question { claim_id, user_id: Some(caller.user_id), ticket: None })
    } else {
        Err(no_such_claim())
    }
}

fn unauthorized(refused: coupon_domain::stream_token::StreamTokenRefused) -> Problem {
    Problem::new(Code::Unauthorized, refused.to_string())
}

/// The id of the last event that a client has seen: the header's, or of those who cannot send one (polyfills of EventSource) the parameter's.
fn last_event_id(request: &HttpRequest, parameters: &Parameters) -> Option<Offset> {
    let header = request.headers().get("Last-Event-ID").and_then(|header| header.to_str().ok());
    let text = header.or(parameters.last_event_id.as_deref())?;
    Offset::new(text.trim().parse().ok()?).ok()
}

/// Only an `end` has an id, the claims offset that it speaks of. Whoever has seen the end of this very press need not come back.
async fn has_seen_the_end(question: &Question, seen: Offset, desk: &Desk) -> bool {
    if question.ticket.is_some() && question.is_of_this_press(seen) {
        return true;
    }
    let found = desk.follower.look(question, false).await;
    let is_of = |answer: &ClaimAnswer| answer.decided_offset == seen;
    found.answer.as_ref().is_some_and(is_of) || found.parked == Some(seen) || found.retired
}

/// Everything that is said on a stream.
fn converse(
    desk: Data<Desk>,
    mut following: Following,
    place: Place,
) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    async_stream::stream! {
        let _place = place;
        let mut life = Life::new(&desk);
        let settings = &desk.context.config.notify;
        let (question, tail) = (following.question().clone(), following.tail().clone());
        let (claim_id, ticket) = (question.claim_id, question.ticket);
        // At most this many stand before the ticket.
        let ahead_now = || ticket.map(|ticket| ticket.since(tail.next_src()));
        let mut ahead = ahead_now();
        yield Ok(match ahead {
            Some(ahead) => life.event("position", None, &Position { ahead }),
            None => comment("following"),
        });
        let mut persisted = tail.persisted();
        let mut heartbeat = ticks(Duration::from_millis(settings.heartbeat_ms.into()));
        let mut look_around = ticks(POSITION_INTERVAL);
        let mut end_of_life = std::pin::pin!(tokio::time::sleep(Duration::from_secs(settings.stream_s_max.into())));
        let interval = Duration::from_millis(settings.look_up_interval_ms.into());
        let followed = {
            let mut answer = std::pin::pin!(desk.follower.follow(&mut following, interval));
            loop {
                tokio::select! {
                    followed = &mut answer => break match followed {
                        Followed::Replaced => Err("replaced"),
                        followed => Ok(followed),
                    },
                    _ = heartbeat.tick() => yield Ok(comment("still here")),
                    _ = look_around.tick(), if ticket.is_some() => {
                        let now = ahead_now();
                        if now != ahead {
                            ahead = now;
                            yield Ok(life.event("position", None, &Position { ahead: now.unwrap_or(0) }));
                        }
                    }
                    () = &mut end_of_life => break Err("aged"),
                    () = desk.context.shutdown.requested() => break Err("shutdown"),
                }
            }
        };
        let followed = match followed {
            Ok(followed) => followed,
            Err(reason) => {
                yield Ok(life.come_back(reason));
                return;
            }
        };
        yield Ok(life.event("decided", None, &DecidedView::new(claim_id, &followed)));
        let end_id = match &followed {
            Followed::Parked(offset) => *offset,
            // Whoever asks again gets it again: whatever stands behind the ticket, there is nothing more to say.
            Followed::Forgotten | Followed::AlreadyIssued(_) | Followed::Replaced => ticket.unwrap_or(tail.next_src()),
            // Of a deferral, too: pressing again opens another stream, with another ticket.
            Followed::Answer(answer, _) => answer.decided_offset,
        };
        if let Followed::Answer(answer, _) = &followed {
            desk.told_at(answer, &desk.metrics.told_by_stream_seconds);
            if answer.code == ClaimCode::Granted {
                let mut coupon = std::pin::pin!(coupon_of(&desk, &question, answer, &mut persisted, interval));
                let mut is_late = std::pin::pin!(tokio::time::sleep(WAITING_AFTER));
                let mut has_said_so = false;
                let issued = loop {
                    tokio::select! {
                        issued = &mut coupon => break Ok(issued),
                        () = &mut is_late, if !has_said_so => {
                            has_said_so = true;
                            yield Ok(life.event("waiting", None, &Waiting { on: WaitingFor::Code }));
                        }
                        _ = heartbeat.tick() => yield Ok(comment("still here")),
                        () = following.replaced() => break Err("replaced"),
                        () = &mut end_of_life => break Err("aged"),
                        () = desk.context.shutdown.requested() => break Err("shutdown"),
                    }
                };
                match issued {
                    Ok(issued) => yield Ok(life.event("persisted", None, &PersistedView::new(claim_id, issued))),
                    // Without an end: it is all told again.
                    Err(reason) => {
                        yield Ok(life.come_back(reason));
                        return;
                    }
                }
            }
        }
        life.reason = "end";
        yield Ok(life.event("end", Some(end_id), &End {}));
    }
}

/// The coupon of a grant, as soon as PostgreSQL holds it and tells: however long that takes.
async fn coupon_of(
    desk: &Desk,
    question: &Question,
    answer: &ClaimAnswer,
    persisted: &mut watch::Receiver<Option<PersistedWatermark>>,
    interval: Duration,
) -> IssuedCoupon {
    let reflects = |watermark: &Option<PersistedWatermark>| {
        watermark.as_ref().is_some_and(|watermark| watermark.next_src > answer.decided_offset)
    };
    loop {
        // Where nobody tells any more it is looked at each interval.
        let is_told = persisted.wait_for(reflects).await.is_ok();
        if let Some(issued) = desk.follower.look(question, true).await.issued {
            return issued;
        }
        tracing::debug!(is_told, "PostgreSQL does not give the coupon of a grant");
        tokio::time::sleep(interval).await;
    }
}

/// The data of `position`.
#[derive(Serialize, ToSchema)]
#[schema(as = PositionEvent)]
pub(crate) struct Position {
    /// At most so many stand before the ticket.
    ahead: u64,
}

/// The data of `waiting`: the claim is granted, and what is still to be told.
#[derive(Serialize, ToSchema)]
#[schema(as = WaitingEvent)]
pub(crate) struct Waiting {
    #[serde(rename = "for")]
    on: WaitingFor,
}

/// What a stream waits for.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WaitingFor {
    /// The coupon's code, until PostgreSQL holds it.
    Code,
}

/// The data of `end`: there is nothing more to say.
#[derive(Serialize, ToSchema)]
#[schema(as = EndEvent)]
pub(crate) struct End {}

/// A stream's life, for the metrics.
struct Life<'a> {
    desk: &'a Desk,
    started: Instant,
    /// How it ended; a client that goes away says nothing.
    reason: &'static str,
    pending: Option<&'static str>,
    /// Something was said, and after how long to come back should the stream break off.
    has_begun: bool,
}

impl<'a> Life<'a> {
    fn new(desk: &'a Desk) -> Self {
        Self { desk, started: Instant::now(), reason: "client", pending: None, has_begun: false }
    }

    fn event(&mut self, name: &'static str, id: Option<Offset>, data: &impl Serialize) -> Bytes {
        // The stream is polled again only once the event before was taken.
        if let Some(sent) = self.pending.replace(name) {
            self.desk.metrics.event(sent);
        }
        // Not alone: some clients take it for an event without data.
        let retry = match std::mem::replace(&mut self.has_begun, true) {
            false => format!("retry: {}\n", rand::random_range(RETRY_MS)),
            true => String::new(),
        };
        let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
        let data = serde_json::to_string(data).unwrap_or_default();
        Bytes::from(format!("{retry}event: {name}\n{id}data: {data}\n\n"))
    }

    /// The stream ends without an answer: come back, not all at once.
    fn come_back(&mut self, reason: &'static str) -> Bytes {
        self.reason = reason;
        let spread = self.desk.context.config.notify.retry_spread_ms;
        Bytes::from(format!("retry: {}\n\n", rand::random_range(100..=spread.max(100))))
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        let metrics = &self.desk.metrics;
        match (self.pending, self.reason) {
            (Some(event), "client") => metrics.event_dropped(event),
            (Some(event), _) => metrics.event(event),
            (None, _) => {}
        }
        metrics.stream_ended(self.reason, self.started.elapsed().as_secs_f64());
    }
}

fn comment(text: &str) -> Bytes {
    Bytes::from(format!(": {text}\n\n"))
}

fn ticks(period: Duration) -> tokio::time::Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + period, period)
}
