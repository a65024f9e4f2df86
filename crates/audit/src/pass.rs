//! One look at everything: which sources are read, in which order, and what it comes to.

use std::collections::{BTreeMap, BTreeSet};

use coupon_domain::invariant::Invariant;
use coupon_domain::{CouponId, KeyRing, Ledger, Offset, Partition};
use infrastructure_kafka::dead_letter::queue::{self, Payloads, Queue};
use infrastructure_kafka::{Connection, LogBounds, LogCursor, Reader, Topic, TopicLayout};
use infrastructure_postgres::PostgresSection;
use infrastructure_postgres::audit::{TableReader, Whose};
use infrastructure_postgres::checkpoint::LoadError;
use infrastructure_redis::ViewMaintenance;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::error::{AuditError, failed};
use crate::findings::Findings;
use crate::line::{self, Audited, Known, Progress, Sources};
use crate::published::Published;
use crate::rows::Spill;
use crate::tables::{Moment, Tables};
use crate::tally::Ledger as ClaimLedger;
use crate::view::View;

/// Where everything is that is looked at.
pub struct Installation<'a> {
    /// Kafka.
    pub connection: &'a Connection,
    /// Its topics.
    pub layout: &'a TopicLayout,
    /// PostgreSQL.
    pub postgres: &'a PostgresSection,
    /// The view; none where it is left out.
    pub view: Option<&'a ViewMaintenance>,
    /// The keys behind the codes of coupons: those of other coupons are not compared.
    pub keys: Option<&'a KeyRing>,
    /// Where what is known of claims goes, once it is too much for memory.
    pub spill: &'a Spill,
    /// The coupons whose claims are judged; all of them where none is named.
    pub only: &'a BTreeSet<CouponId>,
}

impl Installation<'_> {
    fn reads(&self, partition: Partition) -> bool {
        self.only.is_empty() || self.only.iter().any(|coupon_id| coupon_id.partition() == partition)
    }

    /// Whose rows are read of a partition.
    fn rows_of(&self, partition: Partition) -> Whose {
        match self.only.is_empty() {
            true => Whose::all(partition),
            false => Whose::named(partition, self.only.iter().copied()),
        }
    }
}

/// Where a pass begins.
pub enum Begin {
    /// With the first record of every line, and no later pass goes on from it.
    AtTheBeginning,
    /// Where an earlier pass has left everything in order; a later one can go on from this.
    At(Cut),
}

/// What a pass has left in order: each line as far as every store had come.
#[derive(Default)]
pub struct Cut {
    lines: BTreeMap<i32, Known>,
}

/// What one look at everything came to.
pub struct Pass {
    /// What was found.
    pub findings: Findings,
    /// Where a later pass can go on, as long as nothing was found.
    pub cut: Cut,
    /// How far everybody has come, by partition.
    pub progress: Vec<Progress>,
    /// The ledger of all coupons.
    pub ledger: ClaimLedger,
    /// The ledger of each coupon.
    pub of_coupon: BTreeMap<CouponId, ClaimLedger>,
    /// Coupons that are not closed.
    pub live: BTreeSet<CouponId>,
    /// The dead-letter queue.
    pub dead_letters: Queue,
}

/// Looks at everything but the view, which was read before.
///
/// # Errors
/// [`AuditError`].
pub async fn inspect(
    installation: &Installation<'_>,
    mut view: Option<View>,
    mut findings: Findings,
    begin: Begin,
) -> Result<Pass, AuditError> {
    let tables =
        TableReader::open(installation.postgres).await.map_err(failed("connecting to PostgreSQL"))?;
    let lines = tokio::task::block_in_place(|| {
        audit_lines(installation, tables, view.as_mut(), &mut findings, begin)
    })?;
    if let (Some(view), Some(maintenance)) = (&mut view, installation.view) {
        view.look_up(maintenance, &mut findings).await?;
        view.confirm_missing(maintenance, &mut findings).await?;
    }
    let Lines { progress, ledger, of_coupon, dead_letters, cut } = lines;
    if ledger.lost() > 0 {
        let finding =
            format!("{} accepted claims have no answer, and are not in the dead-letter queue", ledger.lost());
        findings.broken(Invariant::OneOutcome, "ledger", &finding);
    }
    let live = progress.iter().flat_map(|progress| progress.live.iter().copied()).collect();
    Ok(Pass { findings, cut, progress, ledger, of_coupon, live, dead_letters })
}

