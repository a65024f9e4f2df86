//! The checkpoint is complete: a ledger that begins from it folds on as if it had never stopped. One that is torn is refused.

use std::cell::Cell;

use coupon_domain::ledger::Checkpoint;
use coupon_domain::outcome::Subject;
use coupon_domain::{ClaimCode, CommandKind, CouponStatus, Ledger, Outcome, Partition};
use infrastructure_postgres::PostgresError;
use infrastructure_postgres::checkpoint::{self, LoadError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::database::Database;
use crate::line::{Line, any_line, records};
use crate::shop::{Shop, offset};
use crate::writer::Writer;

/// How much of what matters the random lines had in them.
#[derive(Debug, Default)]
struct Seen {
    grants: Cell<usize>,
    rejections: Cell<usize>,
    repeats: Cell<usize>,
    commands: Cell<usize>,
    retired: Cell<usize>,
}

impl Seen {
    fn count(&self, outcome: &Outcome) {
        let counter = match &outcome.subject {
            _ if !outcome.is_new() => &self.repeats,
            Subject::Claim(claim) if claim.code == ClaimCode::Granted => &self.grants,
            Subject::Claim(claim) if claim.is_final => &self.rejections,
            Subject::Command(command) => match &command.state {
                Some(state) if state.status == CouponStatus::Retired => &self.retired,
                _ => &self.commands,
            },
            Subject::Claim(_) | Subject::Invalid(_) => return,
        };
        counter.set(counter.get() + 1);
    }
}

/// A checkpoint whose parts can be compared: everything in one order.
fn comparable(mut checkpoint: Checkpoint) -> String {
    checkpoint.coupons.sort_by_key(|coupon| coupon.state.coupon_id);
    for coupon in &mut checkpoint.coupons {
        coupon.commands.sort_by_key(|command| command.decided_offset);
    }
    format!("{checkpoint:#?}")
}

#[test]
fn a_checkpoint_of_any_prefix_folds_on_to_the_same_chain() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let database = runtime.block_on(Database::migrated());
    let mut runner = TestRunner::new(Config { cases: 48, max_shrink_iters: 200, ..Config::default() });
    let cuts = proptest::collection::vec(any::<prop::sample::Index>(), 1..4);
    let (seen, next_partition) = (Seen::default(), Cell::new(0));
    runner
        .run(&(any_line(80), cuts, 1usize..20), |(line, cuts, batch_max)| {
            let partition = Partition::new(next_partition.replace(next_partition.get() + 1)).unwrap();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(line.len() + 1)).collect();
            cuts.sort_unstable();
            runtime.block_on(folds_on(&database, &line, partition, &cuts, batch_max, &seen));
            Ok(())
        })
        .unwrap();
    let Seen { grants, rejections, repeats, commands, retired } = &seen;
    for counter in [grants, rejections, repeats, commands, retired] {
        assert!(counter.get() > 0, "the lines were too tame: {seen:?}");
    }
}

async fn folds_on(
    database: &Database,
    line: &Line,
    partition: Partition,
    cuts: &[usize],
    batch_max: usize,
    seen: &Seen,
) {
    let records = records(line, partition);
    let mut never_stopped = Ledger::new(partition);
    let outcomes: Vec<Outcome> =
        records.iter().map(|record| never_stopped.fold(record.clone()).unwrap()).collect();
    outcomes.iter().for_each(|outcome| seen.count(outcome));

    let mut writer = Writer::start(database.connect().await, partition).await;
    let (mut written, mut ledger) = (0, Ledger::new(partition));
    for cut in cuts.iter().copied().chain([records.len()]) {
        for (record, expected) in records[written..cut].iter().zip(&outcomes[written..cut]) {
            assert_eq!(&ledger.fold(record.clone()).unwrap(), expected);
        }
        // A worker that came back says some of it again before it goes on.
        let again = written.saturating_sub(2);
        let first = offset(i64::try_from(again).unwrap());
        writer.write(first, &outcomes[again..cut], batch_max).await;
        written = cut;

        let stored = checkpoint::load(&mut writer.connection, partition).await.unwrap().unwrap();
        assert_eq!(stored.progress.watermark.next_src, offset(i64::try_from(cut).unwrap()));
        assert_eq!(stored.progress.watermark.chain, ledger.chain());
        assert_eq!(comparable(stored.ledger.checkpoint()), comparable(ledger.checkpoint()));
        ledger = stored.ledger;
    }
    assert_eq!(ledger.chain(), never_stopped.chain());
}

/// A partition with a bit of everything, and what a start from it says.
struct Stored {
    shop: Shop,
}

