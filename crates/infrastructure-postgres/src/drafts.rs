//! Drafts: coupons that are not published yet. The only rows that gateways write, apart from redemptions.

use coupon_domain::coupon::{UncheckedDefinition, Window};
use coupon_domain::{CouponId, Expiry, IdempotencyKey, KeyId, Partition, Timestamp, UserId};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connection::{PooledConnection, PostgresError};
use crate::rows::{from_time, number, to_time};
use crate::schema::coupon_drafts;

/// A draft.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The id that the coupon will have.
    pub coupon_id: CouponId,
    /// What people read.
    pub name: String,
    /// How many there will be at first.
    pub quantity: u32,
    /// How many one user may hold.
    pub per_user_limit: u16,
    /// When claims are eligible.
    pub window: Window,
    /// Until when an issued coupon can be redeemed.
    pub expiry: Option<Expiry>,
    /// Who made it.
    pub created_by: UserId,
    /// When.
    pub created_at: Timestamp,
    /// The request that made it: the same operator's same key makes one draft.
    pub idempotency_key: IdempotencyKey,
}

/// What became of a draft that was to be stored.
#[derive(Clone, Debug)]
pub enum Inserted {
    /// It is stored.
    New,
    /// The same request had made this one before, and nothing was changed.
    Existing(Draft),
}

impl Draft {
    /// True where both offer the same, whatever their ids.
    #[must_use]
    pub fn is_same_offer(&self, other: &Self) -> bool {
        self.name == other.name
            && self.quantity == other.quantity
            && self.per_user_limit == other.per_user_limit
            && self.window == other.window
            && self.expiry == other.expiry
    }

    /// The definition that publishing fixes, with the rules and the key of that moment.
    #[must_use]
    pub fn definition(&self, rules: u16, key_id: KeyId) -> UncheckedDefinition {
        UncheckedDefinition {
            name: self.name.clone(),
            quantity: self.quantity.into(),
            per_user_limit: self.per_user_limit.into(),
            opens_at: self.window.opens_at().ms(),
            closes_at: self.window.closes_at().ms(),
            expiry: self.expiry,
            rules,
            key_id,
        }
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = coupon_drafts, check_for_backend(diesel::pg::Pg))]
struct DraftRow {
    coupon_id: Uuid,
    partition: i32,
    name: String,
    quantity: i32,
    per_user_limit: i32,
    opens_at: OffsetDateTime,
    closes_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    expires_after_days: Option<i32>,
    created_by: String,
    created_at: OffsetDateTime,
    idempotency_key: String,
}

impl TryFrom<DraftRow> for Draft {
    type Error = PostgresError;

    fn try_from(row: DraftRow) -> Result<Self, Self::Error> {
        let torn = |what: &str| PostgresError::Torn(format!("draft {}: {what}", row.coupon_id));
        let partition = Partition::new(row.partition).map_err(|_| torn("partition is out of range"))?;
        let expiry = match (row.expires_at, row.expires_after_days) {
            (Some(time), _) => Some(Expiry::At(from_time(time)?)),
            (None, Some(days)) => Some(Expiry::DaysAfterIssue(number("expires_after_days", days)?)),
            (None, None) => None,
        };
        Ok(Self {
            coupon_id: CouponId::new(partition, row.coupon_id),
            quantity: number("quantity", row.quantity)?,
            per_user_limit: number("per_user_limit", row.per_user_limit)?,
            window: Window::new(from_time(row.opens_at)?, from_time(row.closes_at)?)
                .map_err(|_| torn("the window is empty"))?,
            expiry,
            created_by: row.created_by.parse().map_err(|_| torn("created_by is malformed"))?,
            created_at: from_time(row.created_at)?,
            idempotency_key: row.idempotency_key.parse().map_err(|_| torn("idempotency_key is malformed"))?,
            name: row.name,
        })
    }
}

/// Stores a draft, unless the same request made one before.
///
/// # Errors
/// [`PostgresError`].
pub async fn insert(connection: &mut PooledConnection, draft: &Draft) -> Result<Inserted, PostgresError> {
    let (expires_at, expires_after_days) = match draft.expiry {
        None => (None, None),
        Some(Expiry::At(moment)) => (Some(to_time(moment)), None),
        Some(Expiry::DaysAfterIssue(days)) => (None, Some(i32::from(days))),
    };
    let row = DraftRow {
        coupon_id: draft.coupon_id.unique(),
        partition: draft.coupon_id.partition().number(),
        name: draft.name.clone(),
        quantity: i32::try_from(draft.quantity).unwrap_or(i32::MAX),
        per_user_limit: i32::from(draft.per_user_limit),
        opens_at: to_time(draft.window.opens_at()),
        closes_at: to_time(draft.window.closes_at()),
        expires_at,
        expires_after_days,
        created_by: draft.created_by.as_str().to_owned(),
        created_at: to_time(draft.created_at),
        idempotency_key: draft.idempotency_key.as_str().to_owned(),
    };
    let inserted = diesel::insert_into(coupon_drafts::table)
        .values(row)
        .on_conflict((coupon_drafts::created_by, coupon_drafts::idempotency_key))
        .do_nothing()
        .execute(connection)
        .await?;
    if inserted == 1 {
        return Ok(Inserted::New);
    }
    let existing: DraftRow = coupon_drafts::table
        .filter(coupon_drafts::created_by.eq(draft.created_by.as_str()))
        .filter(coupon_drafts::idempotency_key.eq(draft.idempotency_key.as_str()))
        .select(DraftRow::as_select())
        .first(connection)
        .await?;
    existing.try_into().map(Inserted::Existing)
}

/// The draft with this id.
///
/// # Errors
/// [`PostgresError`].
pub async fn find(
    connection: &mut PooledConnection,
    coupon_id: CouponId,
) -> Result<Option<Draft>, PostgresError> {
    let row: Option<DraftRow> = coupon_drafts::table
        .find(coupon_id.unique())
        .select(DraftRow::as_select())
        .first(connection)
        .await
        .optional()?;
    row.map(Draft::try_from).transpose()
}

/// Drafts, the newest first: at most `limit`, those created before `before` (the last id of the page before).
///
/// # Errors
/// [`PostgresError`].
pub async fn list(
    connection: &mut PooledConnection,
    before: Option<CouponId>,
    limit: u16,
) -> Result<Vec<Draft>, PostgresError> {
    use coupon_drafts::dsl;

    // Ids are UUIDs of version 7: their order is the order of creation.
    let newest =
        coupon_drafts::table.select(DraftRow::as_select()).order(dsl::coupon_id.desc()).limit(limit.into());
    let rows: Vec<DraftRow> = match before {
        None => newest.load(connection).await?,
        Some(before) => newest.filter(dsl::coupon_id.lt(before.unique())).load(connection).await?,
    };
    rows.into_iter().map(Draft::try_from).collect()
}
