//! What is on offer: its definition, fixed when it is published, and its state, which the ledger moves.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::claim_id::Round;
use crate::code::CommandCode;
use crate::command_id::CommandId;
use crate::coupon_id::CouponId;
use crate::keys::KeyId;
use crate::limits::{EXPIRY_DAYS_MAX, NAME_BYTES_MAX, PER_USER_LIMIT_MAX, QUANTITY_MAX};
use crate::position::Offset;
use crate::timestamp::Timestamp;

/// The newest rule set that this release folds by. A publish command names the rules of its coupon for life; a rule
/// changes only under a new number, and the code keeps every number that a live coupon or a retained log uses.
pub const RULES_NEWEST: u16 = 2;
/// The rules of records that belong to no known coupon. Never raised, so that old logs replay alike.
pub const RULES_WITHOUT_COUPON: u16 = 1;
/// The first rules by which a refusal that follows from the user's grants is not remembered, and by which the end of an open window may move.
const RULES_OF_A_BOUNDED_USER: u16 = 2;

/// The same as [`Definition::forgets_already_issued`], where the number is all there is.
#[must_use]
pub fn rules_forget_already_issued(rules: u16) -> bool {
    rules >= RULES_OF_A_BOUNDED_USER
}

/// When claims are eligible: from `opens_at` (inclusive) to `closes_at` (exclusive), by the broker's append time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedWindow", into = "UncheckedWindow")]
pub struct Window {
    opens_at: Timestamp,
    closes_at: Timestamp,
}

impl Window {
    /// The window between two moments.
    ///
    /// # Errors
    /// It would be empty.
    pub fn new(opens_at: Timestamp, closes_at: Timestamp) -> Result<Self, FieldError> {
        if opens_at < closes_at {
            Ok(Self { opens_at, closes_at })
        } else {
            Err(FieldError { field: "closes_at", problem: "must be after opens_at".to_owned() })
        }
    }

    /// The first moment at which a claim is eligible.
    #[must_use]
    pub fn opens_at(self) -> Timestamp {
        self.opens_at
    }

    /// The first moment at which a claim is too late.
    #[must_use]
    pub fn closes_at(self) -> Timestamp {
        self.closes_at
    }
}

/// A window as it arrives, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct UncheckedWindow {
    opens_at: i64,
    closes_at: i64,
}

impl TryFrom<UncheckedWindow> for Window {
    type Error = FieldError;

    fn try_from(raw: UncheckedWindow) -> Result<Self, Self::Error> {
        Self::new(moment("opens_at", raw.opens_at)?, moment("closes_at", raw.closes_at)?)
    }
}

impl From<Window> for UncheckedWindow {
    fn from(window: Window) -> Self {
        Self { opens_at: window.opens_at.ms(), closes_at: window.closes_at.ms() }
    }
}

/// Until when an issued coupon can be redeemed. Absent: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// Until this moment, the same for all.
    At(Timestamp),
    /// This many times 24 hours after its own issue.
    DaysAfterIssue(u16),
}

impl Expiry {
    /// When a coupon issued at `issued_at` expires.
    #[must_use]
    pub fn of(self, issued_at: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::DaysAfterIssue(days) => issued_at.plus_days(days),
        }
    }
}

/// What a publish command fixes. Only the window can be moved later, before it opens, and the quantity by restocking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedDefinition", into = "UncheckedDefinition")]
pub struct Definition {
    name: Arc<str>,
    quantity: u32,
    per_user_limit: u16,
    window: Window,
    expiry: Option<Expiry>,
    rules: u16,
    key_id: KeyId,
}

impl Definition {
    /// What people read.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many there are at first.
    #[must_use]
    pub fn quantity(&self) -> u32 {
        self.quantity
    }

    /// How many one user may hold.
    #[must_use]
    pub fn per_user_limit(&self) -> u16 {
        self.per_user_limit
    }

    /// When claims are eligible.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    /// Until when an issued coupon can be redeemed.
    #[must_use]
    pub fn expiry(&self) -> Option<Expiry> {
        self.expiry
    }

    /// The number of the rule set that this coupon is folded by.
    #[must_use]
    pub fn rules(&self) -> u16 {
        self.rules
    }

    /// True where a refusal that follows from what the user holds is given anew each time and remembered nowhere: however many keys a user tries, the
    /// ledger, the tables and the view do not grow. It comes before the window and the pause, so that it never changes.
    #[must_use]
    pub fn forgets_already_issued(&self) -> bool {
        rules_forget_already_issued(self.rules)
    }

