//! One partition: folds its claims again and compares everybody who says something about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use coupon_domain::invariant::Invariant;
use coupon_domain::ledger::{Body, DefaultHasher, Ledger, LogRecord};
use coupon_domain::outcome::{ClaimOutcome, Subject};
use coupon_domain::resume::RecordIdentity;
use coupon_domain::wire::{Input, PublishedState, StateRecordBody, Unreadable, decode_claims_record};
use coupon_domain::{Chain, ClaimAnswer, CouponId, Definition, Offset, Outcome, Partition, Timestamp};
use infrastructure_kafka::dead_letter::queue::Queue;
use infrastructure_kafka::dead_letter::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use infrastructure_kafka::{Entry, LogBounds, LogCursor};

use crate::claims::{self, Kept};
use crate::error::{AuditError, failed};
use crate::findings::Findings;
use crate::newcomers::Newcomers;
use crate::outcomes::{self, FirstCopies};
use crate::rows::{Row, Rows, Spill};
use crate::tables::Tables;
use crate::tally::{self, State, state_of};
use crate::view::{Strays, View};

/// How far everybody has come in a partition. Offsets are of the claims log, the next one each.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Which partition.
    pub partition: i32,
    /// The end of the claims log.
    pub log: i64,
    /// Decided: the outcomes log.
    pub outcomes: i64,
    /// Written: PostgreSQL.
    pub postgres: i64,
    /// Seen: the view that is furthest behind; absent where there is none.
    pub view: Option<i64>,
    /// From where on the fold proves what was decided.
    pub proven_from: i64,
    /// Its coupons that are not closed.
    pub live: Vec<CouponId>,
}

/// What the whole audit gathers, and what it was taken from.
pub(crate) struct Audited<'a> {
    pub(crate) findings: &'a mut Findings,
    pub(crate) view: Option<&'a mut View>,
    pub(crate) dead_letters: &'a Queue,
    pub(crate) now: Timestamp,
    pub(crate) spill: &'a Spill,
    /// The coupons whose claims are judged; all where it is empty.
    pub(crate) only: &'a BTreeSet<CouponId>,
}

/// One partition's sources.
pub(crate) struct Sources<'a> {
    pub(crate) claims: LogCursor<'a>,
    pub(crate) claims_bounds: LogBounds,
    pub(crate) outcomes: LogCursor<'a>,
    pub(crate) tables: Tables<'a>,
    pub(crate) states: Vec<StateRecordBody>,
    /// Links of the chain, by the offset behind them.
    pub(crate) links: Vec<(Offset, Chain)>,
    /// What is known of the line already; the cursors stand where that ends.
    pub(crate) known: Known,
    /// A later audit will go on from where every store has come.
    pub(crate) goes_on: bool,
}

/// What is known of a line as far as it was read: another audit can go on from it.
pub(crate) struct Known {
    folded: Folded,
    outcomes: outcomes::Known,
    /// What was said of each claim.
    claims: Option<Kept>,
}

/// What the records of a line came to.
#[derive(Clone, Debug)]
struct Folded {
    partition: Partition,
    /// The first claims offset that was not read.
    next_src: i64,
    /// The fold; absent where there is none that the claims log continues.
    ledger: Option<Ledger>,
    folded_from: i64,
    proven_from: i64,
    /// How many each user was granted, by a hash that this process alone makes.
    grants: HashMap<CouponId, HashMap<u64, u16>>,
    granted: HashMap<CouponId, u32>,
    users: RandomState,
    /// The fold lets refusals go: who repeats is told by the outcomes log, and judged by the rows of the claim.
    forgets: bool,
    /// Where the log no longer begins at 0: the coupons that were published in what is left of it.
    newcomers: Newcomers,
}

