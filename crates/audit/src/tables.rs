//! PostgreSQL, compared at its own watermark: rows of `claims` are read along with the line, page by page; where coupons are named, theirs alone, as the line
//! comes to them.

mod counted;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use coupon_domain::coupon_code::CouponCode;
use coupon_domain::invariant::Invariant;
use coupon_domain::outcome::{ClaimOutcome, CommandOutcome};
use coupon_domain::{
    ClaimAnswer, ClaimId, CouponId, CouponState, CouponStatus, Definition, KeyRing, Offset, Outcome,
    Timestamp,
};
use infrastructure_postgres::PostgresError;
use infrastructure_postgres::audit::{Row, StoredClaim, StoredCommand, TableReader, Whose};
use infrastructure_postgres::progress::Progress;
use infrastructure_postgres::retention::Deleted;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::error::{AuditError, failed};
use crate::findings::Findings;
use crate::view::View;

/// Rows that are read at once.
const PAGE: u32 = 10_000;

/// Rows of named coupons that are asked for at once.
const PLACES: usize = 1_000;

/// The tables of one partition.
pub(crate) struct Tables<'a> {
    reader: &'a mut TableReader,
    runtime: Handle,
    whose: Whose,
    /// The first offset that is compared.
    from: Offset,
    keys: Option<&'a KeyRing>,
    /// How far they reflect the line; absent: they have never heard of it.
    pub(crate) progress: Option<Progress>,
    /// Each with the number of its claims that have a final answer.
    coupons: Vec<(CouponState, u32)>,
    commands: BTreeMap<Offset, Result<StoredCommand, String>>,
    parked: BTreeMap<Offset, (Uuid, [u8; 16])>,
    /// What retention has deleted, as far as it was not missed yet.
    deleted: BTreeMap<CouponId, Deleted>,
    page: VecDeque<Row<StoredClaim>>,
    /// Where the next page begins; none behind the last one.
    next_page: Option<Offset>,
    /// Where coupons are named: nothing is read by the page.
    named: Option<Named>,
}

/// Named coupons' rows of `claims`, looked up in the order of the line.
#[derive(Default)]
struct Named {
    /// What is to be compared with rows that were not asked for yet.
    awaited: Vec<Awaited>,
    /// How many rows of each coupon stood where the line had a record of it.
    found: BTreeMap<CouponId, i64>,
}

/// What an outcome had to write to `claims`.
struct Awaited {
    src: Offset,
    coupon_id: CouponId,
    wanted: Option<(ClaimAnswer, ClaimOutcome)>,
    definition: Option<Arc<Definition>>,
}

/// What the small tables of a partition said at one moment.
pub(crate) struct Moment {
    whose: Whose,
    /// How far the tables reflect the line; absent: they have never heard of it.
    pub(crate) progress: Option<Progress>,
    coupons: Vec<(CouponState, u32)>,
    commands: Vec<Row<StoredCommand>>,
    parked: BTreeMap<Offset, (Uuid, [u8; 16])>,
    /// What retention has deleted.
    deleted: BTreeMap<CouponId, Deleted>,
    /// Rows of claims that no watermark vouches for.
    beyond: i64,
}

impl Moment {
    pub(crate) fn read(reader: &mut TableReader, runtime: &Handle, whose: Whose) -> Result<Self, AuditError> {
        let read = async {
            reader.begin().await?;
            let progress = reader.progress(whose.partition()).await?;
            let next_src = reflected(progress.as_ref());
            let moment = Self {
                coupons: reader.coupons(&whose).await?,
                commands: reader.commands(&whose).await?,
                parked: reader.parked(&whose).await?,
                deleted: reader.deleted(&whose).await?,
                beyond: match whose.is_named() {
                    true => {
                        let counts = reader.claim_counts(&whose, next_src, next_src).await?;
                        counts.values().map(|rows| rows.beyond).sum()
                    }
                    false => reader.claims_from(whose.partition(), next_src).await?,
                },
                progress,
                whose,
            };
            reader.end().await?;
            Ok(moment)
        };
        runtime.block_on(read).map_err(unreadable)
    }

