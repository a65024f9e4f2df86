//! What an audit reads, with values as they stand in the tables. A partition's small tables are read at one moment; rows of `claims` never change, so they
//! are read page by page, as far as they were there at that moment: nothing holds back the vacuum for the length of an audit.
//!
//! Of named coupons nothing is read but their own rows: what is small through keys that begin with the coupon, `claims` by the places that the line gives them.
//!
//! A row that does not fit its types is what an audit is for, so it is handed out as a finding ([`Row`]), not as an error.

use std::collections::BTreeMap;

use coupon_domain::{
    ClaimAnswer, ClaimCode, CommandId, CouponId, CouponState, Offset, Partition, Round, Slot, Timestamp,
};
use diesel::pg::Pg;
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid as UuidType,
};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::checkpoint::{self, LoadError, StoredLedger};
use crate::config::PostgresSection;
use crate::connection::{Connection, PostgresError};
use crate::coupons;
use crate::retention::Deleted;
use crate::rows::{claim_id, from_time, number, offset, slot_from_column};

/// The database, for reading.
pub struct TableReader {
    connection: Connection,
}

/// Whose rows are read.
#[derive(Clone, Debug)]
pub struct Whose {
    partition: Partition,
    /// The unique parts of coupons of the partition; none: all of it.
    named: Option<Vec<Uuid>>,
}

impl Whose {
    /// All rows of a partition.
    #[must_use]
    pub fn all(partition: Partition) -> Self {
        Self { partition, named: None }
    }

    /// Those of these coupons, as far as they are the partition's.
    #[must_use]
    pub fn named(partition: Partition, coupons: impl IntoIterator<Item = CouponId>) -> Self {
        let of_partition = coupons.into_iter().filter(|coupon_id| coupon_id.partition() == partition);
        Self { partition, named: Some(of_partition.map(|coupon_id| coupon_id.unique()).collect()) }
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// True where only some coupons are meant.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.named.is_some()
    }

    /// True where this coupon's rows are read; none: what belongs to no coupon.
    #[must_use]
    pub fn includes(&self, coupon_id: Option<CouponId>) -> bool {
        match (&self.named, coupon_id) {
            (None, _) => true,
            (Some(named), Some(coupon_id)) => named.contains(&coupon_id.unique()),
            (Some(_), None) => false,
        }
    }
}

/// Rows of `claims` of a coupon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimRows {
    /// Below the watermark.
    pub below: i64,
    /// At or behind it.
    pub beyond: i64,
}

/// A row, by where it stands: what it says, or what is wrong with it.
pub type Row<T> = (Offset, Result<T, String>);

/// A row of `claims`, with the issued coupon of the same claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredClaim {
    /// The answer.
    pub answer: ClaimAnswer,
    /// Whose claim.
    pub user_id: String,
    /// The issued coupon.
    pub issued: Option<StoredIssue>,
}

/// A row of `issued_coupons`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredIssue {
    /// Whose coupon.
    pub user_id: String,
    /// Its number.
    pub issue_no: u32,
    /// The how-manieth of this user.
    pub user_nth: u16,
    /// When it was granted.
    pub issued_at: Timestamp,
    /// From when on it can no longer be redeemed.
    pub expires_at: Option<Timestamp>,
    /// The round and the slot of its claim.
    pub place: (Round, Slot),
    /// The limit that was copied into it.
    pub per_user_limit: u16,
    /// What the winner shows.
    pub code: String,
}

/// A row of `commands`, with the audit event of the same record.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCommand {
    /// Which command.
    pub command_id: CommandId,
    /// Its kind.
    pub kind: String,
    /// Its answer.
    pub code: String,
    /// Refused: why.
    pub refusal: Option<String>,
    /// The coupon's version behind it.
    pub version: u32,
    /// The append time of its record.
    pub appended_at: Timestamp,
    /// The audit event: who, why, and the state behind it.
    pub event: Option<(String, Option<String>, serde_json::Value)>,
}

/// A coupon's counter beside its issued coupons, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCount {
    /// Which coupon.
    pub coupon_id: CouponId,
    /// How many there are.
    pub quantity: i64,
    /// The counter.
    pub issued: i64,
    /// How many one user may hold.
    pub per_user_limit: i64,
    /// Issued coupons.
    pub rows: i64,
    /// Their highest number; 0 without any. Numbers are positive and never twice, so they are 1..rows exactly where this is `rows`.
    pub highest_issue_no: i64,
    /// Different codes.
    pub codes: i64,
    /// Most coupons of one user.
    pub most_of_one_user: i64,
}