struct Lines {
    progress: Vec<Progress>,
    ledger: ClaimLedger,
    of_coupon: BTreeMap<CouponId, ClaimLedger>,
    dead_letters: Queue,
    cut: Cut,
}

fn audit_lines(
    installation: &Installation<'_>,
    mut reader: TableReader,
    mut view: Option<&mut View>,
    findings: &mut Findings,
    begin: Begin,
) -> Result<Lines, AuditError> {
    let Installation { connection, layout, keys, spill, only, .. } = *installation;
    let (goes_on, mut earlier) = match begin {
        Begin::AtTheBeginning => (false, Cut::default()),
        Begin::At(cut) => (true, cut),
    };
    let runtime = Handle::current();
    let claims = follow(connection, layout, Topic::Claims)?;
    let partitions = claims.partition_count().map_err(failed("reading the claims log"))?;
    if only.is_empty() {
        runtime.block_on(look_for_strays(&mut reader, partitions, findings))?;
    }
    // Each can only be behind what is read after it.
    let mut moments = BTreeMap::new();
    for number in 0..partitions {
        let partition = Partition::new(number).map_err(failed("the claims topic"))?;
        if installation.reads(partition) {
            let whose = installation.rows_of(partition);
            moments.insert(number, Moment::read(&mut reader, &runtime, whose)?);
        }
    }
    let reads = |partition| moments.contains_key(&partition);
    let mut published = Published::read(connection, layout, reads, findings)?;
    let outcomes = follow(connection, layout, Topic::Outcomes)?;
    let outcomes_bounds = bounds(&outcomes)?;
    let dead_letters =
        queue::read(connection, layout, Payloads::Kept).map_err(failed("reading the dead-letter queue"))?;
    let claims_bounds = bounds(&claims)?;
    let (mut progress, mut cut) = (Vec::new(), Cut::default());
    let (mut ledger, mut of_coupon) = (ClaimLedger::default(), BTreeMap::<_, ClaimLedger>::new());
    let now = service_runtime::Clock::system().now();
    let logs = claims_bounds.into_iter().zip(outcomes_bounds);
    for (number, (claims_bounds, outcomes_bounds)) in (0..).zip(logs) {
        let Some(moment) = moments.remove(&number) else { continue };
        let partition = Partition::new(number).map_err(failed("the claims topic"))?;
        let stored_to = moment.next_src();
        let known = earlier.lines.remove(&number).filter(|known| {
            known.continues_in(claims_bounds, outcomes_bounds) && known.next_src() <= stored_to.number()
        });
        let (known, from) = match known {
            Some(known) => {
                let from = Offset::new(known.next_src()).map_err(failed("the claims log"))?;
                (known, from)
            }
            None => {
                let ledger = choose_ledger(&mut reader, &runtime, partition, claims_bounds, findings)?;
                let from = if claims_bounds.start == 0 {
                    Offset::ZERO
                } else {
                    first_provable(&outcomes, number, outcomes_bounds, &ledger, stored_to)?
                };
                (Known::nothing(partition, claims_bounds, outcomes_bounds, ledger), from)
            }
        };
        let links = published.watermarks.remove(&number).unwrap_or_default();
        let unread = |start, bounds: LogBounds| LogBounds { start, ..bounds };
        let sources = Sources {
            claims: LogCursor::new(&claims, number, unread(known.next_src(), claims_bounds))
                .map_err(failed("reading the claims log"))?,
            claims_bounds,
            outcomes: LogCursor::new(&outcomes, number, unread(known.outcomes_at(), outcomes_bounds))
                .map_err(failed("reading the outcomes log"))?,
            tables: Tables::open(&mut reader, runtime.clone(), moment, from, keys, findings),
            states: published.states.remove(&number).unwrap_or_default(),
            links: links.into_iter().map(|link| (link.next_src, link.chain)).collect(),
            known,
            goes_on,
        };
        let mut audited =
            Audited { findings, view: view.as_deref_mut(), dead_letters: &dead_letters, now, spill, only };
        let audit = line::audit(sources, &mut audited)?;
        progress.push(audit.progress);
        cut.lines.extend(audit.known.map(|known| (number, known)));
        ledger += audit.ledger;
        for (coupon_id, counted) in audit.of_coupon {
            *of_coupon.entry(coupon_id).or_default() += counted;
        }
    }
    Ok(Lines { progress, ledger, of_coupon, dead_letters, cut })
}