    /// True where the end of the window may move while the coupon is open.
    #[must_use]
    pub fn end_moves_while_open(&self) -> bool {
        self.rules >= RULES_OF_A_BOUNDED_USER
    }

    /// The key behind the coupon's claim ids and codes.
    #[must_use]
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// What is wrong with this window for what was promised about expiry, if anything is: a coupon that is won at the end of the window must be of use.
    ///
    /// # Errors
    /// `expires_at` lies before the end of the window.
    pub fn outlives(&self, window: Window) -> Result<(), FieldError> {
        match self.expiry {
            Some(Expiry::At(expires_at)) if expires_at < window.closes_at() => Err(FieldError {
                field: "expires_at",
                problem: "must not lie before closes_at: what is won last would have expired already"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// The same definition with another window.
    #[must_use]
    pub fn rescheduled(&self, window: Window) -> Self {
        Self { window, ..self.clone() }
    }
}

/// A definition as it arrives, before any check: numbers wide enough to hold what anybody may send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UncheckedDefinition {
    /// See [`Definition::name`].
    pub name: String,
    /// See [`Definition::quantity`].
    pub quantity: u64,
    /// See [`Definition::per_user_limit`].
    pub per_user_limit: u64,
    /// Milliseconds since the epoch.
    pub opens_at: i64,
    /// Milliseconds since the epoch.
    pub closes_at: i64,
    /// See [`Definition::expiry`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
    /// See [`Definition::rules`].
    pub rules: u16,
    /// See [`Definition::key_id`].
    pub key_id: KeyId,
}

/// A field whose value cannot be taken, and what would be taken instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct FieldError {
    /// The field, as the caller spells it.
    pub field: &'static str,
    /// What is wrong and what is right, to be read behind the field's name.
    pub problem: String,
}

impl UncheckedDefinition {
    /// The definition, if every field is within its limits.
    ///
    /// # Errors
    /// Every field that is not, at once.
    pub fn check(self) -> Result<Definition, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut wrong = |field, problem: String| errors.push(FieldError { field, problem });
        if self.name.trim().is_empty()
            || self.name.len() > NAME_BYTES_MAX
            || self.name.chars().any(char::is_control)
        {
            wrong("name", format!("must have 1..={NAME_BYTES_MAX} bytes and no control characters"));
        }
        let quantity = u32::try_from(self.quantity).ok().filter(|count| (1..=QUANTITY_MAX).contains(count));
        if quantity.is_none() {
            wrong("quantity", format!("must be 1..={QUANTITY_MAX}"));
        }
        let per_user_limit =
            u16::try_from(self.per_user_limit).ok().filter(|limit| (1..=PER_USER_LIMIT_MAX).contains(limit));
        if per_user_limit.is_none() {
            wrong("per_user_limit", format!("must be 1..={PER_USER_LIMIT_MAX}"));
        }
        if let Some(Expiry::DaysAfterIssue(days)) = self.expiry
            && !(1..=EXPIRY_DAYS_MAX).contains(&days)
        {
            wrong("expiry.days_after_issue", format!("must be 1..={EXPIRY_DAYS_MAX}"));
        }
        if self.rules == 0 {
            wrong("rules", "start at 1".to_owned());
        }
        let window = Window::try_from(UncheckedWindow { opens_at: self.opens_at, closes_at: self.closes_at });
        match (quantity, per_user_limit, window) {
            (Some(quantity), Some(per_user_limit), Ok(window)) if errors.is_empty() => Ok(Definition {
                name: Arc::from(self.name),
                quantity,
                per_user_limit,
                window,
                expiry: self.expiry,
                rules: self.rules,
                key_id: self.key_id,
            }),
            (_, _, window) => {
                errors.extend(window.err());
                Err(errors)
            }
        }
    }
}

/// Several fields that cannot be taken, in one line.
#[derive(Debug, thiserror::Error)]
pub struct FieldErrors(Vec<FieldError>);

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

impl TryFrom<UncheckedDefinition> for Definition {
    type Error = FieldErrors;

