//! Writing outcomes as db-writer does: claims in batches, each command a batch of its own, everything else moving the watermark.

use std::collections::HashMap;
use std::sync::Arc;

use coupon_domain::accept::Accepted;
use coupon_domain::coupon_code::CouponCode;
use coupon_domain::outcome::{ClaimOutcome, Subject};
use coupon_domain::resume::RecordIdentity;
use coupon_domain::wire::{decode_outcome, encode_outcome};
use coupon_domain::{CouponId, Definition, Offset, Outcome, OutcomeWatermark, Partition};
use infrastructure_postgres::batch::{
    IssuedCoupon, Move, OutcomeRows, Written, has_row, write_command, write_outcomes,
};
use infrastructure_postgres::{Connection, progress};

use crate::shop::key;

pub(crate) struct Writer {
    pub(crate) connection: Connection,
    partition: Partition,
    definitions: HashMap<CouponId, Arc<Definition>>,
    watermark: OutcomeWatermark,
    last_record: Option<RecordIdentity>,
    beat: i64,
}

impl Writer {
    pub(crate) async fn start(mut connection: Connection, partition: Partition) -> Self {
        let progress = progress::load_or_create(&mut connection, partition).await.unwrap();
        Self {
            connection,
            partition,
            definitions: HashMap::new(),
            watermark: progress.watermark,
            last_record: progress.last_record,
            beat: progress.beat,
        }
    }

    /// Takes these outcomes from the log, from `first_outcome_offset` on, and writes them in batches of at most `batch_max` records.
    pub(crate) async fn write(
        &mut self,
        first_outcome_offset: Offset,
        outcomes: &[Outcome],
        batch_max: usize,
    ) {
        let (mut from, mut rows, mut records) = (self.watermark, OutcomeRows::default(), 0);
        let mut outcome_offset = first_outcome_offset;
        for outcome in outcomes {
            let outcome = decode_outcome(&encode_outcome(outcome)).unwrap();
            let before = self.watermark;
            let accepted = self.watermark.accept(outcome_offset, &outcome).unwrap();
            outcome_offset = outcome_offset.next();
            records += 1;
            if accepted == Accepted::Skip {
                continue;
            }
            let (identity, is_new) = (RecordIdentity::of_outcome(&outcome), outcome.is_new());
            match outcome.subject {
                Subject::Claim(claim) if is_new && has_row(&claim) => {
                    self.add(&mut rows, outcome.src_offset, outcome.appended_at, &claim);
                }
                Subject::Command(mut command) if is_new && command.state.is_some() => {
                    self.flush(from, before, std::mem::take(&mut rows)).await;
                    let state = command.state.take().unwrap();
                    self.definitions.insert(state.coupon_id, Arc::clone(&state.definition));
                    let step = Move {
                        partition: self.partition,
                        from: before,
                        to: self.watermark,
                        last_record: Some(identity.clone()),
                    };
                    let (connection, at) = (&mut self.connection, outcome.appended_at);
                    let written = write_command(connection, &step, outcome.src_offset, at, &command, &state);
                    let written = written.await.unwrap();
                    self.committed(written);
                    (from, records) = (self.watermark, 0);
                }
                Subject::Claim(_) | Subject::Command(_) | Subject::Invalid(_) => {}
            }
            self.last_record = Some(identity);
            if records >= batch_max {
                self.flush(from, self.watermark, std::mem::take(&mut rows)).await;
                (from, records) = (self.watermark, 0);
            }
        }
        self.flush(from, self.watermark, rows).await;
    }

    fn add(
        &self,
        rows: &mut OutcomeRows,
        src_offset: Offset,
        appended_at: coupon_domain::Timestamp,
        claim: &ClaimOutcome,
    ) {
        if let Some(issue_no) = claim.issue_no {
            let definition = &self.definitions[&claim.claim_id.coupon_id];
            let issued = IssuedCoupon {
                per_user_limit: definition.per_user_limit(),
                code: CouponCode::mint(&key(), claim.claim_id.coupon_id, issue_no).to_string(),
                expires_at: definition.expiry().map(|expiry| expiry.of(appended_at)),
            };
            rows.push_issued(src_offset, appended_at, claim, issued);
        }
        rows.push_claim(src_offset, appended_at, claim);
    }

    async fn flush(&mut self, from: OutcomeWatermark, to: OutcomeWatermark, rows: OutcomeRows) {
        if from == to {
            return;
        }
        let step = Move { partition: self.partition, from, to, last_record: self.last_record.clone() };
        let written = write_outcomes(&mut self.connection, &step, &rows).await.unwrap();
        self.committed(written);
    }

    fn committed(&mut self, written: Written) {
        let beat = self.beat + 1;
        assert_eq!(written, Written::Committed { beat });
        self.beat = beat;
    }
}