    /// The first claims offset that the tables do not reflect.
    pub(crate) fn next_src(&self) -> Offset {
        reflected(self.progress.as_ref())
    }
}

fn reflected(progress: Option<&Progress>) -> Offset {
    progress.map_or(Offset::ZERO, |progress| progress.watermark.next_src)
}

impl<'a> Tables<'a> {
    /// Begins with the rows of this offset, as far as they were there at the moment.
    pub(crate) fn open(
        reader: &'a mut TableReader,
        runtime: Handle,
        moment: Moment,
        from: Offset,
        keys: Option<&'a KeyRing>,
        findings: &mut Findings,
    ) -> Self {
        let next_src = moment.next_src();
        let Moment { whose, progress, coupons, commands, mut parked, deleted, beyond } = moment;
        let commands = commands.into_iter().filter(|(src, _)| *src >= from).collect();
        parked.retain(|src, _| *src >= from);
        if beyond > 0 {
            let place = format!("table claims, partition {}", whose.partition());
            let finding = format!("{beyond} rows lie beyond the watermark {next_src}");
            findings.broken(Invariant::Agree, &place, &finding);
        }
        let next_page = (!whose.is_named()).then_some(from);
        let named = whose.is_named().then(Named::default);
        Self {
            reader,
            runtime,
            whose,
            from,
            keys,
            progress,
            coupons,
            commands,
            parked,
            deleted,
            page: VecDeque::new(),
            next_page,
            named,
        }
    }

    /// True where what this outcome wrote is compared.
    pub(crate) fn includes(&self, outcome: &Outcome) -> bool {
        self.whose.includes(outcome.coupon_id())
    }

    /// The first claims offset that they do not reflect.
    pub(crate) fn next_src(&self) -> Offset {
        reflected(self.progress.as_ref())
    }

    /// Where every store has come: the tables, and what is there of the views of coupons that are not closed.
    pub(crate) fn everyone_at(&self, view: Option<&View>, now: Timestamp) -> Offset {
        let live = self.coupons.iter().map(|(coupon, _)| coupon).filter(|coupon| !coupon.is_closed_at(now));
        let views = view
            .into_iter()
            .flat_map(|view| live.clone().filter_map(|coupon| view.vouches_to(coupon.coupon_id)));
        views.chain([self.next_src()]).min().unwrap_or(Offset::ZERO)
    }

    fn place(&self, table: &str, src: Offset) -> String {
        format!("table {table}, partition {}, src_offset {src}", self.whose.partition())
    }

    fn peek(&mut self) -> Result<Option<Offset>, AuditError> {
        if let (true, Some(from)) = (self.page.is_empty(), self.next_page) {
            let reading = self.reader.claims(self.whose.partition(), from, PAGE);
            let rows = self.runtime.block_on(reading).map_err(unreadable)?;
            let is_last = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            self.next_page = rows.last().filter(|_| !is_last).map(|(src, _)| src.next());
            // What was written since the moment is the next audit's.
            let next_src = self.next_src();
            self.page = rows.into_iter().filter(|(src, _)| *src < next_src).collect();
            if self.page.is_empty() {
                self.next_page = None;
            }
        }
        Ok(self.page.front().map(|(src, _)| *src))
    }

    /// Compares what an outcome had to write with what stands there. Outcomes come in the order of the line.
    pub(crate) fn compare(
        &mut self,
        outcome: &Outcome,
        claim: Option<&ClaimOutcome>,
        definition: Option<&Arc<Definition>>,
        findings: &mut Findings,
    ) -> Result<(), AuditError> {
        let src = outcome.src_offset;
        let wanted = claim.filter(|claim| infrastructure_postgres::batch::has_row(claim));
        let answer = ClaimAnswer::of(outcome).filter(|_| wanted.is_some());
        if let Some(named) = &mut self.named {
            let Some(coupon_id) = outcome.coupon_id() else { return Ok(()) };
            let (wanted, definition) = (answer.zip(wanted.cloned()), definition.cloned());
            named.awaited.push(Awaited { src, coupon_id, wanted, definition });
            return if named.awaited.len() < PLACES { Ok(()) } else { self.compare_awaited(findings) };
        }
        self.compare_unexpected(Some(src), findings)?;
        let stands_here = self.peek()? == Some(src);
        let stored = if stands_here { self.page.pop_front().map(|(_, row)| row) } else { None };
        self.compare_row(src, answer.as_ref().zip(wanted), definition.map(Arc::as_ref), stored, findings);
        Ok(())
    }