impl Known {
    /// Nothing but the ledger to fold on from.
    pub(crate) fn nothing(
        partition: Partition,
        claims: LogBounds,
        outcomes: LogBounds,
        ledger: Option<Ledger>,
    ) -> Self {
        let folded_from = ledger.as_ref().map_or(i64::MAX, |ledger| ledger.next_src().number());
        let folded = Folded {
            partition,
            next_src: claims.start,
            ledger,
            folded_from,
            proven_from: folded_from,
            grants: HashMap::new(),
            granted: HashMap::new(),
            users: RandomState::new(),
            forgets: false,
            newcomers: Newcomers::new(partition, claims.start),
        };
        Self { folded, outcomes: outcomes::Known::nothing(partition, outcomes.start), claims: None }
    }

    /// True where these logs go on from it: neither cut behind it, nor shorter.
    pub(crate) fn continues_in(&self, claims: LogBounds, outcomes: LogBounds) -> bool {
        (claims.start..=claims.end).contains(&self.next_src())
            && (outcomes.start..=outcomes.end).contains(&self.outcomes_at())
    }

    /// The first claims offset that was not read.
    pub(crate) fn next_src(&self) -> i64 {
        self.folded.next_src
    }

    /// Where reading goes on in the outcomes log.
    pub(crate) fn outcomes_at(&self) -> i64 {
        self.outcomes.at()
    }
}

/// What the audit of a line came to.
pub(crate) struct Audit {
    pub(crate) progress: Progress,
    pub(crate) ledger: tally::Ledger,
    /// The ledger of each of its coupons.
    pub(crate) of_coupon: BTreeMap<CouponId, tally::Ledger>,
    /// What a later audit can go on from: what was known where every store had come.
    pub(crate) known: Option<Known>,
}

/// Audits a partition.
pub(crate) fn audit(sources: Sources<'_>, audited: &mut Audited<'_>) -> Result<Audit, AuditError> {
    let mut line = Line::open(sources, audited)?;
    line.outcomes_alone(audited)?;
    while let Some(entry) = line.claims.next().map_err(failed("reading the claims log"))? {
        line.keep_at(entry.offset);
        line.is_cut_short = !line.record(&entry, audited)?;
        if line.is_cut_short {
            break;
        }
        line.folded.next_src = entry.offset.saturating_add(1);
    }
    line.close(audited)
}

struct Line<'a> {
    partition: Partition,
    claims: LogCursor<'a>,
    outcomes: FirstCopies<'a>,
    tables: Tables<'a>,
    /// What the records say of claims.
    rows: Rows,
    /// What was known of them before.
    earlier: Option<Kept>,
    bounds: LogBounds,
    folded: Folded,
    /// What is to be compared with the fold when it stands at an offset.
    states: BTreeMap<Offset, Vec<PublishedState>>,
    /// The offsets up to which the partition is decided, as its own records say.
    said_decided: BTreeSet<Offset>,
    links: BTreeMap<Offset, Vec<Chain>>,
    hashes: BTreeMap<Offset, Vec<CouponId>>,
    /// The outcomes log has left the fold's chain: from there on every link differs, which says nothing new.
    has_left_the_chain: bool,
    /// A record of a newer release ended it: what lies behind is not judged.
    is_cut_short: bool,
    /// Where every store has come; none if no later audit goes on.
    cut: Option<i64>,
    kept: Option<(Folded, outcomes::Known)>,
}

