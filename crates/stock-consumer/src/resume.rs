//! Starting a partition: carries out what [`coupon_domain::resume`] decides.

use std::ops::ControlFlow;
use std::time::Duration;

use coupon_domain::accept::LogBounds;
use coupon_domain::resume::{self, Base, Handshake, LastOutcome, RecordIdentity, Replay, Said, Stop, Stored};
use coupon_domain::wire::{RecordError, decode_outcome};
use coupon_domain::{HaltReason, Ledger, Offset, OutcomeWatermark};
use infrastructure_kafka::Reader;
use infrastructure_postgres::checkpoint::{self, LoadError};
use infrastructure_postgres::{Connection, PostgresError};

use service_runtime::partition::{Halt, Interrupted};

use crate::decode::decode;
use crate::metrics::LOAD_CHECKPOINT;
use crate::worker::Desk;

/// Records that are looked at between two turns of the loop.
const RECORDS_PER_TURN: usize = 10_000;
const READ_WAIT: Duration = Duration::from_secs(1);

/// A partition that can be decided from here on.
pub(crate) struct Resumed {
    pub(crate) ledger: Ledger,
    /// Stands at the first undecided record.
    pub(crate) reader: Reader,
}

/// Finds where the partition stands and replays up to there.
pub(crate) fn resume(desk: Desk<'_>) -> Result<Resumed, Interrupted> {
    let (shared, partition) = (desk.shared, desk.partition());
    let claims = shared.claims.reader(partition.number());
    let outcomes = shared.outcomes.reader(partition.number());
    let claims_bounds = bounds(&claims, desk)?;
    desk.worker.turn();

    let (stored, mut loaded) = load_checkpoint(desk)?;
    // After the store: what somebody still says meanwhile may be stored already, and an end from before would look like a log cut short.
    let outcomes_bounds = bounds(&outcomes, desk)?;
    let base = resume::choose_base(stored, claims_bounds, outcomes_bounds)
        .map_err(|stop| stopped(stop, "choosing the ledger to begin with"))?;
    let watermark = base.watermark(partition);
    let said = read_what_was_said(desk, &outcomes, &watermark, outcomes_bounds)?;
    // Claims may have been appended, and outcomes said, since the bounds were asked.
    let claims_bounds = bounds(&claims, desk)?;
    let plan_to = |last| {
        resume::plan_replay(partition, &base, last, claims_bounds)
            .map_err(|stop| stopped(stop, "comparing the store with the logs"))
    };
    let mut begin = || match base {
        Base::Checkpoint { watermark, .. } => match loaded.take() {
            Some(ledger) => Ok(ledger),
            None => load_again(desk, watermark.next_src),
        },
        Base::Empty => Ok(Ledger::new(partition)),
    };
    let plan = plan_to(said.last_word())?;
    if let Some(beyond) = said.beyond_a_gap() {
        tracing::warn!(%partition, from = %plan.next_undecided, to = %beyond.src_offset,
            "retention took outcomes that PostgreSQL has not read; all from there on are published again");
        // What was said there must come out again: else halt before a word of it is repeated.
        let claims = Reader::new(&shared.connection, &shared.claims_topic, "claims of a gap")?;
        drop(replay(desk, claims, begin()?, &plan_to(Some(beyond))?)?);
    }
    replay(desk, claims, begin()?, &plan)
}

fn bounds(reader: &Reader, desk: Desk<'_>) -> Result<LogBounds, Interrupted> {
    let found = reader.bounds(desk.partition().number())?;
    let offset = |number| Offset::new(number).map_err(|error| Interrupted::Wait(error.to_string()));
    Ok(LogBounds { start: offset(found.start)?, end: offset(found.end)? })
}

fn stopped(stop: Stop, doing: &str) -> Interrupted {
    match stop {
        Stop::Wait(waiting) => Interrupted::Wait(waiting.as_str().to_owned()),
        Stop::Halt(reason) => Interrupted::Halt(Halt::new(reason, format!("found while {doing}"))),
    }
}

/// Asks PostgreSQL, turning the loop meanwhile: a large checkpoint takes a while. Of all partitions that a process is given at once only
/// `decide.checkpoint_loads_max` are loaded at the same time.
fn load_checkpoint(desk: Desk<'_>) -> Result<(Stored, Option<Ledger>), Interrupted> {
    let section = desk.shared.context.config.postgres.clone();
    let partition = desk.partition();
    let loading = async {
        let mut connection = Connection::open(&section).await?;
        match checkpoint::load(&mut connection, partition).await {
            Ok(stored) => Ok(Ok(stored)),
            Err(LoadError::Checkpoint(error)) => Ok(Err(error)),
            Err(LoadError::Postgres(error)) => Err(error),
        }
    };
    let in_turn = async {
        let _place = desk.shared.checkpoint_loads.wait().await;
        desk.shared.metrics.postgres.measure(LOAD_CHECKPOINT, loading).await
    };
    let loaded = desk.worker.block_on(&desk.shared.runtime, in_turn)?;
    match loaded {
        Ok(Ok(None)) => Ok((Stored::Nothing, None)),
        Ok(Ok(Some(stored))) => {
            let progress = Stored::Progress {
                watermark: stored.progress.watermark,
                last_record: stored.progress.last_record,
            };
            Ok((progress, Some(stored.ledger)))
        }
        Ok(Err(error)) => Err(Halt::new(error.reason, error.to_string()).into()),
        Err(PostgresError::Torn(problem)) => Err(Halt::new(HaltReason::Constraint, problem).into()),
        Err(error) => {
            tracing::warn!(%partition, "going on without a checkpoint: {error}");
            Ok((Stored::Unreachable, None))
        }
    }
}