    /// Compares what is still waited for, where coupons are named.
    pub(crate) fn compare_awaited(&mut self, findings: &mut Findings) -> Result<(), AuditError> {
        let Some(named) = &mut self.named else { return Ok(()) };
        let awaited = std::mem::take(&mut named.awaited);
        let places: Vec<Offset> = awaited.iter().map(|awaited| awaited.src).collect();
        let reading = self.reader.claims_at(self.whose.partition(), &places);
        let rows = self.runtime.block_on(reading).map_err(unreadable)?;
        let mut rows: BTreeMap<Offset, Result<StoredClaim, String>> = rows.into_iter().collect();
        for awaited in &awaited {
            let is_of = |row: &StoredClaim| row.answer.claim_id.coupon_id == awaited.coupon_id;
            if rows.get(&awaited.src).is_some_and(|row| row.as_ref().map_or(true, is_of)) {
                *named.found.entry(awaited.coupon_id).or_default() += 1;
            }
        }
        for Awaited { src, wanted, definition, .. } in awaited {
            let wanted = wanted.as_ref().map(|(answer, claim)| (answer, claim));
            self.compare_row(src, wanted, definition.as_deref(), rows.remove(&src), findings);
        }
        Ok(())
    }

    fn compare_row(
        &mut self,
        src: Offset,
        wanted: Option<(&ClaimAnswer, &ClaimOutcome)>,
        definition: Option<&Definition>,
        stored: Option<Result<StoredClaim, String>>,
        findings: &mut Findings,
    ) {
        let place = self.place("claims", src);
        match (wanted, stored) {
            (None, None) => {}
            (None, Some(_)) => {
                findings.broken(Invariant::Agree, &place, "is there, but the log gives no new answer there");
            }
            (Some((answer, _)), None) if self.was_deleted(answer) => {
                findings.checked(Invariant::Agree, "rows that retention deleted", 1);
            }
            (Some(_), None) => {
                findings.broken(Invariant::Agree, &place, "is not there, though below the watermark");
            }
            (Some(_), Some(Err(torn))) => findings.broken(Invariant::Agree, &place, &torn),
            (Some((answer, claim)), Some(Ok(row))) => {
                findings.checked(Invariant::Agree, "rows of claims", 1);
                compare_claim(&place, answer, claim, &row, findings);
                self.compare_issued(answer, claim, &row, definition, findings);
            }
        }
    }

    /// True where retention says so, for as many rows as it says.
    fn was_deleted(&mut self, answer: &ClaimAnswer) -> bool {
        let Some(deleted) = self.deleted.get_mut(&answer.claim_id.coupon_id) else { return false };
        let left = if answer.issue_no.is_some() { &mut deleted.issued } else { &mut deleted.losing };
        let was_deleted = *left > 0;
        *left = left.saturating_sub(1);
        was_deleted
    }