impl<'a> Line<'a> {
    fn open(sources: Sources<'a>, audited: &mut Audited<'_>) -> Result<Self, AuditError> {
        let Sources { claims, claims_bounds, outcomes, tables, known, goes_on, .. } = sources;
        let Known { mut folded, outcomes: read, claims: earlier } = known;
        let partition = folded.partition;
        let outcomes = FirstCopies::new(outcomes, partition, read, audited.findings)?;
        let first_answered = outcomes.first_src().unwrap_or_else(|| tables.next_src().number());
        folded.proven_from = folded.proven_from.min(first_answered);
        folded.forgets = folded.folded_from == 0 && outcomes.first_src() == Some(0);
        if claims_bounds.start > 0 {
            let note = format!(
                "partition {partition}: the claims log begins at {}; the fold proves what was decided from {} on, the outcomes log is \
                 believed from {} on",
                claims_bounds.start,
                if folded.ledger.is_some() { folded.folded_from.to_string() } else { "nowhere".to_owned() },
                folded.proven_from,
            );
            audited.findings.note(note);
        }
        let (mut states, mut said_decided) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
        let behind = |decided: Option<Offset>| decided.map_or(Offset::ZERO, Offset::next);
        for record in sources.states {
            match record {
                StateRecordBody::Coupon(published) => {
                    states.entry(behind(published.decided_offset)).or_default().push(*published);
                }
                StateRecordBody::Decided(decided) => {
                    said_decided.insert(behind(decided.decided_offset));
                }
            }
        }
        let mut links = BTreeMap::<_, Vec<_>>::new();
        for (next_src, chain) in sources.links {
            links.entry(next_src).or_default().push(chain);
        }
        let mut hashes = BTreeMap::<_, Vec<_>>::new();
        if let Some(view) = &audited.view {
            for (next_src, coupon_id) in view.watermarks() {
                if coupon_id.partition() == partition {
                    hashes.entry(next_src).or_default().push(coupon_id);
                }
            }
        }
        let view = audited.view.as_deref();
        let cut = goes_on.then(|| tables.everyone_at(view, audited.now).number());
        let mut line = Self {
            partition,
            claims,
            outcomes,
            tables,
            rows: Rows::beyond(earlier.as_ref().map(|earlier| earlier.rows.clone()), audited.spill),
            earlier,
            bounds: claims_bounds,
            folded,
            states,
            said_decided,
            links,
            hashes,
            has_left_the_chain: false,
            is_cut_short: false,
            cut,
            kept: None,
        };
        let stands_at = line.folded.ledger.as_ref().map_or(i64::MAX, |ledger| ledger.next_src().number());
        line.compare_at(stands_at, None, audited);
        Ok(line)
    }

    /// Keeps what is known before this record, where every store has come.
    fn keep_at(&mut self, src: i64) {
        if self.cut.is_some_and(|cut| src >= cut) {
            self.cut = None;
            self.kept = Some((self.folded.clone(), self.outcomes.known().clone()));
        }
    }

    /// Outcomes of records that retention has taken from the claims log.
    fn outcomes_alone(&mut self, audited: &mut Audited<'_>) -> Result<(), AuditError> {
        while let Some(src) = self.outcomes.peek().filter(|src| *src < self.bounds.start) {
            if let Some(outcome) = self.outcomes.take(src, audited.findings)? {
                let mut row = outcome.claim_id().map(|claim_id| Row::of(&claim_id, src));
                self.count(&outcome, row.as_mut(), audited);
                self.compare_stores(&outcome, None, row.as_mut(), audited)?;
                self.keep(row, audited.only)?;
            }
        }
        Ok(())
    }

