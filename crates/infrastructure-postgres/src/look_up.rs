//! Looking up a claim's answer. The claim and the watermark are read in one statement: read one after the other, an answer
//! committed in between would be missed, and "nothing there up to T" would be wrong.

use coupon_domain::{ClaimAnswer, ClaimCode, ClaimId, Offset, UserId};
use diesel::prelude::*;
use diesel::sql_types::{
    BigInt, Bool, Integer, Nullable, SmallInt, Text, Timestamptz, Untyped, Uuid as UuidType,
};
use diesel_async::RunQueryDsl;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connection::{PooledConnection, PostgresError};
use crate::rows::{self, from_time, number, offset};
use crate::statement::statement;

/// What PostgreSQL knows of a claim, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct LookedUp {
    /// The outcomes offset that is reflected next: everything before it is in this answer.
    pub next_outcome_offset: Offset,
    /// The claims offset that is reflected next.
    pub next_src: Offset,
    /// The newest answer: the final one, else the last deferral.
    pub answer: Option<ClaimAnswer>,
    /// The issued coupon of a granted claim.
    pub issued: Option<IssuedCoupon>,
    /// The last place in the line where the claim's record could not be read.
    pub parked: Option<Offset>,
    /// The coupon is retired.
    pub retired: bool,
    /// The coupon's rules answer `already_issued` anew each time, and no row is written of it.
    pub forgets_already_issued: bool,
    /// The grant because of which the user who was named gets no other: that of the claim's slot, else, at the limit, their first.
    pub winner: Option<ClaimId>,
}

/// An issued coupon, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCoupon {
    /// What the winner shows.
    pub code: String,
    /// From when on it can no longer be redeemed.
    pub expires_at: Option<coupon_domain::Timestamp>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    next_outcome_offset: i64,
    #[diesel(sql_type = BigInt)]
    next_src: i64,
    #[diesel(sql_type = Bool)]
    retired: bool,
    #[diesel(sql_type = Nullable<Integer>)]
    rules: Option<i32>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    winner_round: Option<i16>,
    #[diesel(sql_type = Nullable<BigInt>)]
    winner_slot: Option<i64>,
    #[diesel(sql_type = Nullable<UuidType>)]
    winner_mac: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    code: Option<String>,
    #[diesel(sql_type = Nullable<Bool>)]
    is_final: Option<bool>,
    #[diesel(sql_type = Nullable<BigInt>)]
    src_offset: Option<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    appended_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<Integer>)]
    rank: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    issue_no: Option<i32>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    user_nth: Option<i16>,
    #[diesel(sql_type = Nullable<UuidType>)]
    granted_claim_mac: Option<Uuid>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    granted_round: Option<i16>,
    #[diesel(sql_type = Nullable<BigInt>)]
    granted_slot: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    coupon_code: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<BigInt>)]
    parked_offset: Option<i64>,
}

struct LookUpClaim<'a> {
    partition: i32,
    claim_mac: &'a Uuid,
    coupon_id: &'a Uuid,
    slot: i64,
    user_id: Option<&'a str>,
}

statement!(LookUpClaim, "sql/look_up_claim.sql", (
    partition: Integer, claim_mac: UuidType, coupon_id: UuidType, slot: BigInt, user_id: Nullable<Text>,
) -> Untyped);

/// Looks up a claim, and where its user is named what they hold of its coupon. The mac in its id is unique among all claims.
///
/// # Errors
/// [`PostgresError`].
pub async fn claim(
    connection: &mut PooledConnection,
    claim_id: &ClaimId,
    user_id: Option<&UserId>,
) -> Result<LookedUp, PostgresError> {
    // Each user's look: parsed and planned anew, it would cost several times its execution.
    let query = LookUpClaim {
        partition: claim_id.coupon_id.partition().number(),
        claim_mac: &Uuid::from_bytes(claim_id.mac),
        coupon_id: &claim_id.coupon_id.unique(),
        slot: rows::slot_to_column(claim_id.slot),
        user_id: user_id.map(UserId::as_str),
    };
    let row: Row = query.get_result(connection).await?;
    let answer = row.answer(claim_id)?;
    let expires_at = row.expires_at.map(from_time).transpose()?;
    let forgets_already_issued = match row.rules {
        Some(rules) => coupon_domain::coupon::rules_forget_already_issued(number("rules", rules)?),
        None => false,
    };
    let winner = match (row.winner_round, row.winner_slot, row.winner_mac) {
        (Some(round), Some(slot), Some(mac)) => {
            Some(rows::claim_id(claim_id.coupon_id, ("round", round), slot, mac)?)
        }
        _ => None,
    };
    Ok(LookedUp {
        next_outcome_offset: offset("next_outcome_offset", row.next_outcome_offset)?,
        next_src: offset("next_src", row.next_src)?,
        answer,
        issued: row.coupon_code.map(|code| IssuedCoupon { code, expires_at }),
        parked: row.parked_offset.map(|parked| offset("src_offset", parked)).transpose()?,
        retired: row.retired,
        forgets_already_issued,
        winner,
    })
}

impl Row {
    fn answer(&self, claim_id: &ClaimId) -> Result<Option<ClaimAnswer>, PostgresError> {
        let (Some(code), Some(is_final), Some(src_offset), Some(appended_at)) =
            (&self.code, self.is_final, self.src_offset, self.appended_at)
        else {
            return Ok(None);
        };
        let torn = |what: &str| PostgresError::Torn(format!("the claim at offset {src_offset}: {what}"));
        let granted_claim_id = match (self.granted_round, self.granted_slot, self.granted_claim_mac) {
            (Some(round), Some(slot), Some(mac)) => {
                Some(rows::claim_id(claim_id.coupon_id, ("granted_round", round), slot, mac)?)
            }
            _ => None,
        };
        Ok(Some(ClaimAnswer {
            claim_id: *claim_id,
            code: ClaimCode::from_name(code).ok_or_else(|| torn("code is unknown"))?,
            is_final,
            decided_offset: offset("src_offset", src_offset)?,
            decided_at: from_time(appended_at)?,
            issue_no: self.issue_no.map(|issue_no| number("issue_no", issue_no)).transpose()?,
            user_nth: self.user_nth.map(|nth| number("user_nth", nth)).transpose()?,
            rank: self.rank.map(|rank| number("rank", rank)).transpose()?,
            granted_claim_id,
        }))
    }
}