    fn compare_issued(
        &self,
        answer: &ClaimAnswer,
        claim: &ClaimOutcome,
        row: &StoredClaim,
        definition: Option<&Definition>,
        findings: &mut Findings,
    ) {
        let place = format!("table issued_coupons, claim {}", answer.claim_id);
        match (answer.issue_no, &row.issued) {
            (None, None) => {}
            (None, Some(_)) => {
                findings.broken(Invariant::FirstCome, &place, "is there, but the log did not grant it");
            }
            (Some(_), None) => {
                findings.broken(Invariant::Agree, &place, "is not there, though the log granted it");
            }
            (Some(issue_no), Some(issued)) => {
                findings.checked(Invariant::Agree, "issued coupons", 1);
                let expires_at =
                    definition.map(|known| known.expiry().map(|expiry| expiry.of(answer.decided_at)));
                let limit = definition.map(Definition::per_user_limit);
                let claim_id = &answer.claim_id;
                let wrong = [
                    ("user_id", issued.user_id != claim.user_id.as_str()),
                    ("issue_no", issued.issue_no != issue_no),
                    ("user_nth", Some(issued.user_nth) != answer.user_nth),
                    ("issued_at", issued.issued_at != answer.decided_at),
                    ("expires_at", expires_at.is_some_and(|expires_at| issued.expires_at != expires_at)),
                    ("round and slot", issued.place != (claim_id.round, claim_id.slot)),
                    ("per_user_limit", limit.is_some_and(|limit| issued.per_user_limit != limit)),
                    ("code", self.minted_code(claim, issue_no).is_some_and(|code| issued.code != code)),
                ];
                report(&place, &wrong, findings);
            }
        }
    }

    /// The code that the key behind the claim mints, where that key is configured here.
    fn minted_code(&self, claim: &ClaimOutcome, issue_no: u32) -> Option<String> {
        let mut keys = self.keys.into_iter().flat_map(KeyRing::iter).map(|(_, key)| key);
        let key = keys.find(|key| key.owns(&claim.claim_id, &claim.user_id))?;
        Some(CouponCode::mint(key, claim.claim_id.coupon_id, issue_no).to_string())
    }

    /// Compares what a command had to write.
    pub(crate) fn compare_command(
        &mut self,
        outcome: &Outcome,
        command: &CommandOutcome,
        findings: &mut Findings,
    ) {
        let (src, place) = (outcome.src_offset, self.place("commands", outcome.src_offset));
        let wanted = command.state.as_ref().filter(|_| outcome.is_new());
        match (wanted, self.commands.remove(&src)) {
            (None, None) => {}
            (None, Some(_)) => {
                findings.broken(Invariant::Agree, &place, "is there, but had not to be written");
            }
            (Some(_), None) => {
                findings.broken(Invariant::Agree, &place, "is not there, though below the watermark");
            }
            (Some(_), Some(Err(torn))) => findings.broken(Invariant::Agree, &place, &torn),
            (Some(state), Some(Ok(row))) => {
                findings.checked(Invariant::Agree, "rows of commands", 1);
                let event = row.event.as_ref();
                let wrong = [
                    ("command_mac", row.command_id != command.command_id),
                    ("kind", row.kind != command.kind.as_str()),
                    ("code", row.code != command.code.as_str()),
                    ("refusal", row.refusal.as_deref() != command.refusal.map(|refusal| refusal.as_str())),
                    ("version", row.version != state.version),
                    ("appended_at", row.appended_at != outcome.appended_at),
                    ("its audit event", event.is_none()),
                    ("the event's actor", event.is_some_and(|event| event.0 != command.actor.as_str())),
                    (
                        "the event's reason",
                        event.is_some_and(|event| event.1.as_deref() != command.reason.as_deref()),
                    ),
                    (
                        "the event's state",
                        event.is_some_and(|event| {
                            serde_json::from_value(event.2.clone()).ok().as_ref() != Some(state)
                        }),
                    ),
                ];
                report(&place, &wrong, findings);
            }
        }
    }

    /// Compares what a record that cannot be read had to write.
    pub(crate) fn compare_parked(
        &mut self,
        src: Offset,
        claim_id: Option<&ClaimId>,
        findings: &mut Findings,
    ) {
        let wanted = claim_id.map(|claim_id| (claim_id.coupon_id.unique(), claim_id.mac));
        let stored = self.parked.remove(&src);
        findings.checked(Invariant::Agree, "rows of parked_claims", u64::from(stored.is_some()));
        let losing =
            claim_id.and_then(|claim_id| Some(&mut self.deleted.get_mut(&claim_id.coupon_id)?.losing));
        if let (None, Some(left @ 1..)) = (stored, losing) {
            *left -= 1;
        } else if stored != wanted {
            let place = self.place("parked_claims", src);
            findings.broken(Invariant::Agree, &place, "is not the claim that the record names");
        }
    }