    /// One record of the claims log. False where nothing behind it can be folded.
    fn record(&mut self, entry: &Entry, audited: &mut Audited<'_>) -> Result<bool, AuditError> {
        let src = entry.offset;
        let place = format!("partition {}, claims offset {src}", self.partition);
        let Some(record) = self.read(entry, &place, audited.findings) else { return Ok(false) };
        let mut row = record.body.claim_id().map(|claim_id| Row::of(&claim_id, src));
        let is_proven = src >= self.folded.proven_from;
        if let Some(row) = row.as_mut().filter(|_| is_proven) {
            row.marks |= claims::ACCEPTED;
        }
        let (mut expected, mut unfolded) = (None, None);
        let found = self.outcomes.take(src, audited.findings)?;
        let repeat =
            found.as_ref().filter(|_| self.folded.forgets).and_then(|found| repeated(found, &record));
        match &mut self.folded.ledger {
            Some(ledger) if src >= self.folded.folded_from => {
                let known = repeat.and_then(|repeat| step_over(ledger, repeat, &record));
                if known.is_some()
                    && let Some(row) = row.as_mut()
                {
                    row.marks |= claims::REPEAT;
                }
                let outcome = match known {
                    Some(outcome) => outcome,
                    None => {
                        let folded = ledger.fold(record);
                        let outcome = folded.map_err(|error| AuditError(format!("{place}: {error}")))?;
                        if let Some(claim_id) = outcome.claim_id().filter(|_| self.folded.forgets) {
                            ledger.forget_refusal(&claim_id);
                        }
                        outcome
                    }
                };
                expected = Some(outcome);
            }
            _ => {
                let identity = RecordIdentity::of_record(self.partition, &record);
                unfolded = Some((identity, self.folded.newcomers.fold(record)));
            }
        }
        audited.findings.checked(Invariant::FirstCome, "records folded", u64::from(expected.is_some()));
        if let Some(found) = &found {
            audited.findings.checked(Invariant::OneOutcome, "answered records", 1);
            self.count(found, row.as_mut(), audited);
            if let Some(expected) = &expected {
                self.compare_outcome(&place, found, expected, audited.findings);
            }
            if let Some((identity, newcomer)) = unfolded {
                compare_record(&place, found, &identity, audited.findings);
                if let Some(newcomer) = self.folded.newcomers.judge(found, newcomer) {
                    audited.findings.checked(Invariant::FirstCome, "records folded", 1);
                    self.compare_outcome(&place, &unchained(found), &unchained(&newcomer), audited.findings);
                }
            }
        }
        let answered = found.is_some() || self.outcomes.first_src().is_some_and(|first| src < first);
        match expected.as_ref().or(found.as_ref()) {
            Some(truth) if answered || src < self.tables.next_src().number() => {
                self.settle(truth, entry, &place, row.as_mut(), audited);
                self.compare_stores(truth, self.definition_of(truth).as_ref(), row.as_mut(), audited)?;
            }
            _ => {
                if let Some(row) = row.as_mut().filter(|_| is_proven) {
                    settled(row, State::Undecided, false);
                }
            }
        }
        self.keep(row, audited.only)?;
        if let Some(truth) = &expected {
            self.compare_at(src.saturating_add(1), found.as_ref().or(Some(truth)), audited);
        }
        Ok(true)
    }

    fn read(&self, entry: &Entry, place: &str, findings: &mut Findings) -> Option<LogRecord> {
        let src_offset = Offset::new(entry.offset).ok()?;
        let appended_at = entry.append_time_ms.and_then(|ms| Timestamp::from_ms(ms).ok());
        let body = match decode_claims_record(entry.payload.as_deref()) {
            Ok(input) => Body::Readable(input),
            Err(Unreadable::Invalid { claim_id, .. }) => Body::Undecodable(claim_id),
            Err(newer @ Unreadable::Newer { .. }) => {
                findings.note(format!(
                    "{place}: {newer}; the line halts there, and nothing behind it was compared"
                ));
                return None;
            }
        };
        Some(LogRecord::new(src_offset, appended_at, body))
    }

    /// Compares an outcome with the fold's.
    fn compare_outcome(&mut self, place: &str, found: &Outcome, expected: &Outcome, findings: &mut Findings) {
        if found == expected {
            return;
        }
        let names = differing(found, expected);
        if std::mem::replace(&mut self.has_left_the_chain, true) && names == "chain" {
            return;
        }
        let granted =
            |outcome: &Outcome| matches!(&outcome.subject, Subject::Claim(claim) if claim.issue_no.is_some());
        let finding = format!(
            "its outcome differs from the fold in {names}: {}, not {}",
            found.code(),
            expected.code()
        );
        let one_won = granted(found) != granted(expected);
        findings.broken(if one_won { Invariant::FirstCome } else { Invariant::Agree }, place, &finding);
    }

