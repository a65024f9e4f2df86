//! A partition with one coupon, and claims made by hand, so that a test can say what the log would never say.

use std::sync::Arc;

use coupon_domain::coupon::{LastCommand, RULES_NEWEST, UncheckedDefinition};
use coupon_domain::outcome::{ClaimOutcome, CommandOutcome};
use coupon_domain::resume::RecordIdentity;
use coupon_domain::{
    Chain, ClaimCode, ClaimId, CommandCode, CommandId, CommandKind, CouponId, CouponState, CouponStatus, Key,
    Offset, OutcomeWatermark, Partition, Round, Slot, Timestamp,
};
use infrastructure_postgres::batch::{
    IssuedCoupon, Move, OutcomeRows, Written, write_command, write_outcomes,
};
use infrastructure_postgres::{Connection, PostgresError, progress};
use uuid::Uuid;

use crate::database::Database;

pub(crate) const EXPIRES_AT_MS: i64 = 5_000_000;

pub(crate) fn offset(number: i64) -> Offset {
    Offset::new(number).unwrap()
}

pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms).unwrap()
}

pub(crate) fn definition(quantity: u64, per_user_limit: u64) -> UncheckedDefinition {
    UncheckedDefinition {
        name: "Fried chicken".to_owned(),
        quantity,
        per_user_limit,
        opens_at: 1_000,
        closes_at: 2_000_000,
        expiry: None,
        rules: RULES_NEWEST,
        key_id: "k1".parse().unwrap(),
    }
}

/// A partition whose first record published a coupon.
pub(crate) struct Shop {
    pub(crate) connection: Connection,
    pub(crate) coupon_id: CouponId,
    pub(crate) state: CouponState,
    pub(crate) watermark: OutcomeWatermark,
}

impl Shop {
    /// Opens a shop in a partition of its own.
    pub(crate) async fn open(database: &Database, partition: i32, quantity: u64, limit: u64) -> Self {
        let mut connection = database.connect().await;
        let partition = Partition::new(partition).unwrap();
        let progress = progress::load_or_create(&mut connection, partition).await.unwrap();
        let coupon_id =
            CouponId::new(partition, Uuid::from_u128(u128::from(partition.number().unsigned_abs())));
        let mut shop = Self {
            connection,
            coupon_id,
            state: published(coupon_id, definition(quantity, limit)),
            watermark: progress.watermark,
        };
        let command = shop.command(CommandKind::Publish, 0);
        let written = shop.write_command(&command).await.unwrap();
        assert!(matches!(written, Written::Committed { .. }));
        shop
    }

    /// The next step of the watermark, `records` further on.
    pub(crate) fn step(&self, records: i64) -> Move {
        let from = self.watermark;
        let next_src = offset(from.next_src.number() + records);
        let to = OutcomeWatermark {
            next_src,
            next_outcome_offset: offset(from.next_outcome_offset.number() + records),
            chain: Chain::from_bytes([u8::try_from(next_src.number() % 251).unwrap(); 32]),
        };
        let last_record = Some(RecordIdentity {
            id: Some(format!("record {next_src}")),
            appended_at: at(next_src.number()),
        });
        Move { partition: self.coupon_id.partition(), from, to, last_record }
    }

    /// A claim of this user's; the same arguments name the same claim.
    pub(crate) fn claim_id(&self, user: &str, slot: u64) -> ClaimId {
        key().claim_id(self.coupon_id, &user.parse().unwrap(), Round::FIRST, Slot(slot))
    }

    pub(crate) fn granted(&self, user: &str, slot: u64, issue_no: u32, user_nth: u16) -> ClaimOutcome {
        ClaimOutcome {
            code: ClaimCode::Granted,
            issue_no: Some(issue_no),
            user_nth: Some(user_nth),
            ..self.answered(user, slot, ClaimCode::SoldOut, issue_no)
        }
    }

    /// A final answer with this rank.
    pub(crate) fn answered(&self, user: &str, slot: u64, code: ClaimCode, rank: u32) -> ClaimOutcome {
        ClaimOutcome { is_final: true, rank: Some(rank), ..self.deferred(user, slot, code) }
    }

