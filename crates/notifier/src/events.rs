//! `GET /v1/claims/{claim_id}/events`: the claim's answer as server-sent events.
//!
//! `position` (at most this many ahead), `decided`, after a grant `persisted` (with the coupon's code, once PostgreSQL holds it), `end`.
//! The `end` carries the claims offset of the answer as its id: a client that reconnects having seen it gets 204, and one that has
//! not gets everything again.

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

/// How often a waiting client is told how many are ahead, if that has changed.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
pub(crate) struct Parameters {
    /// The single-claim token of the 202: browsers' EventSource sends no headers.
    token: Option<String>,
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
    if let Some(seen) = last_event_id(&request) {
        let found = desk.follower.look(&question, false).await;
        let is_final = |answer: &ClaimAnswer| answer.is_final && answer.decided_offset == seen;
        let is_of_this_press = question.ticket.is_some() && question.is_of_this_press(seen);
        if found.answer.as_ref().is_some_and(is_final) || found.already_issued.is_some() && is_of_this_press {
            return Ok(HttpResponse::NoContent().finish());
        }
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

fn last_event_id(request: &HttpRequest) -> Option<Offset> {
    let header = request.headers().get("Last-Event-ID")?;
    Offset::new(header.to_str().ok()?.parse().ok()?).ok()
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
        let mut following = std::pin::pin!(desk.follower.follow(&mut following, interval));
        let followed = loop {
            tokio::select! {
                followed = &mut following => break match followed {
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
            Followed::Parked(_) | Followed::Forgotten | Followed::Replaced => None,
            // Whoever asks again gets it again: whatever stands behind the ticket, there is nothing more to say.
            Followed::AlreadyIssued(_) => ticket,
            Followed::Answer(answer, _) => {
                desk.told_at(answer, &desk.metrics.told_by_stream_seconds);
                if answer.code == ClaimCode::Granted
                    && let Some(issued) = await_persisted(&desk, &question, answer, &mut persisted).await
                {
                    yield Ok(life.event("persisted", None, &PersistedView::new(claim_id, issued)));
                }
                // A deferral is not the last word: pressing again opens another stream of the same claim.
                (answer.is_final || answer.code == ClaimCode::AlreadyIssued).then_some(answer.decided_offset)
            }
        };
        life.reason = "end";
        yield Ok(life.event("end", end_id, &End {}));
    }
}

/// Waits until PostgreSQL reflects the grant, and fetches the coupon.
async fn await_persisted(
    desk: &Desk,
    question: &Question,
    answer: &ClaimAnswer,
    persisted: &mut watch::Receiver<Option<PersistedWatermark>>,
) -> Option<IssuedCoupon> {
    let patience = Duration::from_millis(desk.context.config.notify.persisted_wait_ms.into());
    let reflects = |watermark: &Option<PersistedWatermark>| {
        watermark.as_ref().is_some_and(|watermark| watermark.next_src > answer.decided_offset)
    };
    let waiting = async {
        persisted.wait_for(reflects).await.ok()?;
        desk.follower.look(question, true).await.issued
    };
    tokio::select! {
        issued = tokio::time::timeout(patience, waiting) => issued.ok().flatten(),
        () = desk.context.shutdown.requested() => None,
    }
}

/// The data of `position`.
#[derive(Serialize, ToSchema)]
#[schema(as = PositionEvent)]
pub(crate) struct Position {
    /// At most so many stand before the ticket.
    ahead: u64,
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
}

impl<'a> Life<'a> {
    fn new(desk: &'a Desk) -> Self {
        Self { desk, started: Instant::now(), reason: "client", pending: None }
    }

    fn event(&mut self, name: &'static str, id: Option<Offset>, data: &impl Serialize) -> Bytes {
        // The stream is polled again only once the event before was taken.
        if let Some(sent) = self.pending.replace(name) {
            self.desk.metrics.event(sent);
        }
        let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
        let data = serde_json::to_string(data).unwrap_or_default();
        Bytes::from(format!("event: {name}\n{id}data: {data}\n\n"))
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