    /// What must hold of the outcomes log whatever the fold says.
    fn count(&mut self, outcome: &Outcome, row: Option<&mut Row>, audited: &mut Audited<'_>) {
        let Subject::Claim(claim) = &outcome.subject else { return };
        if !claim.is_final {
            return;
        }
        let findings = &mut *audited.findings;
        let (src, coupon_id) = (outcome.src_offset, claim.claim_id.coupon_id);
        let place = format!("partition {}, claims offset {src}", self.partition);
        if let Some(row) = row {
            row.marks |= claims::FINAL;
            row.decided = outcome.decided_offset.number();
            row.told = self.folded.users.hash_one(told(claim));
        }
        if !outcome.is_new() || claim.issue_no.is_none() {
            return;
        }
        findings.checked(Invariant::NoOversell, "grants", 1);
        findings.checked(Invariant::OneEach, "grants", 1);
        let granted = self.folded.granted.entry(coupon_id).or_default();
        *granted += 1;
        let user = self.folded.users.hash_one(claim.user_id.as_str());
        let held = self.folded.grants.entry(coupon_id).or_default().entry(user).or_default();
        *held = held.saturating_add(1);
        let Some(state) = self.folded.ledger.as_ref().and_then(|ledger| ledger.coupon(coupon_id)) else {
            return;
        };
        if *granted > state.quantity {
            let finding = format!("{} is grant {granted} of {}", claim.claim_id, state.quantity);
            findings.broken(Invariant::NoOversell, &place, &finding);
        }
        let limit = state.definition.per_user_limit();
        if *held > limit {
            let finding = format!("{} is grant {held} of {limit} for this user", claim.claim_id);
            findings.broken(Invariant::OneEach, &place, &finding);
        }
    }

    /// What became of the claim of an answered record.
    fn settle(
        &self,
        truth: &Outcome,
        entry: &Entry,
        place: &str,
        row: Option<&mut Row>,
        audited: &mut Audited<'_>,
    ) {
        match &truth.subject {
            Subject::Claim(claim) => {
                if let Some(row) = row {
                    settled(row, state_of(claim.code), claim.is_final);
                }
            }
            Subject::Command(_) => {}
            Subject::Invalid(invalid) => {
                let origin = (self.partition.number(), entry.offset);
                let Some(letter) = audited.dead_letters.letters.get(&origin) else {
                    if !audited.dead_letters.is_whole {
                        audited.findings.note(format!(
                            "{place}: its copy is gone with the beginning of the dead-letter queue"
                        ));
                        return;
                    }
                    let finding = "cannot be read, and has no copy in the dead-letter queue";
                    audited.findings.broken(Invariant::OneOutcome, place, finding);
                    return;
                };
                audited.findings.checked(Invariant::OneOutcome, "dead letters", 1);
                let kept = |bytes: &[u8], most: usize| bytes.get(..most).unwrap_or(bytes).to_vec();
                let payload = entry.payload.as_deref().map(|payload| kept(payload, PAYLOAD_BYTES_MAX));
                let key = kept(entry.key.as_deref().unwrap_or_default(), KEY_BYTES_MAX);
                if (&letter.payload, &letter.key) != (&payload, &key) {
                    let finding = "its copy in the dead-letter queue has other bytes";
                    audited.findings.broken(Invariant::OneOutcome, place, finding);
                }
                if let Some(row) = row.filter(|_| invalid.claim_id.is_some()) {
                    settled(row, State::DeadLettered, false);
                }
            }
        }
    }

    fn definition_of(&self, truth: &Outcome) -> Option<Arc<Definition>> {
        let coupon_id = truth.coupon_id()?;
        let state = self.folded.ledger.as_ref().and_then(|ledger| ledger.coupon(coupon_id));
        Some(Arc::clone(&state.or_else(|| self.folded.newcomers.coupon(coupon_id))?.definition))
    }

