//! Where retention has taken the log's beginning, the coupons that were published behind it are folded all the same: what becomes of a coupon's claims
//! depends on that coupon's records alone.

use std::collections::HashSet;

use coupon_domain::ledger::{Checkpoint, DefaultHasher, LogRecord};
use coupon_domain::outcome::Subject;
use coupon_domain::{
    Chain, CommandCode, CommandKind, CouponId, CouponState, Ledger, Offset, Outcome, Partition,
};

/// A fold that begins with nothing in the middle of a line, and knows which coupons it may speak of.
#[derive(Clone, Debug)]
pub(crate) struct Newcomers {
    /// None where the log is whole: then everything is folded anyway.
    ledger: Option<Ledger>,
    known: HashSet<CouponId>,
}

impl Newcomers {
    pub(crate) fn new(partition: Partition, log_start: i64) -> Self {
        let next_src = Offset::new(log_start).ok().filter(|start| *start > Offset::ZERO);
        let ledger = next_src.and_then(|next_src| {
            let chain = Chain::genesis(partition);
            let nothing = Checkpoint { partition, next_src, chain, coupons: Vec::new() };
            Ledger::restore(nothing, DefaultHasher::default()).ok()
        });
        Self { ledger, known: HashSet::new() }
    }

    /// Folds the next record of the line.
    pub(crate) fn fold(&mut self, record: LogRecord) -> Option<Outcome> {
        self.ledger.as_mut()?.fold(record).ok()
    }

    /// What the fold says, if it may speak: of coupons whose publish was applied here, and for the first time.
    pub(crate) fn judge(&mut self, found: &Outcome, folded: Option<Outcome>) -> Option<Outcome> {
        let coupon_id = found.coupon_id()?;
        if let Subject::Command(command) = &found.subject
            && command.kind == CommandKind::Publish
            && command.code == CommandCode::Applied
            && found.is_new()
        {
            self.known.insert(coupon_id);
        }
        folded.filter(|_| self.known.contains(&coupon_id))
    }

    /// A coupon that the fold may speak of.
    pub(crate) fn coupon(&self, coupon_id: CouponId) -> Option<&CouponState> {
        self.ledger.as_ref()?.coupon(coupon_id).filter(|_| self.known.contains(&coupon_id))
    }
}
