//! What one user heard, from the arrival to the end.

use std::time::Duration;

use coupon_domain::ClaimId;
use tokio::time::Instant;

use crate::answers::{Asked, ClaimAnswer, Code, Pressed, Said};
use crate::user::Ending;

/// A user's story.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) number: u32,
    /// How long after the intended moment the client itself began.
    pub(crate) late: Duration,
    pub(crate) presses: Vec<Press>,
    /// How often the user came back to the button.
    pub(crate) again: u32,
    /// Every word about a claim that is meant to stand.
    pub(crate) words: Vec<Word>,
    pub(crate) follow: Follow,
    /// The code of the user's coupon, where it was shown.
    pub(crate) coupon_code: Option<String>,
    pub(crate) ending: Ending,
    /// When the ending was heard; none where it was not.
    pub(crate) told: Option<ToldAt>,
}

/// One press of the button.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Press {
    /// From the intended moment to the answer.
    pub(crate) took: Duration,
    pub(crate) heard: Heard,
    pub(crate) claim_id: Option<ClaimId>,
}

/// What a press was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Accepted,
    Decided,
    Deferred(Code),
    Refused {
        code: Code,
        advisory: bool,
    },
    Busy(Code),
    /// No answer came.
    Lost,
    /// The client went away on purpose.
    Aborted,
    Wrong,
}

/// What somebody said about a claim, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) claim_id: ClaimId,
    pub(crate) kind: WordKind,
}

/// How good a word is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WordKind {
    /// The log's own final answer; none means granted.
    Final(Option<Code>),
    /// A gateway's refusal that did not call itself advice.
    Refusal(Code),
}

/// How often which way was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Follow {
    pub(crate) streams: u32,
    /// Streams that were opened again.
    pub(crate) reconnects: u32,
    /// Streams that found no connection left, so that the claim was asked for instead.
    pub(crate) streams_denied: u32,
    pub(crate) asks: u32,
    pub(crate) advisory_looks: u32,
    pub(crate) stale_deferrals: u32,
    /// Times that something had to wait for a connection of ours.
    pub(crate) connection_waits: u32,
    /// Deferrals that came from following.
    pub(crate) deferred: u32,
}

/// How and when the ending was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ToldAt {
    pub(crate) by: Channel,
    pub(crate) at: Instant,
    /// From the last press's intended moment.
    pub(crate) after_press: Duration,
    /// From the arrival.
    pub(crate) after_arrival: Duration,
}

/// How an ending was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// The answer to the press itself.
    Press,
    /// An event.
    Stream,
    /// A GET.
    Ask,
}

impl Story {
    /// A story that has not begun.
    pub(crate) fn new(number: u32) -> Self {
        Self {
            number,
            late: Duration::ZERO,
            presses: Vec::new(),
            again: 0,
            words: Vec::new(),
            follow: Follow::default(),
            coupon_code: None,
            ending: Ending::Unresolved("not arrived".to_owned()),
            told: None,
        }
    }

    /// Writes down an answer to a press.
    pub(crate) fn hear_press(&mut self, answer: &Pressed, took: Duration) {
        let (heard, claim_id) = match answer {
            Pressed::Accepted(accepted) => (Heard::Accepted, Some(accepted.claim_id)),
            Pressed::Decided(answer) => {
                self.hear_answer(answer);
                (Heard::Decided, Some(answer.claim_id))
            }
            Pressed::Refused(refused) if refused.is_deferral() => {
                (Heard::Deferred(refused.code.clone()), refused.claim_id)
            }
            Pressed::Refused(refused) => {
                if let Some(claim_id) = refused.claim_id.filter(|_| !refused.advisory) {
                    self.words.push(Word { claim_id, kind: WordKind::Refusal(refused.code.clone()) });
                }
                let heard = Heard::Refused { code: refused.code.clone(), advisory: refused.advisory };
                (heard, refused.claim_id)
            }
            Pressed::Busy(busy) => (Heard::Busy(busy.code.clone()), busy.claim_id),
            Pressed::Lost => (Heard::Lost, None),
            Pressed::Wrong(_) => (Heard::Wrong, None),
        };
        self.presses.push(Press { took, heard, claim_id });
    }

    /// Writes down a press whose answer the user never saw; the claim that it named, where the answer was there already.
    pub(crate) fn hear_nothing(&mut self, took: Duration, claim_id: Option<ClaimId>) {
        self.presses.push(Press { took, heard: Heard::Aborted, claim_id });
    }

    /// Writes down an answer to a look.
    pub(crate) fn hear_look(&mut self, answer: &Asked) {
        if let Asked::Answer(answer) = answer {
            self.hear_answer(answer);
        }
    }

    fn hear_answer(&mut self, answer: &ClaimAnswer) {
        let code = match &answer.said {
            Said::Granted => None,
            Said::Refused(code) => Some(code.clone()),
            Said::Deferred(_) | Said::Parked => return,
        };
        self.words.push(Word { claim_id: answer.claim_id, kind: WordKind::Final(code) });
        if let Some(coupon_code) = &answer.coupon_code {
            self.coupon_code = Some(coupon_code.clone());
        }
    }
}