    /// Compares what PostgreSQL and Redis have of an answer, each as far as it has come.
    fn compare_stores(
        &mut self,
        truth: &Outcome,
        definition: Option<&Arc<Definition>>,
        row: Option<&mut Row>,
        audited: &mut Audited<'_>,
    ) -> Result<(), AuditError> {
        let findings = &mut *audited.findings;
        if truth.src_offset < self.tables.next_src() && self.tables.includes(truth) {
            match &truth.subject {
                Subject::Claim(claim) => self.tables.compare(truth, Some(claim), definition, findings)?,
                Subject::Command(command) => {
                    self.tables.compare(truth, None, None, findings)?;
                    self.tables.compare_command(truth, command, findings);
                }
                Subject::Invalid(invalid) => {
                    self.tables.compare(truth, None, None, findings)?;
                    self.tables.compare_parked(truth.src_offset, invalid.claim_id.as_ref(), findings);
                }
            }
        }
        if let Some(view) = audited.view.as_deref_mut()
            && let Some(answer) = ClaimAnswer::of(truth)
        {
            let said = view.answered(&answer);
            if let (Some(said), Some(row)) = (said, row) {
                row.said = said;
                row.marks |= claims::ANSWER | if answer.is_final { claims::ANSWER_FINAL } else { 0 };
            }
        }
        Ok(())
    }

    /// Keeps what a record said of a claim until all of them are judged.
    fn keep(&mut self, row: Option<Row>, only: &BTreeSet<CouponId>) -> Result<(), AuditError> {
        match row {
            Some(row) if row.marks != 0 && is_wanted(only, row.key.coupon_id) => self.rows.push(row),
            _ => Ok(()),
        }
    }

    /// Compares everything that speaks of the line as it is before the record at `next_src`.
    fn compare_at(&mut self, next_src: i64, last: Option<&Outcome>, audited: &mut Audited<'_>) {
        let (Some(ledger), Ok(at)) = (&self.folded.ledger, Offset::new(next_src)) else { return };
        let findings = &mut *audited.findings;
        for published in self.states.remove(&at).unwrap_or_default() {
            findings.checked(Invariant::Agree, "states in coupon.state", 1);
            if ledger.coupon(published.state.coupon_id) != Some(&published.state) {
                let place = format!("coupon.state, {}", published.state.coupon_id);
                findings.broken(
                    Invariant::Agree,
                    &place,
                    &format!("is not the fold's state before offset {at}"),
                );
            }
        }
        let chain = last.map_or(ledger.chain(), |last| last.chain);
        for link in self.links.remove(&at).unwrap_or_default() {
            findings.checked(Invariant::Agree, "links in coupon.persisted", 1);
            if link != chain {
                let place = format!("coupon.persisted, partition {}", self.partition);
                findings.broken(Invariant::Agree, &place, &format!("its chain at {at} is not the log's"));
            }
        }
        for coupon_id in self.hashes.remove(&at).unwrap_or_default() {
            if let Some(view) = &audited.view {
                view.compare_hash(coupon_id, ledger.coupon(coupon_id), findings);
            }
        }
        if self.tables.next_src() == at {
            let settled = |state: &coupon_domain::CouponState| ledger.settled_count(state.coupon_id);
            let folded = ledger.coupons().map(|state| (state, settled(state)));
            self.tables.compare_coupons(folded, findings);
            if let Some(progress) = &self.tables.progress
                && progress.watermark.chain != chain
            {
                let place = format!("table partition_progress, partition {}", self.partition);
                findings.broken(Invariant::Agree, &place, &format!("its chain at {at} is not the log's"));
            }
        }
    }

