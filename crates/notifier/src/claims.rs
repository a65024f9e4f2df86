//! `GET /v1/claims/{claim_id}`: the claim's answer now, or within the time that the caller prefers to wait.

use std::time::Duration;

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::{ClaimCode, ClaimId, Offset};
use infrastructure_http::headers::wait_preference;
use infrastructure_http::{ClaimView, Code, Problem};
use serde::Deserialize;

use crate::Desk;
use crate::answers::{followed as followed_view, with_coupon};
use crate::follow::Followed;
use crate::look_up::Question;

#[derive(Deserialize)]
pub(crate) struct Parameters {
    /// The ticket's offset: a deferral from before it is no answer to that press.
    after: Option<i64>,
}

pub(crate) async fn get(
    request: HttpRequest,
    path: Path<String>,
    parameters: Query<Parameters>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    let question = question(&request, &path, parameters.after, &desk).await?;
    let settings = &desk.context.config.notify;
    let wait = wait_preference(&request, Duration::from_secs(settings.wait_s_max.into()))?;
    let view = match wait.filter(|wait| !wait.is_zero()) {
        Some(wait) => wait_for_answer(&desk, question, wait).await?,
        None => answer_now(&desk, &question).await?,
    };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(view))
}

async fn answer_now(desk: &Desk, question: &Question) -> Result<ClaimView, Problem> {
    let claim_id = question.claim_id;
    let found = desk.follower.look(question, true).await;
    // A retired coupon's claims are closed, whatever became of them before.
    if let Some(offset) = found.parked.filter(|offset| !found.retired && question.is_of_this_press(*offset)) {
        return Ok(ClaimView::parked(claim_id, offset));
    }
    if let Some(refusal) = found.already_issued {
        return Ok(ClaimView::already_issued(claim_id, refusal.winner));
    }
    match found.answer.filter(|answer| question.is_answered_by(answer)) {
        Some(answer) => Ok(with_coupon(ClaimView::answered(&answer), found.issued)),
        None if found.retired => Ok(ClaimView::closed(claim_id)),
        None if found.blind => {
            let detail = "neither store answers now; the claim is not lost";
            Err(Problem::new(Code::Unavailable, detail).claim(&claim_id, ""))
        }
        None => Ok(ClaimView::pending(claim_id)),
    }
}

async fn wait_for_answer(desk: &Desk, question: Question, wait: Duration) -> Result<ClaimView, Problem> {
    let claim_id = question.claim_id;
    let interval = Duration::from_millis(desk.context.config.notify.look_up_interval_ms.into());
    let mut following = desk.follower.register(question)?;
    let followed = tokio::select! {
        followed = tokio::time::timeout(wait, desk.follower.follow(&mut following, interval)) => followed.ok(),
        () = desk.context.shutdown.requested() => None,
    };
    let Some(followed) = followed else { return Ok(ClaimView::pending(claim_id)) };
    let mut view = followed_view(claim_id, &followed);
    if let Followed::Answer(answer, _) = followed {
        desk.told_at(&answer, &desk.metrics.told_by_wait_seconds);
        if answer.code == ClaimCode::Granted {
            view = with_coupon(view, desk.follower.look(following.question(), true).await.issued);
        }
    }
    Ok(view)
}

/// What is asked of the claim that the path names, if it is the caller's own. Somebody else's is as unknown as one that never was.
async fn question(
    request: &HttpRequest,
    path: &str,
    after: Option<i64>,
    desk: &Desk,
) -> Result<Question, Problem> {
    let caller = desk.verifier.caller(request).await?;
    desk.rates.admit(&caller.user_id)?;
    let claim_id = parse_claim(path)?;
    if !desk.keys.owns(&claim_id, &caller.user_id) {
        return Err(no_such_claim());
    }
    let ticket = after.map(Offset::new).transpose().map_err(|error| Problem::invalid("after", error))?;
    Ok(Question { claim_id, user_id: Some(caller.user_id), ticket })
}

pub(crate) fn parse_claim(path: &str) -> Result<ClaimId, Problem> {
    path.parse().map_err(|error| Problem::invalid("claim_id", error))
}

pub(crate) fn no_such_claim() -> Problem {
    Problem::new(Code::NotFound, "there is no such claim of yours")
}
