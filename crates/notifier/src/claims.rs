//! `GET /v1/claims/{claim_id}`: the claim's answer now, or within the time that the caller prefers to wait.

use std::time::Duration;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::{ClaimCode, ClaimId};
use infrastructure_http::headers::wait_preference;
use infrastructure_http::{ClaimView, Code, Problem};

use crate::Desk;
use crate::answers::{followed as followed_view, with_coupon};
use crate::follow::Followed;

pub(crate) async fn get(
    request: HttpRequest,
    path: Path<String>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    let claim_id = owned_claim(&request, &path, &desk)?;
    let settings = &desk.context.config.notify;
    let wait = wait_preference(&request, Duration::from_secs(settings.wait_s_max.into()))?;
    let view = match wait.filter(|wait| !wait.is_zero()) {
        Some(wait) => wait_for_answer(&desk, claim_id, wait).await?,
        None => answer_now(&desk, claim_id).await?,
    };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(view))
}

async fn answer_now(desk: &Desk, claim_id: ClaimId) -> Result<ClaimView, Problem> {
    let found = desk.follower.look(&claim_id, true).await;
    // A retired coupon's claims are closed, whatever became of them before.
    if let Some(offset) = found.parked.filter(|_| !found.retired) {
        return Ok(ClaimView::parked(claim_id, offset));
    }
    match found.answer {
        Some(answer) => Ok(with_coupon(ClaimView::answered(&answer), found.issued)),
        None if found.retired => Ok(ClaimView::closed(claim_id)),
        None if found.blind => {
            let detail = "neither store answers now; the claim is not lost";
            Err(Problem::new(Code::Unavailable, detail).claim(&claim_id, ""))
        }
        None => Ok(ClaimView::pending(claim_id)),
    }
}

async fn wait_for_answer(desk: &Desk, claim_id: ClaimId, wait: Duration) -> Result<ClaimView, Problem> {
    let interval = Duration::from_millis(desk.context.config.notify.look_up_interval_ms.into());
    let mut following = desk.follower.register(claim_id, None)?;
    let followed = tokio::select! {
        followed = tokio::time::timeout(wait, desk.follower.follow(&mut following, interval)) => followed.ok(),
        () = desk.context.shutdown.requested() => None,
    };
    let Some(followed) = followed else { return Ok(ClaimView::pending(claim_id)) };
    let mut view = followed_view(claim_id, &followed);
    if let Followed::Answer(answer, _) = followed {
        desk.told_at(&answer, &desk.metrics.told_by_wait_seconds);
        if answer.code == ClaimCode::Granted {
            view = with_coupon(view, desk.follower.look(&claim_id, true).await.issued);
        }
    }
    Ok(view)
}

/// The claim that the path names, if it is the caller's own. Somebody else's is as unknown as one that never was.
fn owned_claim(request: &HttpRequest, path: &str, desk: &Desk) -> Result<ClaimId, Problem> {
    let caller = desk.verifier.caller(request)?;
    let claim_id = parse_claim(path)?;
    if desk.keys.owns(&claim_id, &caller.user_id) { Ok(claim_id) } else { Err(no_such_claim()) }
}

pub(crate) fn parse_claim(path: &str) -> Result<ClaimId, Problem> {
    path.parse().map_err(|error| Problem::invalid("claim_id", error))
}

pub(crate) fn no_such_claim() -> Problem {
    Problem::new(Code::NotFound, "there is no such claim of yours")
}