    /// What is left when the line ends.
    fn close(mut self, audited: &mut Audited<'_>) -> Result<Audit, AuditError> {
        let partition = self.partition.number();
        let place = format!("partition {partition}");
        let findings = &mut *audited.findings;
        while let Some(src) = self.outcomes.peek() {
            self.outcomes.take(src, findings)?;
            if !self.is_cut_short {
                let finding =
                    format!("claims offset {src} is answered, but stands in no line that can be decided");
                findings.broken(Invariant::Agree, &place, &finding);
            }
        }
        self.tables.compare_awaited(findings)?;
        if !self.is_cut_short {
            self.tables.compare_unexpected(None, findings)?;
        }
        self.tables.compare_with_themselves(findings)?;
        let postgres = self.tables.next_src().number();
        let decided = self.outcomes.next_src().unwrap_or(postgres);
        let log = self.bounds.end;
        findings.checked(Invariant::DurableAck, "lines", 1);
        if decided < self.bounds.start {
            let last = self.bounds.start - 1;
            let finding = format!("claims offsets {decided} to {last} were deleted before they were decided");
            findings.broken(Invariant::DurableAck, &place, &finding);
        }
        if decided < log {
            findings.late(Invariant::OneOutcome, &place, &format!("{} records are undecided", log - decided));
        }
        if postgres > decided {
            let finding = format!("PostgreSQL reflects {postgres}, the outcomes log {decided}");
            findings.broken(Invariant::Agree, &place, &finding);
        } else if postgres < decided {
            findings.late(
                Invariant::Agree,
                &place,
                &format!("PostgreSQL is {} records behind", decided - postgres),
            );
        }
        self.close_published(decided, findings);
        let mut lowest_view = None;
        if let Some(view) = audited.view.as_deref() {
            let decided = Offset::new(decided).unwrap_or(Offset::ZERO);
            for state in self.folded.ledger.iter().flat_map(Ledger::coupons) {
                let is_wanted = is_wanted(audited.only, state.coupon_id);
                if is_wanted && state.status != coupon_domain::CouponStatus::Retired {
                    view.compare_whole(state, decided, audited.now, findings);
                }
            }
            lowest_view = view.lowest_watermark(partition).map(Offset::number);
        }
        let proven_from = self.folded.folded_from.min(log);
        let states = self.folded.ledger.iter().flat_map(Ledger::coupons);
        let live = states.filter(|state| !state.is_closed_at(audited.now)).map(|state| state.coupon_id);
        let progress = Progress {
            partition,
            log,
            outcomes: decided,
            postgres,
            view: lowest_view,
            proven_from,
            live: live.collect(),
        };
        // Every store has come to the end of the line: what is known there needs no copy.
        let is_everyone_here = !self.is_cut_short && self.cut.is_some_and(|cut| self.folded.next_src >= cut);
        let cut = match &self.kept {
            Some((folded, _)) => Some(folded.next_src),
            None => is_everyone_here.then_some(i64::MAX),
        };
        let proven_from = (!self.is_cut_short).then_some(self.folded.proven_from);
        let mut strays = Strays { findings: audited.findings, proven_from };
        let mut view = audited.view.as_deref_mut();
        let judged = match self.earlier.filter(|_| !self.rows.has_news()) {
            Some(earlier) => earlier.unchanged(),
            None => claims::judge(self.rows, view.as_deref_mut(), cut, audited.spill, &mut strays)?,
        };
        if let Some(view) = view {
            view.take_rest(partition, &mut strays)?;
        }
        let mut ledger = tally::Ledger::default();
        judged.of_coupon.values().for_each(|counted| ledger += *counted);
        let of_coupon = judged.of_coupon;
        let known = match self.kept {
            None if is_everyone_here => Some((self.folded, self.outcomes.into_known())),
            kept => kept,
        };
        let known = known.map(|(folded, outcomes)| Known { folded, outcomes, claims: judged.kept });
        Ok(Audit { progress, ledger, of_coupon, known })
    }