/// What belongs to nothing, or not to what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strays {
    /// Issued coupons without a granted claim.
    pub without_claim: i64,
    /// Issued coupons that stand in another partition than their coupon.
    pub elsewhere: i64,
    /// Audit events without a command.
    pub events: i64,
    /// Redemptions of issued coupons: these belong to each other.
    pub redemptions: i64,
    /// Issued coupons that are marked as used without a redemption, or redeemed without the mark, or for another order.
    pub misused: i64,
}

impl TableReader {
    /// Connects.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn open(section: &PostgresSection) -> Result<Self, PostgresError> {
        let mut connection = Connection::open(section).await?;
        connection
            .inner
            .batch_execute("SET default_transaction_read_only = on; SET statement_timeout = 0")
            .await?;
        Ok(Self { connection })
    }

    /// Takes a moment: until [`Self::end`] everything is read as of now.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn begin(&mut self) -> Result<(), PostgresError> {
        // The moment is that of the first query, not of BEGIN.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1";
        Ok(self.connection.inner.batch_execute(begin).await?)
    }

    /// Lets the moment go.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn end(&mut self) -> Result<(), PostgresError> {
        Ok(self.connection.inner.batch_execute("COMMIT").await?)
    }

    /// How many rows of the partition's `claims` lie at or behind an offset.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn claims_from(&mut self, partition: Partition, from: Offset) -> Result<i64, PostgresError> {
        let sql = "SELECT count(*) AS rows FROM claims WHERE src_partition = $1 AND src_offset >= $2";
        let counted: Counted = diesel::sql_query(sql)
            .bind::<Integer, _>(partition.number())
            .bind::<BigInt, _>(from.number())
            .get_result(&mut self.connection.inner)
            .await?;
        Ok(counted.rows)
    }

    /// How many rows of `claims` each of the named coupons has from an offset on, below the watermark and beyond it.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn claim_counts(
        &mut self,
        whose: &Whose,
        from: Offset,
        next_src: Offset,
    ) -> Result<BTreeMap<CouponId, ClaimRows>, PostgresError> {
        let rows: Vec<ClaimCountRow> = diesel::sql_query(include_str!("sql/audited_claim_counts.sql"))
            .bind::<Array<UuidType>, _>(whose.named.as_deref().unwrap_or_default())
            .bind::<BigInt, _>(from.number())
            .bind::<BigInt, _>(next_src.number())
            .load(&mut self.connection.inner)
            .await?;
        let read = |row: ClaimCountRow| {
            let counted = ClaimRows { below: row.below, beyond: row.beyond };
            (CouponId::new(whose.partition, row.coupon_id), counted)
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// The partition's progress and its ledger, as a stock-consumer would start from them.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn ledger(&mut self, partition: Partition) -> Result<Option<StoredLedger>, LoadError> {
        checkpoint::load_in_snapshot(&mut self.connection.inner, partition).await
    }

    /// The partition's progress alone.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn progress(
        &mut self,
        partition: Partition,
    ) -> Result<Option<crate::progress::Progress>, PostgresError> {
        crate::progress::load(&mut self.connection, partition).await
    }

    /// The coupons, each with the number of its claims that have a final answer.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn coupons(&mut self, whose: &Whose) -> Result<Vec<(CouponState, u32)>, PostgresError> {
        match &whose.named {
            None => coupons::with_settled(&mut self.connection.inner, whose.partition).await,
            Some(named) => coupons::find_with_settled(&mut self.connection.inner, named).await,
        }
    }

    /// At most `most` rows of the partition's `claims` from an offset on, in the order of the line.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn claims(
        &mut self,
        partition: Partition,
        from: Offset,
        most: u32,
    ) -> Result<Vec<Row<StoredClaim>>, PostgresError> {
        const SQL: &str = concat!(
            include_str!("sql/audited_claims.sql"),
            "AND c.src_offset >= $2 ORDER BY c.src_offset LIMIT $3"
        );
        let rows: Vec<ClaimRow> = diesel::sql_query(SQL)
            .bind::<Integer, _>(partition.number())
            .bind::<BigInt, _>(from.number())
            .bind::<BigInt, _>(i64::from(most))
            .load(&mut self.connection.inner)
            .await?;
        read_claims(partition, rows)
    }

    /// The rows of `claims` that stand at these places of the line.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn claims_at(
        &mut self,
        partition: Partition,
        places: &[Offset],
    ) -> Result<Vec<Row<StoredClaim>>, PostgresError> {
        const SQL: &str = concat!(include_str!("sql/audited_claims.sql"), "AND c.src_offset = ANY($2)");
        let places: Vec<i64> = places.iter().map(|place| place.number()).collect();
        let rows: Vec<ClaimRow> = diesel::sql_query(SQL)
            .bind::<Integer, _>(partition.number())
            .bind::<Array<BigInt>, _>(places)
            .load(&mut self.connection.inner)
            .await?;
        read_claims(partition, rows)
    }

    /// The commands.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn commands(&mut self, whose: &Whose) -> Result<Vec<Row<StoredCommand>>, PostgresError> {
        let sql = include_str!("sql/audited_commands.sql");
        let rows: Vec<CommandRow> = self.load(sql, whose, "c.src_partition", "c.coupon_id").await?;
        rows.into_iter()
            .map(|row| {
                let place = offset("src_offset", row.src_offset)?;
                Ok((place, row.read(whose.partition).map_err(|error| error.to_string())))
            })
            .collect()
    }

    /// The claims whose record could not be read, by its place in the line: the coupon's unique part, and the claim's mac.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn parked(
        &mut self,
        whose: &Whose,
    ) -> Result<BTreeMap<Offset, (Uuid, [u8; 16])>, PostgresError> {
        #[derive(diesel::QueryableByName)]
        struct Parked {
            #[diesel(sql_type = BigInt)]
            src_offset: i64,
            #[diesel(sql_type = UuidType)]
            coupon_id: Uuid,
            #[diesel(sql_type = UuidType)]
            claim_mac: Uuid,
        }

        let sql = "SELECT src_offset, coupon_id, claim_mac FROM parked_claims";
        let rows: Vec<Parked> = self.load(sql, whose, "src_partition", "coupon_id").await?;
        rows.into_iter()
            .map(|row| {
                let place = offset("src_offset", row.src_offset)?;
                Ok((place, (row.coupon_id, row.claim_mac.into_bytes())))
            })
            .collect()
    }

    /// Each coupon's counter beside what was issued of it.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn issued_counts(&mut self, whose: &Whose) -> Result<Vec<IssuedCount>, PostgresError> {
        let sql = include_str!("sql/audited_counts.sql");
        let rows: Vec<CountRow> = self.load(sql, whose, "o.partition", "o.coupon_id").await?;
        let read = |row: CountRow| IssuedCount {
            coupon_id: CouponId::new(whose.partition, row.coupon_id),
            quantity: row.quantity,
            issued: row.issued,
            per_user_limit: row.per_user_limit,
            rows: row.rows,
            highest_issue_no: row.highest_issue_no,
            codes: row.codes,
            most_of_one_user: row.most_of_one_user,
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// What retention has deleted of the coupons.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn deleted(&mut self, whose: &Whose) -> Result<BTreeMap<CouponId, Deleted>, PostgresError> {
        #[derive(diesel::QueryableByName)]
        struct DeletedRow {
            #[diesel(sql_type = UuidType)]
            coupon_id: Uuid,
            #[diesel(sql_type = BigInt)]
            losing_claims: i64,
            #[diesel(sql_type = BigInt)]
            issued_coupons: i64,
        }

        let sql = "SELECT r.coupon_id, r.losing_claims, r.issued_coupons \
            FROM coupons o JOIN coupon_retention r USING (coupon_id)";
        let rows: Vec<DeletedRow> = self.load(sql, whose, "o.partition", "o.coupon_id").await?;
        let count = |rows| u64::try_from(rows).unwrap_or(0);
        let read = |row: DeletedRow| {
            let deleted = Deleted { losing: count(row.losing_claims), issued: count(row.issued_coupons) };
            (CouponId::new(whose.partition, row.coupon_id), deleted)
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// What belongs to nothing.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn strays(&mut self, whose: &Whose) -> Result<Strays, PostgresError> {
        let sql = include_str!("sql/audited_strays.sql");
        let strays: Vec<StrayRow> = self.load(sql, whose, "o.partition", "o.coupon_id").await?;
        let sql = "SELECT count(*) FILTER (WHERE NOT EXISTS ( \
                SELECT FROM commands c WHERE c.src_partition = e.src_partition AND c.src_offset = e.src_offset \
            )) AS rows FROM audit_events e";
        let events: Vec<Counted> = self.load(sql, whose, "e.src_partition", "e.coupon_id").await?;
        let sum = |of: fn(&StrayRow) -> i64| strays.iter().map(of).sum();
        Ok(Strays {
            without_claim: sum(|row| row.without_claim),
            elsewhere: sum(|row| row.elsewhere),
            events: events.iter().map(|counted| counted.rows).sum(),
            redemptions: sum(|row| row.redemptions),
            misused: sum(|row| row.misused),
        })
    }

    /// The rows of a query, which ends where its condition begins; the columns that say whose a row is.
    async fn load<R>(
        &mut self,
        sql: &str,
        whose: &Whose,
        partition_column: &str,
        coupon_column: &str,
    ) -> Result<Vec<R>, PostgresError>
    where
        R: diesel::deserialize::QueryableByName<Pg> + Send + 'static,
    {
        let connection = &mut self.connection.inner;
        let rows = match &whose.named {
            None => {
                let sql = format!("{sql} WHERE {partition_column} = $1");
                diesel::sql_query(sql).bind::<Integer, _>(whose.partition.number()).load(connection).await
            }
            Some(named) => {
                let sql = format!("{sql} WHERE {coupon_column} = ANY($1)");
                diesel::sql_query(sql).bind::<Array<UuidType>, _>(named.as_slice()).load(connection).await
            }
        };
        Ok(rows?)
    }

    /// Coupons that claims or issued coupons belong to, and that are not there.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn orphans(&mut self) -> Result<i64, PostgresError> {
        let counted: Counted = diesel::sql_query(include_str!("sql/audited_orphans.sql"))
            .get_result(&mut self.connection.inner)
            .await?;
        Ok(counted.rows)
    }

    /// Rows of partitions beyond these: there is no line that could have made them.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn rows_of_partitions_from(&mut self, partitions: i32) -> Result<i64, PostgresError> {
        let sql = "SELECT (SELECT count(*) FROM claims WHERE src_partition >= $1) \
            + (SELECT count(*) FROM coupons WHERE partition >= $1) AS rows";
        let counted: Counted = diesel::sql_query(sql)
            .bind::<Integer, _>(partitions)
            .get_result(&mut self.connection.inner)
            .await?;
        Ok(counted.rows)
    }
}

