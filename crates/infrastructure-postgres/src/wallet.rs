//! A user's issued coupons.

use coupon_domain::{ClaimId, OrderRef, Timestamp, UserId};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamptz, Untyped, Uuid as UuidType};
use diesel_async::RunQueryDsl;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connection::{PooledConnection, PostgresError};
use crate::rows::{from_time, number, to_time};
use crate::statement::statement;

/// What can be done with an issued coupon, by PostgreSQL's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be redeemed.
    Issued,
    /// It was redeemed.
    Used,
    /// It was not redeemed in time.
    Expired,
}

/// An issued coupon, as its owner holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldCoupon {
    /// The claim that won it.
    pub claim_id: ClaimId,
    /// What the owner shows.
    pub code: String,
    /// The how-manieth of its kind.
    pub issue_no: u32,
    /// When it was won.
    pub issued_at: Timestamp,
    /// From when on it can no longer be redeemed.
    pub expires_at: Option<Timestamp>,
    /// When it was redeemed, and for what.
    pub used: Option<(Timestamp, OrderRef)>,
    /// What can be done with it.
    pub standing: Standing,
}

/// A place in a wallet, which is ordered by time of issue: the page behind it begins with the next older coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalletPlace {
    /// When the coupon at this place was issued.
    pub issued_at: Timestamp,
    /// The last bytes of its claim's id.
    pub claim_mac: [u8; 16],
    /// Its coupon.
    pub coupon_id: Uuid,
}

impl WalletPlace {
    /// The place of a coupon.
    #[must_use]
    pub fn of(held: &HeldCoupon) -> Self {
        Self::at(held.issued_at, &held.claim_id)
    }

    /// The place of a claim that won at this moment.
    #[must_use]
    pub fn at(issued_at: Timestamp, claim_id: &ClaimId) -> Self {
        Self { issued_at, claim_mac: claim_id.mac, coupon_id: claim_id.coupon_id.unique() }
    }
}

#[derive(QueryableByName)]
pub(crate) struct HeldRow {
    #[diesel(sql_type = Text)]
    claim_id: String,
    #[diesel(sql_type = Text)]
    code: String,
    #[diesel(sql_type = Integer)]
    issue_no: i32,
    #[diesel(sql_type = Timestamptz)]
    issued_at: OffsetDateTime,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    used_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<Text>)]
    order_ref: Option<String>,
    #[diesel(sql_type = Bool)]
    is_expired: bool,
}

impl TryFrom<HeldRow> for HeldCoupon {
    type Error = PostgresError;

    fn try_from(row: HeldRow) -> Result<Self, Self::Error> {
        let torn = |what: &str| PostgresError::Torn(format!("the issued coupon {}: {what}", row.claim_id));
        let claim_id: ClaimId = row.claim_id.parse().map_err(|_| torn("its claim id is malformed"))?;
        let used = match (row.used_at, &row.order_ref) {
            (Some(used_at), Some(order_ref)) => {
                let order_ref = order_ref.parse().map_err(|_| torn("order_ref is malformed"))?;
                Some((from_time(used_at)?, order_ref))
            }
            (None, None) => None,
            _ => return Err(torn("used_at and order_ref do not go together")),
        };
        let standing = match (&used, row.is_expired) {
            (Some(_), _) => Standing::Used,
            (None, true) => Standing::Expired,
            (None, false) => Standing::Issued,
        };
        Ok(Self {
            claim_id,
            issue_no: number("issue_no", row.issue_no)?,
            issued_at: from_time(row.issued_at)?,
            expires_at: row.expires_at.map(from_time).transpose()?,
            used,
            standing,
            code: row.code,
        })
    }
}

struct ListWallet<'a> {
    user_id: &'a str,
    issued_before: OffsetDateTime,
    claim_mac: Uuid,
    coupon_id: Uuid,
    limit: i64,
}

statement!(ListWallet, "sql/list_wallet.sql", (
    user_id: Text, issued_before: Timestamptz, claim_mac: UuidType, coupon_id: UuidType, limit: BigInt
) -> Untyped);

/// The user's issued coupons, the newest first: at most `limit`, those behind `place`.
///
/// # Errors
/// [`PostgresError`].
pub async fn list(
    connection: &mut PooledConnection,
    user_id: &UserId,
    place: Option<WalletPlace>,
    limit: u16,
) -> Result<Vec<HeldCoupon>, PostgresError> {
    let query = ListWallet {
        user_id: user_id.as_str(),
        // Without a place: behind the end of time, where nothing was issued.
        issued_before: place.map_or(BEHIND_EVERYTHING, |place| to_time(place.issued_at)),
        claim_mac: Uuid::from_bytes(place.map_or([u8::MAX; 16], |place| place.claim_mac)),
        coupon_id: place.map_or(Uuid::max(), |place| place.coupon_id),
        limit: limit.into(),
    };
    let rows: Vec<HeldRow> = query.load(connection).await?;
    rows.into_iter().map(HeldCoupon::try_from).collect()
}

const BEHIND_EVERYTHING: OffsetDateTime = time::macros::datetime!(9999-12-31 23:59:59.999 UTC);
