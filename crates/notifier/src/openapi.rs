//! The document of the listener: every route is listed here.
//!
//! The notifier documents its own routes, under the path that the ingress sends here, instead of the gateway doing so for it: services never depend
//! on each other, and where two releases run side by side neither speaks for the other.

use infrastructure_http::openapi::{Access, Document, Route, number, text};
use infrastructure_http::{ClaimView, Code};

use crate::answers::{DecidedView, PersistedView};
use crate::events::{End, Position, Waiting};

const CLAIM_ID: (&str, &str) = ("claim_id", "the claim, from the 202 or from `claims/mine`");

/// What users are served.
#[must_use]
pub fn claims() -> Document {
    let about = "What became of a claim. The rest of the API is described at `/v1/openapi.json`.";
    Document::new("Firstcome: answers of claims", about, "/v1/claims/openapi.json")
        .route(
            Route::get("/v1/claims/{claim_id}", "answer", Access::User, "The claim's answer")
                .path_parameter(CLAIM_ID.0, CLAIM_ID.1)
                .query("after", "the ticket's offset: a deferral from before it is no answer to that press", number())
                .prefer_wait("how long to wait for an answer, up to `notify.wait_s_max`")
                .answers::<ClaimView>(200, "The answer, or that there is none yet (`pending`)", &[])
                .refuses(&[Code::NotFound, Code::RateLimited, Code::Overloaded, Code::Unavailable]),
        )
        .route(
            Route::get("/v1/claims/{claim_id}/events", "events", Access::UserOrStreamToken, "The claim's answer as events")
                .description(
                    "Server-sent events: `position` (data: PositionEvent), `decided` (DecidedEvent), after a grant `persisted` (PersistedEvent; before it `waiting`, WaitingEvent, \
                     where PostgreSQL does not hold the code yet), \
                     `end` (EndEvent; its id is the place in the log that it speaks of). The first one bears a `retry:`. A stream that breaks off says the same again \
                     to whoever comes back; with the id of the `end` there is nothing more to say.",
                )
                .path_parameter(CLAIM_ID.0, CLAIM_ID.1)
                .query("token", "the stream token of the 202, instead of a bearer token", text())
                .header("Last-Event-ID", "the id of the last event seen")
                .query("lastEventId", "the same, for clients that cannot send the header", text())
                .answers_with(200, "The events", Some("text/event-stream"))
                .answers_with(204, "The end was seen: do not come back", None)
                .refuses(&[Code::NotFound, Code::RateLimited, Code::Overloaded, Code::ShuttingDown, Code::Unavailable]),
        )
        .schema::<Position>()
        .schema::<Waiting>()
        .schema::<DecidedView>()
        .schema::<PersistedView>()
        .schema::<End>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_golden(document: Document, name: &str, golden: &str) {
        assert!(document.clashing_schemas().is_empty(), "{:?}", document.clashing_schemas());
        let served = document.to_json();
        if served != golden {
            let found = std::env::temp_dir().join(name);
            std::fs::write(&found, &served).unwrap();
            panic!("docs/{name} is not what is served; that is in {}", found.display());
        }
    }

    #[test]
    fn the_document_in_docs_is_what_is_served() {
        assert_golden(claims(), "openapi-claims.json", include_str!("../../../docs/openapi-claims.json"));
    }
}