#[derive(diesel::QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

#[derive(diesel::QueryableByName)]
struct ClaimCountRow {
    #[diesel(sql_type = UuidType)]
    coupon_id: Uuid,
    #[diesel(sql_type = BigInt)]
    below: i64,
    #[diesel(sql_type = BigInt)]
    beyond: i64,
}

fn read_claims(partition: Partition, rows: Vec<ClaimRow>) -> Result<Vec<Row<StoredClaim>>, PostgresError> {
    rows.into_iter()
        .map(|row| {
            let place = offset("src_offset", row.src_offset)?;
            Ok((place, row.read(partition).map_err(|error| error.to_string())))
        })
        .collect()
}

#[derive(diesel::QueryableByName)]
struct ClaimRow {
    #[diesel(sql_type = BigInt)]
    src_offset: i64,
    #[diesel(sql_type = UuidType)]
    coupon_id: Uuid,
    #[diesel(sql_type = UuidType)]
    claim_mac: Uuid,
    #[diesel(sql_type = SmallInt)]
    round: i16,
    #[diesel(sql_type = BigInt)]
    slot: i64,
    #[diesel(sql_type = Text)]
    user_id: String,
    #[diesel(sql_type = Text)]
    code: String,
    #[diesel(sql_type = Bool)]
    is_final: bool,
    #[diesel(sql_type = Timestamptz)]
    appended_at: OffsetDateTime,
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
    issued_user_id: Option<String>,
    #[diesel(sql_type = Nullable<Integer>)]
    issued_issue_no: Option<i32>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    issued_user_nth: Option<i16>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    issued_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    issued_expires_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    issued_round: Option<i16>,
    #[diesel(sql_type = Nullable<BigInt>)]
    issued_slot: Option<i64>,
    #[diesel(sql_type = Nullable<Integer>)]
    issued_per_user_limit: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    issued_code: Option<String>,
}