impl Stored {
    /// In an emptied database.
    async fn anew(database: &Database) -> Self {
        database.sql("TRUNCATE partition_progress, coupons, claims, issued_coupons, commands, audit_events");
        let mut shop = Shop::open(database, 6, 2, 1).await;
        let claims = [
            shop.granted("ann", 0, 1, 1),
            shop.deferred("bob", 0, ClaimCode::Paused),
            shop.granted("bob", 0, 2, 1),
            shop.answered("cid", 0, ClaimCode::SoldOut, 3),
            shop.answered("dan", 0, ClaimCode::SoldOut, 4),
        ];
        shop.write(&claims).await.unwrap();
        shop.state.version = 2;
        shop.state.status = CouponStatus::Paused;
        let pause = shop.command(CommandKind::Pause, 1);
        shop.write_command(&pause).await.unwrap();
        shop.state.version = 3;
        shop.state.status = CouponStatus::Closed;
        let close = shop.command(CommandKind::Close, 2);
        shop.write_command(&close).await.unwrap();
        Self { shop }
    }

    /// None where a ledger can begin from it.
    async fn refusal(&mut self) -> Option<String> {
        let partition = self.shop.coupon_id.partition();
        match checkpoint::load(&mut self.shop.connection, partition).await {
            Ok(stored) => drop(stored.unwrap()),
            Err(error @ (LoadError::Postgres(PostgresError::Torn(_)) | LoadError::Checkpoint(_))) => {
                return Some(error.to_string());
            }
            Err(error) => panic!("{error}"),
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_with_a_row_gone_is_refused() {
    let database = Database::migrated().await;
    for (torn, expected) in [
        ("DELETE FROM claims WHERE user_id = 'ann'", "4 claims are settled, but 3 are there"),
        ("DELETE FROM claims WHERE user_id = 'cid'", "4 claims are settled, but 3 are there"),
        ("DELETE FROM coupons", "no coupon"),
        ("DELETE FROM commands WHERE kind = 'close'", "command"),
        ("DELETE FROM commands WHERE kind = 'pause'", "command"),
        ("DELETE FROM commands WHERE kind = 'publish'", "command"),
    ] {
        let mut stored = Stored::anew(&database).await;
        assert_eq!(stored.refusal().await, None);
        database.sql(torn);
        let refusal = stored.refusal().await.unwrap_or_else(|| panic!("{torn} goes unnoticed"));
        assert!(refusal.contains(expected), "{torn}: {refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_with_a_changed_row_is_refused() {
    let database = Database::migrated().await;
    for torn in [
        "UPDATE coupons SET issued = 1",
        "UPDATE coupons SET settled = 5",
        "UPDATE coupons SET version = 9",
        "UPDATE coupons SET closes_at = '10000-01-02'",
        "UPDATE coupons SET key_id = 'Not a key'",
        "UPDATE coupons SET partition = 7 WHERE partition = 6",
        "UPDATE claims SET code = 'sold_out' WHERE user_id = 'ann'",
        "UPDATE claims SET rank = NULL WHERE user_id = 'dan'",
        "UPDATE claims SET user_id = '' WHERE user_id = 'ann'",
        "UPDATE claims SET issue_no = 3 WHERE user_id = 'bob' AND final",
        "UPDATE claims SET final = false WHERE user_id = 'ann'",
        "UPDATE commands SET coupon_id = '00000000-0000-0000-0000-000000000001' WHERE kind = 'pause'",
        "UPDATE partition_progress SET last_appended_at = '1969-12-31'",
    ] {
        let mut stored = Stored::anew(&database).await;
        database.sql(torn);
        assert!(stored.refusal().await.is_some(), "{torn} goes unnoticed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_coupon_is_kept_with_its_commands_and_without_its_claims() {
    let database = Database::migrated().await;
    let mut stored = Stored::anew(&database).await;
    let shop = &mut stored.shop;
    shop.state.version = 4;
    shop.state.status = CouponStatus::Retired;
    let retire = shop.command(CommandKind::Retire, 3);
    shop.write_command(&retire).await.unwrap();
    let partition = shop.coupon_id.partition();
    let found = checkpoint::load(&mut shop.connection, partition).await.unwrap().unwrap();
    let [coupon] = &found.ledger.checkpoint().coupons[..] else { panic!("one coupon") };
    assert_eq!((coupon.claims.len(), coupon.commands.len()), (0, 4));
    assert_eq!(stored.refusal().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_nobody_has_heard_of_has_no_checkpoint_and_one_without_coupons_has_an_empty_one() {
    let database = Database::migrated().await;
    let mut connection = database.connect().await;
    let partition = Partition::new(3).unwrap();
    assert!(checkpoint::load(&mut connection, partition).await.unwrap().is_none());
    infrastructure_postgres::progress::load_or_create(&mut connection, partition).await.unwrap();
    let stored = checkpoint::load(&mut connection, partition).await.unwrap().unwrap();
    assert!(stored.ledger.coupons().next().is_none());
    assert_eq!(stored.ledger.chain(), coupon_domain::Chain::genesis(partition));
}
