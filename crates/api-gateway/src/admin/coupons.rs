//! Drafts, and what became of them.

use actix_web::web::{Data, Json, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use coupon_domain::coupon::{FieldError, RULES_NEWEST};
use coupon_domain::wire::PublishedState;
use coupon_domain::{CouponId, CouponState, Definition, Expiry, IdempotencyKey, Partition, Timestamp};
use infrastructure_http::headers::required_idempotency_key;
use infrastructure_http::time::{from_rfc3339, to_rfc3339};
use infrastructure_http::{Code, Problem, Scope};
use infrastructure_postgres::coupons;
use infrastructure_postgres::drafts::{self, Draft, Inserted};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::desk::Desk;
use crate::offer::{Phase, spell_expiry};
use crate::paths::{parse_coupon, wrong_fields};

/// Coupons on a page unless asked otherwise.
const PAGE: u16 = 50;
/// Most coupons on a page.
const PAGE_MAX: u16 = 200;

/// A coupon to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DraftRequest {
    name: String,
    quantity: u64,
    #[serde(default = "one")]
    per_user_limit: u64,
    #[schema(format = DateTime)]
    opens_at: String,
    #[schema(format = DateTime)]
    closes_at: String,
    /// When what was issued expires; or `expires_after_days`, or neither.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[serde(default)]
    expires_after_days: Option<u16>,
}

fn one() -> u64 {
    1
}

pub(crate) async fn create(
    request: HttpRequest,
    body: Json<DraftRequest>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    let operator = desk.operator(&request, Scope::WriteCoupons).await?;
    let idempotency_key = required_idempotency_key(&request)?;
    let definition = body.into_inner().check(&desk).map_err(wrong_fields)?;
    let draft = new_draft(&desk, &definition, operator.user_id, idempotency_key)?;
    let inserted = desk
        .ask_postgres("insert_draft", async |connection| drafts::insert(connection, &draft).await)
        .await?;
    match inserted {
        Inserted::New => {
            let location = format!("/admin/v1/coupons/{}", draft.coupon_id);
            Ok(HttpResponse::Created().insert_header(("Location", location)).json(AdminCoupon::draft(&draft)))
        }
        Inserted::Existing(existing) if existing.is_same_offer(&draft) => {
            Ok(HttpResponse::Ok().json(AdminCoupon::draft(&existing)))
        }
        Inserted::Existing(_) => Err(Problem::new(
            Code::IdempotencyKeyReused,
            "this Idempotency-Key came with another draft before: use a new key for a new draft",
        )),
    }
}

impl DraftRequest {
    /// Every wrong field at once.
    fn check(self, desk: &Desk) -> Result<Definition, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut moment = |field, text: &str| {
            from_rfc3339(text).unwrap_or_else(|problem| {
                errors.push(FieldError { field, problem });
                Timestamp::EPOCH
            })
        };
        let (opens_at, closes_at) =
            (moment("opens_at", &self.opens_at), moment("closes_at", &self.closes_at));
        let expiry = match (self.expires_at, self.expires_after_days) {
            (Some(text), None) => Some(Expiry::At(moment("expires_at", &text))),
            (None, Some(days)) => Some(Expiry::DaysAfterIssue(days)),
            (None, None) => None,
            (Some(_), Some(_)) => {
                let problem = "and expires_after_days exclude each other".to_owned();
                errors.push(FieldError { field: "expires_at", problem });
                None
            }
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let unchecked = coupon_domain::coupon::UncheckedDefinition {
            name: self.name,
            quantity: self.quantity,
            per_user_limit: self.per_user_limit,
            opens_at: opens_at.ms(),
            closes_at: closes_at.ms(),
            expiry,
            rules: RULES_NEWEST,
            key_id: desk.active_key.clone(),
        };
        let definition = unchecked.check()?;
        definition.outlives(definition.window()).map_err(|error| vec![error])?;
        Ok(definition)
    }
}