    fn try_from(raw: UncheckedDefinition) -> Result<Self, Self::Error> {
        raw.check().map_err(FieldErrors)
    }
}

impl From<Definition> for UncheckedDefinition {
    fn from(definition: Definition) -> Self {
        Self {
            name: definition.name.as_ref().to_owned(),
            quantity: definition.quantity.into(),
            per_user_limit: definition.per_user_limit.into(),
            opens_at: definition.window.opens_at.ms(),
            closes_at: definition.window.closes_at.ms(),
            expiry: definition.expiry,
            rules: definition.rules,
            key_id: definition.key_id,
        }
    }
}

fn moment(field: &'static str, ms: i64) -> Result<Timestamp, FieldError> {
    Timestamp::from_ms(ms).map_err(|error| FieldError { field, problem: format!("is wrong: {error}") })
}

/// What an operator has made of a coupon. Whether it is open at this moment follows from its window as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CouponStatus {
    /// Published; claims are eligible within the window.
    Active,
    /// Claims are deferred until it is resumed.
    Paused,
    /// No claim is eligible any more.
    Closed,
    /// Closed and forgotten: the ledger keeps its id and the answers to its commands, nothing else.
    Retired,
}

impl CouponStatus {
    /// The name that records, tables and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Closed => "closed",
            Self::Retired => "retired",
        }
    }

    /// The number in the chain's binary layout; never changed.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Paused => 2,
            Self::Closed => 3,
            Self::Retired => 4,
        }
    }
}

/// The last command that the ledger answered for a coupon, repeats left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCommand {
    /// Which one.
    pub command_id: CommandId,
    /// Its answer.
    pub code: CommandCode,
}

/// A coupon as the ledger sees it behind some record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouponState {
    /// Which one.
    pub coupon_id: CouponId,
    /// As published, with the window as last rescheduled.
    pub definition: Arc<Definition>,
    /// What the operators made of it.
    pub status: CouponStatus,
    /// The round of claims made now.
    pub round: Round,
    /// How many there are, restocks included.
    pub quantity: u32,
    /// How many are granted; never above `quantity`.
    pub issued: u32,
    /// Raised by every applied command; 1 once published.
    pub version: u32,
    /// The last command that was answered.
    pub last_command: LastCommand,
    /// The claims offset of the last grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_grant_offset: Option<Offset>,
}

impl CouponState {
    /// How many can still be granted.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.quantity.saturating_sub(self.issued)
    }

    /// True where no claim appended at `moment` is eligible any more.
    #[must_use]
    pub fn is_closed_at(&self, moment: Timestamp) -> bool {
        matches!(self.status, CouponStatus::Closed | CouponStatus::Retired)
            || moment >= self.definition.window().closes_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> UncheckedDefinition {
        UncheckedDefinition {
            name: "Chicken".to_owned(),
            quantity: 10,
            per_user_limit: 1,
            opens_at: 1_000,
            closes_at: 2_000,
            expiry: Some(Expiry::DaysAfterIssue(30)),
            rules: 1,
            key_id: "k1".parse().unwrap(),
        }
    }

    #[test]
    fn a_definition_within_its_limits_reads_back() {
        let definition = raw().check().unwrap();
        let json = serde_json::to_string(&definition).unwrap();
        assert_eq!(serde_json::from_str::<Definition>(&json).unwrap(), definition);
        assert_eq!(definition.expiry().unwrap().of(Timestamp::EPOCH).ms(), 30 * 86_400_000);
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let wrong = UncheckedDefinition {
            name: "\0".to_owned(),
            quantity: u64::from(QUANTITY_MAX) + 1,
            per_user_limit: 0,
            closes_at: 1_000,
            expiry: Some(Expiry::DaysAfterIssue(EXPIRY_DAYS_MAX + 1)),
            rules: 0,
            ..raw()
        };
        let fields: Vec<_> = wrong.check().unwrap_err().into_iter().map(|error| error.field).collect();
        assert_eq!(
            fields,
            ["name", "quantity", "per_user_limit", "expiry.days_after_issue", "rules", "closes_at"]
        );
    }

    #[test]
    fn each_limit_itself_is_allowed() {
        let largest = UncheckedDefinition {
            name: "x".repeat(NAME_BYTES_MAX),
            quantity: QUANTITY_MAX.into(),
            per_user_limit: PER_USER_LIMIT_MAX.into(),
            expiry: Some(Expiry::DaysAfterIssue(EXPIRY_DAYS_MAX)),
            ..raw()
        };
        assert!(largest.clone().check().is_ok());
        assert!(
            UncheckedDefinition { name: "x".repeat(NAME_BYTES_MAX + 1), ..largest.clone() }.check().is_err()
        );
        assert!(UncheckedDefinition { per_user_limit: 101, ..largest }.check().is_err());
    }
}