impl ClaimRow {
    fn read(self, partition: Partition) -> Result<StoredClaim, PostgresError> {
        let torn = |what: &str| PostgresError::Torn(what.to_owned());
        let coupon_id = CouponId::new(partition, self.coupon_id);
        let granted_claim_id = match (self.granted_round, self.granted_slot, self.granted_claim_mac) {
            (Some(round), Some(slot), Some(mac)) => {
                Some(claim_id(coupon_id, ("granted_round", round), slot, mac)?)
            }
            (None, None, None) => None,
            _ => return Err(torn("the granted claim is named in part only")),
        };
        let issued = match (self.issued_user_id, self.issued_issue_no, self.issued_user_nth, self.issued_at) {
            (Some(user_id), Some(issue_no), Some(user_nth), Some(issued_at)) => Some(StoredIssue {
                user_id,
                issue_no: number("issue_no", issue_no)?,
                user_nth: number("user_nth", user_nth)?,
                issued_at: from_time(issued_at)?,
                expires_at: self.issued_expires_at.map(from_time).transpose()?,
                place: match (self.issued_round, self.issued_slot) {
                    (Some(round), Some(slot)) => {
                        let round = Round::new(number("round", round)?);
                        (round.map_err(|_| torn("round is out of range"))?, slot_from_column(slot))
                    }
                    _ => return Err(torn("an issued coupon has no round or slot")),
                },
                per_user_limit: number("per_user_limit", self.issued_per_user_limit.unwrap_or(0))?,
                code: self.issued_code.unwrap_or_default(),
            }),
            _ => None,
        };
        let answer = ClaimAnswer {
            claim_id: claim_id(coupon_id, ("round", self.round), self.slot, self.claim_mac)?,
            code: ClaimCode::from_name(&self.code).ok_or_else(|| torn("code is unknown"))?,
            is_final: self.is_final,
            decided_offset: offset("src_offset", self.src_offset)?,
            decided_at: from_time(self.appended_at)?,
            issue_no: self.issue_no.map(|issue_no| number("issue_no", issue_no)).transpose()?,
            user_nth: self.user_nth.map(|nth| number("user_nth", nth)).transpose()?,
            rank: self.rank.map(|rank| number("rank", rank)).transpose()?,
            granted_claim_id,
        };
        Ok(StoredClaim { answer, user_id: self.user_id, issued })
    }
}