/// A draft in the partition that holds the fewest live coupons, of those whose line moves: a line of its own, as long as there are enough.
fn new_draft(
    desk: &Desk,
    definition: &Definition,
    created_by: coupon_domain::UserId,
    idempotency_key: IdempotencyKey,
) -> Result<Draft, Problem> {
    let created_at = desk.context.clock.now();
    let counts = desk.states.coupons_by_partition(desk.context.config.kafka.partitions);
    let emptiest = emptiest(&counts, |partition| desk.line_is_late(partition));
    let chosen = emptiest.get(rand::random_range(0..emptiest.len().max(1))).copied().unwrap_or(0);
    let partition = i32::try_from(chosen)
        .ok()
        .and_then(|number| Partition::new(number).ok())
        .ok_or_else(|| Problem::new(Code::Internal, "there are more partitions than a coupon id can name"))?;
    let seconds = u64::try_from(created_at.ms() / 1_000).unwrap_or(0);
    let nanoseconds = u32::try_from(created_at.ms() % 1_000).unwrap_or(0) * 1_000_000;
    let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanoseconds);
    Ok(Draft {
        coupon_id: CouponId::new(partition, Uuid::new_v7(time)),
        name: definition.name().to_owned(),
        quantity: definition.quantity(),
        per_user_limit: definition.per_user_limit(),
        window: definition.window(),
        expiry: definition.expiry(),
        created_by,
        created_at,
        idempotency_key,
    })
}

/// The partitions with the fewest live coupons, of those that are not late; where all are, of all.
fn emptiest(live_coupons: &[u32], is_late: impl Fn(usize) -> bool) -> Vec<usize> {
    let all_late = (0..live_coupons.len()).all(&is_late);
    let eligible =
        || live_coupons.iter().enumerate().filter(|(partition, _)| all_late || !is_late(*partition));
    let fewest = eligible().map(|(_, count)| *count).min();
    eligible().filter(|(_, count)| Some(**count) == fewest).map(|(partition, _)| partition).collect()
}

/// A coupon as operators see it: a draft, or published.
#[derive(Serialize, ToSchema)]
pub(crate) struct AdminCoupon {
    #[schema(value_type = String)]
    coupon_id: CouponId,
    partition: i32,
    status: AdminStatus,
    name: String,
    quantity: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    per_user_limit: u16,
    #[schema(format = DateTime)]
    opens_at: String,
    #[schema(format = DateTime)]
    closes_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_after_days: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_offset: Option<i64>,
}

/// Where a coupon stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AdminStatus {
    /// Not published.
    Draft,
    /// Its window has not opened.
    Scheduled,
    /// Claims are eligible.
    Open,
    /// Held back.
    Paused,
    /// Nothing left.
    SoldOut,
    /// Over.
    Closed,
    /// Over, and forgotten by the line.
    Retired,
}

impl From<Phase> for AdminStatus {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Scheduled => Self::Scheduled,
            Phase::Open => Self::Open,
            Phase::Paused => Self::Paused,
            Phase::SoldOut => Self::SoldOut,
            Phase::Closed => Self::Closed,
        }
    }
}

impl AdminCoupon {
    fn draft(draft: &Draft) -> Self {
        let (expires_at, expires_after_days) = spell_expiry(draft.expiry);
        Self {
            coupon_id: draft.coupon_id,
            partition: draft.coupon_id.partition().number(),
            status: AdminStatus::Draft,
            name: draft.name.clone(),
            quantity: draft.quantity,
            issued: None,
            remaining: None,
            round: None,
            version: None,
            per_user_limit: draft.per_user_limit,
            opens_at: to_rfc3339(draft.window.opens_at()),
            closes_at: to_rfc3339(draft.window.closes_at()),
            expires_at,
            expires_after_days,
            key_id: None,
            created_by: Some(draft.created_by.as_str().to_owned()),
            created_at: Some(to_rfc3339(draft.created_at)),
            decided_offset: None,
        }
    }

    fn published(desk: &Desk, state: &CouponState, decided: Option<coupon_domain::Offset>) -> Self {
        let definition = &state.definition;
        let (expires_at, expires_after_days) = spell_expiry(definition.expiry());
        let retired = state.status == coupon_domain::CouponStatus::Retired;
        Self {
            coupon_id: state.coupon_id,
            partition: state.coupon_id.partition().number(),
            status: if retired {
                AdminStatus::Retired
            } else {
                Phase::of(state, desk.broker_now(state.coupon_id)).into()
            },
            name: definition.name().to_owned(),
            quantity: state.quantity,
            issued: Some(state.issued),
            remaining: Some(state.remaining()),
            round: Some(state.round.number()),
            version: Some(state.version),
            per_user_limit: definition.per_user_limit(),
            opens_at: to_rfc3339(definition.window().opens_at()),
            closes_at: to_rfc3339(definition.window().closes_at()),
            expires_at,
            expires_after_days,
            key_id: Some(definition.key_id().as_str().to_owned()),
            created_by: None,
            created_at: None,
            decided_offset: decided.map(coupon_domain::Offset::number),
        }
    }

    fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        if let Some(version) = self.version {
            response.insert_header(("ETag", format!("\"{version}\"")));
        }
        response.insert_header(("Cache-Control", "no-store")).json(self)
    }
}

pub(crate) async fn get(
    request: HttpRequest,
    path: Path<String>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    desk.operator(&request, Scope::ReadCoupons).await?;
    let coupon_id = parse_coupon(&path)?;
    if let Some(known) = desk.states.get(coupon_id) {
        return Ok(of_state(&desk, &known).response());
    }
    let found = desk
        .ask_postgres("find_coupon", async |connection| {
            let published = coupons::find_many(connection, &[coupon_id]).await?;
            Ok((published.into_iter().next(), drafts::find(connection, coupon_id).await?))
        })
        .await?;
    match found {
        (Some(state), _) => Ok(AdminCoupon::published(&desk, &state, None).response()),
        (None, Some(draft)) => Ok(AdminCoupon::draft(&draft).response()),
        (None, None) => Err(Problem::new(Code::UnknownCoupon, format!("there is no coupon {coupon_id}"))),
    }
}

fn of_state(desk: &Desk, known: &PublishedState) -> AdminCoupon {
    AdminCoupon::published(desk, &known.state, known.decided_offset)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageRequest {
    #[serde(default)]
    limit: Option<u16>,
    /// The last coupon id of the page before.
    #[serde(default)]
    before: Option<String>,
}

/// A page of coupons, the newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct PageView {
    coupons: Vec<AdminCoupon>,
    /// Give it as `before` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<CouponId>,
}

/// All coupons, the newest first. Every coupon began as a draft.
pub(crate) async fn list(
    request: HttpRequest,
    page: Query<PageRequest>,
    desk: Data<Desk>,
) -> Result<HttpResponse, Problem> {
    desk.operator(&request, Scope::ReadCoupons).await?;
    let limit = page.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::invalid("limit", format!("must be 1..={PAGE_MAX}")));
    }
    let before = page.before.as_deref().map(parse_coupon).transpose()?;
    let (drafts, published) = desk
        .ask_postgres("list_coupons", async |connection| {
            let drafts = drafts::list(connection, before, limit).await?;
            let unknown: Vec<CouponId> = drafts
                .iter()
                .map(|draft| draft.coupon_id)
                .filter(|coupon_id| desk.states.get(*coupon_id).is_none())
                .collect();
            Ok((drafts, coupons::find_many(connection, &unknown).await?))
        })
        .await?;
    let view_of = |draft: &Draft| match desk.states.get(draft.coupon_id) {
        Some(known) => of_state(&desk, &known),
        None => match published.iter().find(|state| state.coupon_id == draft.coupon_id) {
            Some(state) => AdminCoupon::published(&desk, state, None),
            None => AdminCoupon::draft(draft),
        },
    };
    let full = drafts.len() == usize::from(limit);
    let body = PageView {
        coupons: drafts.iter().map(view_of).collect(),
        next: drafts.last().filter(|_| full).map(|draft| draft.coupon_id),
    };
    Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_coupons_go_to_the_emptiest_lines_that_move() {
        assert_eq!(emptiest(&[2, 0, 1, 0], |_| false), [1, 3]);
        assert_eq!(emptiest(&[2, 0, 1, 0], |partition| partition == 1), [3]);
        assert_eq!(emptiest(&[2, 0, 1, 0], |partition| partition % 2 == 1), [2]);
        assert_eq!(emptiest(&[2, 0, 1, 0], |_| true), [1, 3], "where none moves it has to be one of them");
        assert_eq!(emptiest(&[], |_| false), Vec::<usize>::new());
    }
}