    pub(crate) fn deferred(&self, user: &str, slot: u64, code: ClaimCode) -> ClaimOutcome {
        ClaimOutcome {
            claim_id: self.claim_id(user, slot),
            user_id: user.parse().unwrap(),
            code,
            is_final: false,
            issue_no: None,
            user_nth: None,
            rank: None,
            granted_claim_id: None,
        }
    }

    /// Rows of these claims, one per record from the watermark on.
    pub(crate) fn rows(&self, claims: &[ClaimOutcome]) -> OutcomeRows {
        let mut rows = OutcomeRows::default();
        for (src_offset, claim) in (self.watermark.next_src.number()..).zip(claims) {
            let (src_offset, appended_at) = (offset(src_offset), at(src_offset * 1_000));
            if claim.code == ClaimCode::Granted {
                let issued = IssuedCoupon {
                    per_user_limit: self.state.definition.per_user_limit(),
                    code: format!("CODE-{}", claim.issue_no.unwrap()),
                    expires_at: Some(at(EXPIRES_AT_MS)),
                };
                rows.push_issued(src_offset, appended_at, claim, issued);
            }
            rows.push_claim(src_offset, appended_at, claim);
        }
        rows
    }

    /// Writes these claims as one batch and moves on.
    pub(crate) async fn write(&mut self, claims: &[ClaimOutcome]) -> Result<Written, PostgresError> {
        let step = self.step(i64::try_from(claims.len()).unwrap());
        let rows = self.rows(claims);
        let written = write_outcomes(&mut self.connection, &step, &rows).await?;
        if let Written::Committed { .. } = written {
            self.watermark = step.to;
            self.state.issued += u32::try_from(rows.issued()).unwrap();
        }
        Ok(written)
    }

    /// Writes a record that could not be read, but named this claim.
    pub(crate) async fn park(&mut self, claim_id: ClaimId) -> Result<Written, PostgresError> {
        let step = self.step(1);
        let mut rows = OutcomeRows::default();
        rows.push_parked(self.watermark.next_src, &claim_id);
        let written = write_outcomes(&mut self.connection, &step, &rows).await?;
        if let Written::Committed { .. } = written {
            self.watermark = step.to;
        }
        Ok(written)
    }

    /// A command that was applied, with a number of its own; [`Shop::state`] is the state behind it.
    pub(crate) fn command(&self, kind: CommandKind, number: u8) -> CommandOutcome {
        CommandOutcome {
            command_id: command_id(self.coupon_id, number),
            kind,
            code: CommandCode::Applied,
            refusal: None,
            actor: "operator".parse().unwrap(),
            reason: Some(Arc::from("because")),
            state: None,
        }
    }

    pub(crate) async fn write_command(&mut self, command: &CommandOutcome) -> Result<Written, PostgresError> {
        let step = self.step(1);
        let src_offset = self.watermark.next_src;
        self.state.last_command = LastCommand { command_id: command.command_id, code: command.code };
        let appended_at = at(src_offset.number() * 1_000);
        let written =
            write_command(&mut self.connection, &step, src_offset, appended_at, command, &self.state).await?;
        if let Written::Committed { .. } = written {
            self.watermark = step.to;
        }
        Ok(written)
    }
}

/// The key behind every id.
pub(crate) fn key() -> Key {
    Key::from_secret(&[7; 32]).unwrap()
}

/// The same number names the same command, whatever its kind.
pub(crate) fn command_id(coupon_id: CouponId, number: u8) -> CommandId {
    key().command_id(coupon_id, CommandKind::Pause, &format!("key-{number}").parse().unwrap())
}

pub(crate) fn published(coupon_id: CouponId, definition: UncheckedDefinition) -> CouponState {
    let definition = definition.check().unwrap();
    CouponState {
        coupon_id,
        status: CouponStatus::Active,
        round: Round::FIRST,
        quantity: definition.quantity(),
        issued: 0,
        version: 1,
        last_command: LastCommand { command_id: command_id(coupon_id, 0), code: CommandCode::Applied },
        last_grant_offset: None,
        definition: Arc::new(definition),
    }
}