    /// Rows below an offset (or all that are left) that no outcome made.
    pub(crate) fn compare_unexpected(
        &mut self,
        below: Option<Offset>,
        findings: &mut Findings,
    ) -> Result<(), AuditError> {
        while let Some(src) = self.peek()?
            && below.is_none_or(|below| src < below)
        {
            self.page.pop_front();
            let place = self.place("claims", src);
            findings.broken(Invariant::Agree, &place, "is there, but no outcome below the watermark made it");
        }
        if below.is_none() {
            self.count_named(findings)?;
            let commands = self.commands.keys().map(|src| ("commands", src));
            for (table, src) in commands.chain(self.parked.keys().map(|src| ("parked_claims", src))) {
                let place = self.place(table, *src);
                findings.broken(
                    Invariant::Agree,
                    &place,
                    "is there, but no outcome below the watermark made it",
                );
            }
        }
        Ok(())
    }

    /// Compares the coupons with those of the fold at the tables' own watermark.
    pub(crate) fn compare_coupons<'b>(
        &self,
        folded: impl Iterator<Item = (&'b CouponState, u32)>,
        findings: &mut Findings,
    ) {
        let mut folded: BTreeMap<CouponId, (&CouponState, u32)> =
            folded.map(|(state, settled)| (state.coupon_id, (state, settled))).collect();
        folded.retain(|coupon_id, _| self.whose.includes(Some(*coupon_id)));
        for (stored, stored_settled) in &self.coupons {
            let place = format!("table coupons, {}", stored.coupon_id);
            findings.checked(Invariant::Agree, "rows of coupons", 1);
            let Some((wanted, settled)) = folded.remove(&stored.coupon_id) else {
                findings.broken(Invariant::Agree, &place, "is there, but the log did not publish it");
                continue;
            };
            let wrong = [
                ("definition", stored.definition != wanted.definition),
                ("status", stored.status != wanted.status),
                ("round", stored.round != wanted.round),
                ("quantity", stored.quantity != wanted.quantity),
                ("issued", stored.issued != wanted.issued),
                // The fold forgets the claims of a retired coupon, the table does not.
                ("settled", wanted.status != CouponStatus::Retired && *stored_settled != settled),
                ("version", stored.version != wanted.version),
                ("last_command", stored.last_command != wanted.last_command),
                ("last_grant_offset", stored.last_grant_offset != wanted.last_grant_offset),
            ];
            report(&place, &wrong, findings);
        }
        for coupon_id in folded.keys() {
            let place = format!("table coupons, {coupon_id}");
            findings.broken(
                Invariant::Agree,
                &place,
                "is not there, though the log published it below the watermark",
            );
        }
    }
}

fn compare_claim(
    place: &str,
    answer: &ClaimAnswer,
    claim: &ClaimOutcome,
    row: &StoredClaim,
    findings: &mut Findings,
) {
    let stored = &row.answer;
    let wrong = [
        ("claim_id", stored.claim_id != answer.claim_id),
        ("user_id", row.user_id != claim.user_id.as_str()),
        ("code", stored.code != answer.code),
        ("final", stored.is_final != answer.is_final),
        ("appended_at", stored.decided_at != answer.decided_at),
        ("rank", stored.rank != answer.rank),
        ("issue_no", stored.issue_no != answer.issue_no),
        ("user_nth", stored.user_nth != answer.user_nth),
        ("the granted claim", stored.granted_claim_id != answer.granted_claim_id),
    ];
    report(place, &wrong, findings);
}

/// One finding that names everything that differs.
fn report(place: &str, wrong: &[(&str, bool)], findings: &mut Findings) {
    let names: Vec<&str> = wrong.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    if !names.is_empty() {
        let finding = format!("differs from the log in {}", names.join(", "));
        findings.broken(Invariant::Agree, place, &finding);
    }
}

fn unreadable(error: PostgresError) -> AuditError {
    failed("reading PostgreSQL")(error)
}