#[derive(diesel::QueryableByName)]
struct CommandRow {
    #[diesel(sql_type = BigInt)]
    src_offset: i64,
    #[diesel(sql_type = UuidType)]
    coupon_id: Uuid,
    #[diesel(sql_type = UuidType)]
    command_mac: Uuid,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    code: String,
    #[diesel(sql_type = Nullable<Text>)]
    refusal: Option<String>,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Timestamptz)]
    appended_at: OffsetDateTime,
    #[diesel(sql_type = Nullable<Text>)]
    actor: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    state: Option<serde_json::Value>,
}

impl CommandRow {
    fn read(self, partition: Partition) -> Result<StoredCommand, PostgresError> {
        let coupon_id = CouponId::new(partition, self.coupon_id);
        let event = match (self.actor, self.state) {
            (Some(actor), Some(state)) => Some((actor, self.reason, state)),
            _ => None,
        };
        Ok(StoredCommand {
            command_id: CommandId { coupon_id, mac: self.command_mac.into_bytes() },
            kind: self.kind,
            code: self.code,
            refusal: self.refusal,
            version: number("version", self.version)?,
            appended_at: from_time(self.appended_at)?,
            event,
        })
    }
}

#[derive(diesel::QueryableByName)]
struct CountRow {
    #[diesel(sql_type = UuidType)]
    coupon_id: Uuid,
    #[diesel(sql_type = BigInt)]
    quantity: i64,
    #[diesel(sql_type = BigInt)]
    issued: i64,
    #[diesel(sql_type = BigInt)]
    per_user_limit: i64,
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = BigInt)]
    highest_issue_no: i64,
    #[diesel(sql_type = BigInt)]
    codes: i64,
    #[diesel(sql_type = BigInt)]
    most_of_one_user: i64,
}

#[derive(diesel::QueryableByName)]
struct StrayRow {
    #[diesel(sql_type = BigInt)]
    without_claim: i64,
    #[diesel(sql_type = BigInt)]
    elsewhere: i64,
    #[diesel(sql_type = BigInt)]
    redemptions: i64,
    #[diesel(sql_type = BigInt)]
    misused: i64,
}
