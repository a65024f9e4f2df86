//! Rows, counters and watermark: together or not at all.

use coupon_domain::accept::OutcomeWatermark;
use coupon_domain::{ClaimCode, CommandKind, CouponStatus};
use infrastructure_postgres::batch::{Move, OutcomeRows, Written, write_outcomes};
use infrastructure_postgres::{coupons, progress};

use crate::database::Database;
use crate::shop::{Shop, at, offset};

fn beat_of(written: Written) -> i64 {
    match written {
        Written::Committed { beat } => beat,
        Written::Conflict => panic!("the watermark was not where the batch starts"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_counters_and_watermark_are_committed_together() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 7, 3, 1).await;
    let claims = [
        shop.granted("ann", 0, 1, 1),
        shop.deferred("bob", 0, ClaimCode::Paused),
        shop.granted("cid", 0, 2, 1),
        shop.answered("dan", 0, ClaimCode::SoldOut, 3),
    ];
    let step = shop.step(4);
    assert_eq!(beat_of(shop.write(&claims).await.unwrap()), 2, "one for the publish command, one for this");

    let progress = progress::load(&mut shop.connection, step.partition).await.unwrap().unwrap();
    assert_eq!((progress.watermark, progress.beat, progress.last_record), (step.to, 2, step.last_record));
    let [coupon] = &coupons::in_partition(&mut shop.connection, step.partition).await.unwrap()[..] else {
        panic!("one coupon was published");
    };
    assert_eq!((coupon.issued, coupon.last_grant_offset), (2, Some(offset(3))));
    assert_eq!((database.count("claims"), database.count("issued_coupons")), (4, 2));
    assert_eq!(
        database.sql("SELECT string_agg(user_id || ' ' || code || ' ' || issue_no, ', ' ORDER BY issue_no) FROM issued_coupons"),
        "ann CODE-1 1, cid CODE-2 2"
    );
    assert_eq!(
        database.sql(
            "SELECT string_agg(user_id || ' ' || code || ' ' || final, ', ' ORDER BY src_offset) FROM claims"
        ),
        "ann granted true, bob paused false, cid granted true, dan sold_out true"
    );
    // Spelled as the API spells them.
    assert_eq!(
        database.sql("SELECT claim_id FROM claims_spelled ORDER BY src_offset LIMIT 1"),
        claims[0].claim_id.to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_for_several_coupons_raises_each_counter_once() {
    let database = Database::migrated().await;
    let mut first = Shop::open(&database, 1, 5, 1).await;
    let other = Shop::open(&database, 2, 5, 1).await;
    let grants = [
        first.granted("ann", 0, 1, 1),
        other.granted("ann", 0, 1, 1),
        first.granted("bob", 0, 2, 1),
        other.granted("bob", 0, 2, 1),
        other.granted("cid", 0, 3, 1),
    ];
    // db-writer would not mix partitions; the statement only counts coupons.
    first.write(&grants).await.unwrap();
    assert_eq!(
        database.sql(
            "SELECT string_agg(issued || ' ' || last_grant_offset, ', ' ORDER BY partition) FROM coupons"
        ),
        "2 3, 3 5"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_find_the_watermark_that_it_starts_from_writes_nothing() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 0, 9, 1).await;
    let zombie = shop.step(1);
    let zombies_rows = shop.rows(&[shop.granted("zoe", 0, 1, 1)]);
    let zombies_pause = shop.command(CommandKind::Pause, 9);
    shop.write(&[shop.granted("ann", 0, 1, 1)]).await.unwrap();
    let (before, here) = (database.contents(), shop.watermark);

    let mut other = database.connect().await;
    assert_eq!(write_outcomes(&mut other, &zombie, &zombies_rows).await.unwrap(), Written::Conflict);
    let elsewhere = [
        OutcomeWatermark { next_src: here.next_src.next(), ..here },
        OutcomeWatermark { next_outcome_offset: here.next_outcome_offset.next(), ..here },
        OutcomeWatermark { chain: zombie.from.chain, ..here },
    ];
    for from in elsewhere {
        let step = Move { from, ..shop.step(1) };
        let written = write_outcomes(&mut other, &step, &zombies_rows).await.unwrap();
        assert_eq!(written, Written::Conflict, "{from:?}");
        assert_eq!(progress::beat(&mut other, step.partition, &from).await.unwrap(), None, "{from:?}");
    }
    let step = Move { partition: coupon_domain::Partition::new(5).unwrap(), ..shop.step(1) };
    assert_eq!(write_outcomes(&mut other, &step, &zombies_rows).await.unwrap(), Written::Conflict);
    shop.watermark = zombie.from;
    assert_eq!(shop.write_command(&zombies_pause).await.unwrap(), Written::Conflict);
    assert_eq!(database.contents(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_nothing_but_copies_moves_the_outcomes_offset_alone() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 0, 9, 1).await;
    shop.write(&[shop.granted("ann", 0, 1, 1)]).await.unwrap();
    let from = shop.watermark;
    let to = OutcomeWatermark { next_outcome_offset: offset(500), ..from };
    let before = progress::load(&mut shop.connection, shop.coupon_id.partition()).await.unwrap().unwrap();
    let step =
        Move { partition: shop.coupon_id.partition(), from, to, last_record: before.last_record.clone() };
    let written = write_outcomes(&mut shop.connection, &step, &OutcomeRows::default()).await.unwrap();
    let after = progress::load(&mut shop.connection, step.partition).await.unwrap().unwrap();
    assert_eq!(beat_of(written), before.beat + 1);
    assert_eq!((after.watermark, after.last_record), (to, before.last_record));
    assert_eq!(database.count("claims"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commands_outcome_changes_its_coupon_and_is_remembered_with_who_and_why() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 3, 9, 1).await;
    shop.write(&[shop.granted("ann", 0, 1, 1)]).await.unwrap();
    shop.state.last_grant_offset = Some(offset(1));
    shop.state.status = CouponStatus::Paused;
    shop.state.version = 2;
    let pause = shop.command(CommandKind::Pause, 1);
    shop.write_command(&pause).await.unwrap();
    let partition = shop.coupon_id.partition();
    assert_eq!(coupons::in_partition(&mut shop.connection, partition).await.unwrap(), [shop.state.clone()]);
    assert_eq!(
        database.sql(
            "SELECT string_agg(kind || ' ' || code || ' ' || version, ', ' ORDER BY src_offset) FROM commands"
        ),
        "publish applied 1, pause applied 2"
    );
    let noted = database.sql(
        "SELECT actor || ', ' || reason || ', ' || (state ->> 'status') FROM audit_events ORDER BY src_offset DESC LIMIT 1",
    );
    assert_eq!(noted, "operator, because, paused");
    let pool = database.pool();
    let found = pool.run(async |pooled| {
        let none =
            infrastructure_postgres::commands::find(pooled, crate::shop::command_id(shop.coupon_id, 77))
                .await?;
        let answer = infrastructure_postgres::commands::find(pooled, pause.command_id).await?;
        let coupon = coupons::find_many(pooled, &[shop.coupon_id]).await?;
        Ok((none, answer, coupon))
    });
    let (none, answer, coupon) = found.await.unwrap();
    assert_eq!(none, None);
    let answer = answer.unwrap();
    assert_eq!((answer.code.as_str(), answer.refusal, answer.version), ("applied", None, 2));
    assert_eq!(coupon, [shop.state]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_only_grows_and_refuses_a_watermark_that_has_moved() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 0, 9, 1).await;
    let partition = shop.coupon_id.partition();
    let here = shop.watermark;
    assert_eq!(progress::beat(&mut shop.connection, partition, &here).await.unwrap(), Some(2));
    assert_eq!(progress::beat(&mut shop.connection, partition, &here).await.unwrap(), Some(3));
    assert_eq!(beat_of(shop.write(&[shop.granted("ann", 0, 1, 1)]).await.unwrap()), 4);
    assert_eq!(progress::beat(&mut shop.connection, partition, &here).await.unwrap(), None);
    let progress = progress::load(&mut shop.connection, partition).await.unwrap().unwrap();
    assert_eq!((progress.beat, progress.watermark), (4, shop.watermark));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_partition_begins_at_its_genesis_and_keeps_what_it_has() {
    let database = Database::migrated().await;
    let mut connection = database.connect().await;
    let partition = coupon_domain::Partition::new(9_999).unwrap();
    assert_eq!(progress::load(&mut connection, partition).await.unwrap(), None);
    let created = progress::load_or_create(&mut connection, partition).await.unwrap();
    assert_eq!(created.watermark, OutcomeWatermark::genesis(partition));
    assert_eq!((created.beat, created.last_record.clone()), (0, None));
    progress::beat(&mut connection, partition, &created.watermark).await.unwrap();
    let again = progress::load_or_create(&mut connection, partition).await.unwrap();
    assert_eq!(again, progress::Progress { beat: 1, ..created });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_could_not_be_read_is_remembered_by_its_time_alone() {
    let database = Database::migrated().await;
    let mut shop = Shop::open(&database, 0, 9, 1).await;
    let unreadable = coupon_domain::resume::RecordIdentity { id: None, appended_at: at(77) };
    let step = Move { last_record: Some(unreadable.clone()), ..shop.step(1) };
    write_outcomes(&mut shop.connection, &step, &OutcomeRows::default()).await.unwrap();
    let progress = progress::load(&mut shop.connection, step.partition).await.unwrap().unwrap();
    assert_eq!(progress.last_record, Some(unreadable));
}