/// Rows that belong to no line at all.
async fn look_for_strays(
    reader: &mut TableReader,
    partitions: i32,
    findings: &mut Findings,
) -> Result<(), AuditError> {
    let strays = reader.rows_of_partitions_from(partitions).await.map_err(failed("reading PostgreSQL"))?;
    if strays > 0 {
        let finding = format!("{strays} rows belong to partitions that the claims topic does not have");
        findings.broken(Invariant::Agree, "PostgreSQL", &finding);
    }
    let orphans = reader.orphans().await.map_err(failed("reading PostgreSQL"))?;
    if orphans > 0 {
        let finding = format!("claims or issued coupons belong to {orphans} coupons that are not there");
        findings.broken(Invariant::Agree, "PostgreSQL", &finding);
    }
    Ok(())
}

fn follow(connection: &Connection, layout: &TopicLayout, topic: Topic) -> Result<Reader, AuditError> {
    let name = layout.name(topic);
    Reader::new(connection, &name, "audit").map_err(failed(&name))
}

fn bounds(reader: &Reader) -> Result<Vec<LogBounds>, AuditError> {
    let asking = "asking for a partition's bounds";
    let partitions = reader.partition_count().map_err(failed(asking))?;
    (0..partitions).map(|partition| reader.bounds(partition).map_err(failed(asking))).collect()
}

/// The ledger that the claims log continues: an empty one where the log is whole, else PostgreSQL's.
fn choose_ledger(
    reader: &mut TableReader,
    runtime: &Handle,
    partition: Partition,
    claims: LogBounds,
    findings: &mut Findings,
) -> Result<Option<Ledger>, AuditError> {
    if claims.start == 0 {
        return Ok(Some(line::empty_ledger(partition)));
    }
    let load = async {
        reader.begin().await?;
        let stored = reader.ledger(partition).await;
        reader.end().await?;
        stored
    };
    match runtime.block_on(load) {
        Ok(stored) => {
            Ok(stored.map(|stored| stored.ledger).filter(|ledger| ledger.next_src().number() >= claims.start))
        }
        Err(LoadError::Checkpoint(error)) => {
            findings.broken(Invariant::Agree, "PostgreSQL", &error.to_string());
            Ok(None)
        }
        Err(LoadError::Postgres(error)) => Err(failed("reading PostgreSQL")(error)),
    }
}

/// Where the log no longer begins at 0: the first offset whose answer is still known from somewhere else than PostgreSQL.
fn first_provable(
    outcomes: &Reader,
    partition: i32,
    bounds: LogBounds,
    ledger: &Option<Ledger>,
    stored_to: Offset,
) -> Result<Offset, AuditError> {
    let folded = ledger.as_ref().map(Ledger::next_src);
    let mut cursor =
        LogCursor::new(outcomes, partition, bounds).map_err(failed("reading the outcomes log"))?;
    let first = match cursor.next().map_err(failed("reading the outcomes log"))? {
        Some(entry) => coupon_domain::wire::decode_outcome(entry.payload.as_deref().unwrap_or_default()).ok(),
        None => None,
    };
    let answered = first.map(|outcome| outcome.src_offset);
    Ok(folded.into_iter().chain(answered).min().unwrap_or(stored_to))
}

impl Progress {
    /// As an object, for scripts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "partition": self.partition,
            "log": self.log,
            "outcomes": self.outcomes,
            "postgres": self.postgres,
            "view": self.view,
            "proven_from": self.proven_from,
        })
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { partition, log, outcomes, postgres, .. } = self;
        write!(f, "partition {partition}: log {log}, outcomes {outcomes}, PostgreSQL {postgres}")?;
        match self.view {
            Some(view) => write!(f, ", view {view}"),
            None => Ok(()),
        }
    }
}
