//! Redeeming issued coupons, each at most once.
//!
//! One statement decides under the row's lock. Expiry is judged by PostgreSQL's own clock: it is the store that decides, and all gateways
//! ask the same one.

use coupon_domain::{ClaimId, IdempotencyKey, OrderRef, UserId};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, SmallInt, Text, Untyped, Uuid as UuidType};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::closures::{self, Closure};
use crate::connection::{PooledConnection, PostgresError};
use crate::rows::slot_to_column;
use crate::statement::statement;
use crate::wallet::{HeldCoupon, HeldRow, Standing};

/// Redeeming failed and nothing speaks against it any more: so often it is tried in all.
const TRIES_MAX: u32 = 3;

/// A user's wish to use an issued coupon.
#[derive(Clone, Debug)]
pub struct Redemption {
    /// The claim that won the coupon.
    pub claim_id: ClaimId,
    /// Who holds it.
    pub user_id: UserId,
    /// The caller's own name for this request.
    pub idempotency_key: IdempotencyKey,
    /// What for.
    pub order_ref: OrderRef,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// It was used just now.
    Now(HeldCoupon),
    /// The same request had used it before.
    Before(HeldCoupon),
    /// The same key had used it for another order.
    KeyReused,
    /// Another request had used it.
    AlreadyUsed,
    /// Too late.
    Expired(HeldCoupon),
    /// This user holds no such coupon.
    Unknown,
    /// Redeeming is closed.
    Closed(Closure),
}

struct Redeem<'a> {
    order_ref: &'a str,
    claim_mac: Uuid,
    coupon_id: Uuid,
    round: i16,
    slot: i64,
    user_id: &'a str,
    idempotency_key: &'a str,
}

statement!(Redeem, "sql/redeem.sql", (
    order_ref: Text, claim_mac: UuidType, coupon_id: UuidType, round: SmallInt, slot: BigInt, user_id: Text,
    idempotency_key: Text
) -> Untyped);

struct LookAtIssuedCoupon<'a> {
    claim_mac: Uuid,
    coupon_id: Uuid,
    round: i16,
    slot: i64,
    user_id: &'a str,
}

statement!(LookAtIssuedCoupon, "sql/look_at_issued_coupon.sql", (
    claim_mac: UuidType, coupon_id: UuidType, round: SmallInt, slot: BigInt, user_id: Text
) -> Untyped);

#[derive(QueryableByName)]
struct FoundRow {
    #[diesel(embed)]
    held: HeldRow,
    #[diesel(sql_type = Nullable<Text>)]
    idempotency_key: Option<String>,
}

/// Redeems an issued coupon, or says why not.
///
/// # Errors
/// [`PostgresError`]; it may have been redeemed all the same. The same request again says so.
pub async fn redeem(
    connection: &mut PooledConnection,
    redemption: &Redemption,
) -> Result<Redeemed, PostgresError> {
    for _ in 0..TRIES_MAX {
        if let Some(held) = try_to_use(connection, redemption).await? {
            return Ok(Redeemed::Now(held));
        }
        if let Some(obstacle) = obstacle(connection, redemption).await? {
            return Ok(obstacle);
        }
        // Nothing speaks against it now: the row came, or redeeming was reopened, between the two looks.
    }
    Err(PostgresError::Unreachable("redeeming changes its mind".to_owned()))
}

async fn try_to_use(
    connection: &mut PooledConnection,
    redemption: &Redemption,
) -> Result<Option<HeldCoupon>, PostgresError> {
    let Redemption { claim_id, user_id, idempotency_key, order_ref } = redemption;
    let query = Redeem {
        order_ref: order_ref.as_str(),
        claim_mac: Uuid::from_bytes(claim_id.mac),
        coupon_id: claim_id.coupon_id.unique(),
        round: claim_id.round.number().into(),
        slot: slot_to_column(claim_id.slot),
        user_id: user_id.as_str(),
        idempotency_key: idempotency_key.as_str(),
    };
    let row: Option<HeldRow> = query.get_result(connection).await.optional()?;
    row.map(HeldCoupon::try_from).transpose()
}

/// Why it was not used. A statement of its own: one that waited for the row still sees everything else as it was when it began.
async fn obstacle(
    connection: &mut PooledConnection,
    redemption: &Redemption,
) -> Result<Option<Redeemed>, PostgresError> {
    // First of all: while redeeming is closed, rows may be missing that will be there again.
    if let Some(closure) = closures::standing(connection).await? {
        return Ok(Some(Redeemed::Closed(closure)));
    }
    let Redemption { claim_id, user_id, idempotency_key, order_ref } = redemption;
    let query = LookAtIssuedCoupon {
        claim_mac: Uuid::from_bytes(claim_id.mac),
        coupon_id: claim_id.coupon_id.unique(),
        round: claim_id.round.number().into(),
        slot: slot_to_column(claim_id.slot),
        user_id: user_id.as_str(),
    };
    let found: Option<FoundRow> = query.get_result(connection).await.optional()?;
    let Some(FoundRow { held, idempotency_key: used_under }) = found else {
        return Ok(Some(Redeemed::Unknown));
    };
    let held = HeldCoupon::try_from(held)?;
    Ok(match held.standing {
        Standing::Used if used_under.as_deref() != Some(idempotency_key.as_str()) => {
            Some(Redeemed::AlreadyUsed)
        }
        Standing::Used if held.used.as_ref().is_some_and(|(_, used_for)| used_for == order_ref) => {
            Some(Redeemed::Before(held))
        }
        Standing::Used => Some(Redeemed::KeyReused),
        Standing::Expired => Some(Redeemed::Expired(held)),
        Standing::Issued => None,
    })
}