    /// States and links of offsets that the fold never stood at.
    fn close_published(&self, decided: i64, findings: &mut Findings) {
        let decided = Offset::new(decided).unwrap_or(Offset::ZERO);
        let beyond = |at: &Offset| *at > decided;
        let (states, links) =
            (self.states.keys().filter(|at| beyond(at)), self.links.keys().filter(|at| beyond(at)));
        let states = states.chain(self.said_decided.iter().filter(|at| beyond(at)));
        for (topic, at) in
            states.map(|at| ("coupon.state", at)).chain(links.map(|at| ("coupon.persisted", at)))
        {
            let place = format!("{topic}, partition {}", self.partition);
            findings.broken(Invariant::Agree, &place, &format!("reflects {at}, the outcomes log {decided}"));
        }
    }
}

fn is_wanted(only: &BTreeSet<CouponId>, coupon_id: CouponId) -> bool {
    only.is_empty() || only.contains(&coupon_id)
}

/// The outcome that says that this record repeats a claim that has its final outcome.
fn repeated<'a>(found: &'a Outcome, record: &LogRecord) -> Option<&'a Outcome> {
    match (&found.subject, &record.body) {
        (Subject::Claim(answer), Body::Readable(Input::Claim(claim)))
            if answer.is_final
                && answer.claim_id == claim.claim_id
                && found.decided_offset < record.src_offset =>
        {
            Some(found)
        }
        _ => None,
    }
}

/// What the outcome of a repeat must be, apart from the answer that it repeats; the ledger steps over its record. None where there is no such coupon.
fn step_over(ledger: &mut Ledger, repeat: &Outcome, record: &LogRecord) -> Option<Outcome> {
    let (Subject::Claim(answer), Body::Readable(Input::Claim(claim))) = (&repeat.subject, &record.body)
    else {
        return None;
    };
    let state = ledger.coupon(claim.claim_id.coupon_id)?;
    let mut outcome = Outcome {
        src_offset: record.src_offset,
        appended_at: record.appended_at,
        decided_offset: repeat.decided_offset,
        rules: state.definition.rules(),
        remaining: Some(state.remaining()),
        subject: Subject::Claim(ClaimOutcome { user_id: claim.user_id.clone(), ..answer.clone() }),
        chain: ledger.chain(),
    };
    outcome.chain = ledger.chain().next(&outcome);
    ledger.step_over(outcome.chain);
    Some(outcome)
}

/// All that a repeat must tell again.
fn told(claim: &ClaimOutcome) -> impl std::hash::Hash + '_ {
    let ClaimOutcome { claim_id, user_id, code, issue_no, user_nth, rank, granted_claim_id, .. } = claim;
    (claim_id, user_id.as_str(), code, issue_no, user_nth, rank, granted_claim_id)
}

/// The same outcome without its place in the chain.
fn unchained(outcome: &Outcome) -> Outcome {
    Outcome { chain: Chain::from_bytes([0; 32]), ..outcome.clone() }
}

/// Compares an outcome with the record that it answers, where the fold cannot be asked.
fn compare_record(place: &str, found: &Outcome, identity: &RecordIdentity, findings: &mut Findings) {
    if RecordIdentity::of_outcome(found) != *identity {
        findings.broken(Invariant::Agree, place, "its outcome answers another record");
    }
}

/// What became of the claim of a record.
fn settled(row: &mut Row, state: State, is_final: bool) {
    row.marks |= claims::SETTLED | if is_final { claims::SETTLED_FOR_GOOD } else { 0 };
    row.state = state.number();
}

/// The names of what differs; a report names no user.
fn differing(found: &Outcome, expected: &Outcome) -> String {
    let fields = |outcome: &Outcome| -> Option<serde_json::Map<String, serde_json::Value>> {
        serde_json::from_slice(&coupon_domain::wire::encode_outcome(outcome)).ok()
    };
    let (Some(found), Some(expected)) = (fields(found), fields(expected)) else {
        return "everything".to_owned();
    };
    let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let wrong = names.into_iter().filter(|name| found.get(*name) != expected.get(*name));
    wrong.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The ledger of a line that is read from its beginning.
pub(crate) fn empty_ledger(partition: Partition) -> Ledger {
    Ledger::<DefaultHasher>::new(partition)
}