/// The ledger once more, where the first one was used up. It may have moved on meanwhile: then the partition starts over.
fn load_again(desk: Desk<'_>, next_src: Offset) -> Result<Ledger, Interrupted> {
    match load_checkpoint(desk)? {
        (Stored::Progress { watermark, .. }, Some(ledger)) if watermark.next_src == next_src => Ok(ledger),
        _ => {
            Err(Interrupted::Restart("PostgreSQL has moved on while its checkpoint was compared".to_owned()))
        }
    }
}

/// Reads the outcomes from the one before the store's place to the end.
fn read_what_was_said(
    desk: Desk<'_>,
    outcomes: &Reader,
    stored: &OutcomeWatermark,
    bounds: LogBounds,
) -> Result<Said, Interrupted> {
    let from = stored.next_outcome_offset.previous().unwrap_or(Offset::ZERO).max(bounds.start);
    let (mut said, mut next) = (Said::since(stored.next_src), from.number());
    if from >= bounds.end {
        return Ok(said);
    }
    outcomes.assign(&[(desk.partition().number(), next)])?;
    while next < bounds.end.number() {
        let mut broken = None;
        outcomes.drain(RECORDS_PER_TURN, READ_WAIT, |record| {
            next = record.offset() + 1;
            match decode_outcome(record.payload().unwrap_or_default()) {
                Ok(outcome) => {
                    said.take(LastOutcome { src_offset: outcome.src_offset, chain: outcome.chain });
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    broken = Some(unreadable_outcome(record.offset(), &error));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(halt) = broken {
            return Err(halt.into());
        }
        desk.worker.turn();
        desk.worker.check_stop()?;
    }
    Ok(said)
}

fn unreadable_outcome(offset: i64, error: &RecordError) -> Halt {
    let reason = match error {
        RecordError::NewerVersion { .. } => HaltReason::NewerVersion,
        RecordError::Malformed(_) => HaltReason::ChainMismatch,
    };
    Halt::new(reason, format!("the outcome at {offset}: {error}"))
}

/// Folds the records up to the last word without saying anything, and compares the chains there.
fn replay(desk: Desk<'_>, reader: Reader, mut ledger: Ledger, plan: &Replay) -> Result<Resumed, Interrupted> {
    let partition = desk.partition();
    let start = match &plan.handshake {
        Handshake::Record { offset, .. } => *offset,
        Handshake::NotNeeded => plan.from,
    };
    reader.assign(&[(partition.number(), start.number())])?;
    let mut handshake = match &plan.handshake {
        Handshake::Record { identity, .. } => Some(identity),
        Handshake::NotNeeded => None,
    };
    while handshake.is_some() || ledger.next_src() < plan.next_undecided {
        let left = plan.next_undecided.since(ledger.next_src()) + u64::from(handshake.is_some());
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(RECORDS_PER_TURN);
        let mut broken = None;
        reader.drain(most, READ_WAIT, |view| {
            let step = decode(partition, &view).and_then(|decoded| match handshake.take() {
                Some(identity) => {
                    let found = RecordIdentity::of_record(partition, &decoded.record);
                    let detail =
                        format!("the record at {} is not the one that the store knows", view.offset());
                    resume::check_handshake(identity, &found).map_err(|reason| Halt::new(reason, detail))
                }
                None => match ledger.fold(decoded.record) {
                    Ok(_) => Ok(()),
                    Err(error) => Err(Halt::new(HaltReason::OffsetGap, error.to_string())),
                },
            });
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(halt) => {
                    broken = Some(halt);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(halt) = broken {
            return Err(halt.into());
        }
        desk.worker.turn();
        desk.worker.check_stop()?;
    }
    resume::check_chain(plan.chain, ledger.chain()).map_err(|reason| {
        Halt::new(reason, format!("the fold up to {} does not give what was said there", plan.next_undecided))
    })?;
    let replayed = plan.next_undecided.since(plan.from);
    tracing::info!(%partition, replayed, offset = %plan.next_undecided, "replayed");
    Ok(Resumed { ledger, reader })
}
