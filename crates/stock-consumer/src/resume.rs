//! Starting a partition: carries out what [`coupon_domain::resume`] decides.

use std::ops::ControlFlow;
use std::time::Duration;

use coupon_domain::accept::LogBounds;
use coupon_domain::ledger::{Checkpoint, DefaultHasher};
use coupon_domain::resume::{self, Base, Handshake, LastOutcome, RecordIdentity, Replay, Said, Stop, Stored};
use coupon_domain::wire::{RecordError, decode_outcome};
use coupon_domain::{HaltReason, Ledger, Offset, OutcomeWatermark};
use infrastructure_kafka::Reader;
use infrastructure_postgres::{Connection, PostgresError, checkpoint};

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
    let claims = Reader::new(&shared.connection, &shared.claims_topic, "claims reader")?;
    let outcomes = Reader::new(&shared.connection, &shared.outcomes_topic, "outcomes reader")?;
    let claims_bounds = bounds(&claims, desk)?;
    desk.worker.turn();

    let (stored, checkpoint) = load_checkpoint(desk)?;
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
    let restore = |checkpoint: Option<Checkpoint>| match checkpoint {
        Some(checkpoint) if matches!(base, Base::Checkpoint { .. }) => {
            Ledger::restore(checkpoint, DefaultHasher::default())
                .map_err(|error| Interrupted::from(Halt::new(error.reason, error.to_string())))
        }
        _ => Ok(Ledger::new(partition)),
    };
    let plan = plan_to(said.last_word())?;
    if let Some(beyond) = said.beyond_a_gap() {
        tracing::warn!(%partition, from = %plan.next_undecided, to = %beyond.src_offset,
            "retention took outcomes that PostgreSQL has not read; all from there on are published again");
        // What was said there must come out again: else halt before a word of it is repeated.
        let claims = Reader::new(&shared.connection, &shared.claims_topic, "claims reader")?;
        drop(replay(desk, claims, restore(checkpoint.clone())?, &plan_to(Some(beyond))?)?);
    }
    replay(desk, claims, restore(checkpoint)?, &plan)
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

/// Asks PostgreSQL, turning the loop meanwhile: a large checkpoint takes a while.
fn load_checkpoint(desk: Desk<'_>) -> Result<(Stored, Option<Checkpoint>), Interrupted> {
    let section = desk.shared.context.config.postgres.clone();
    let partition = desk.partition();
    let loading = async {
        let mut connection = Connection::open(&section).await?;
        checkpoint::load(&mut connection, partition).await
    };
    let measured = desk.shared.metrics.postgres.measure(LOAD_CHECKPOINT, loading);
    let loaded = desk.worker.block_on(&desk.shared.runtime, measured)?;
    match loaded {
        Ok(None) => Ok((Stored::Nothing, None)),
        Ok(Some(stored)) => {
            let progress = Stored::Progress {
                watermark: stored.progress.watermark,
                last_record: stored.progress.last_record,
            };
            Ok((progress, Some(stored.checkpoint)))
        }
        Err(PostgresError::Torn(problem)) => Err(Halt::new(HaltReason::Constraint, problem).into()),
        Err(error) => {
            tracing::warn!(%partition, "going on without a checkpoint: {error}");
            Ok((Stored::Unreachable, None))
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
