//! Loading a checkpoint takes hardly more memory than the ledger that comes out of it. In a process of its own, whose memory is measured.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use coupon_domain::Partition;
use infrastructure_postgres::{Connection, PostgresSection, checkpoint, migrations};
use local_stack::{namespace, servers_for_tests};

const CLAIMS: u32 = 400_000;
const GRANTS: u32 = 40_000;

/// A line whose coupon was claimed by many.
fn line() -> String {
    let coupon = "'00000000-0000-0000-0000-000000000001'::uuid";
    let mac = "'00000000-0000-0000-0000-0000000000aa'::uuid";
    format!(
        "INSERT INTO partition_progress VALUES (0, {CLAIMS} + 1, {CLAIMS} + 1, decode(repeat('00', 32), 'hex'), 1, 'x', now());
         INSERT INTO coupons (coupon_id, partition, name, initial_quantity, per_user_limit, opens_at, closes_at, rules, key_id,
             status, round, quantity, issued, settled, version, last_command_mac, last_command_code, published_offset,
             published_at)
         VALUES ({coupon}, 0, 'Tea', {GRANTS}, 1, '2026-01-01', '2036-01-01', 1, 'k1', 'active', 0, {GRANTS}, {GRANTS},
             {CLAIMS}, 1, {mac}, 'applied', 0, now());
         INSERT INTO commands (command_mac, coupon_id, src_partition, src_offset, kind, code, version, appended_at)
         VALUES ({mac}, {coupon}, 0, 0, 'publish', 'applied', 1, now());
         INSERT INTO claims (src_partition, src_offset, coupon_id, claim_mac, slot, appended_at, rank, issue_no, code, round,
             user_nth, final, user_id)
         SELECT 0, n, {coupon}, gen_random_uuid(), 0, now(), n, CASE WHEN n <= {GRANTS} THEN n END,
             CASE WHEN n <= {GRANTS} THEN 'granted' ELSE 'sold_out' END::claim_code, 0,
             CASE WHEN n <= {GRANTS} THEN 1 END, true, 'a user with a name of usual length ' || n
         FROM generate_series(1, {CLAIMS}) n"
    )
}

/// A figure of this process, in KiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peak_of_loading_is_at_most_a_third_above_the_ledger() {
    let servers = servers_for_tests();
    let namespace = namespace(servers, 1).unwrap();
    let section = PostgresSection {
        url: Some(namespace.database_url.clone()),
        connect_timeout_ms: 20_000,
        ..PostgresSection::default()
    };
    migrations::migrate(Connection::open(&section).await.unwrap()).await.unwrap();
    servers.run_sql(&namespace.database_url, &line()).unwrap();
    let mut connection = Connection::open(&section).await.unwrap();
    let before = memory("VmRSS");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let stored = checkpoint::load(&mut connection, Partition::new(0).unwrap()).await.unwrap().unwrap();
    let (peak, resident) = (memory("VmHWM") - before, memory("VmRSS") - before);
    let coupon_id = stored.ledger.coupons().next().unwrap().coupon_id;
    assert_eq!(stored.ledger.settled_count(coupon_id), CLAIMS);
    println!("{CLAIMS} claims: {resident} KiB stay, {peak} KiB at the peak");
    assert!(resident > 20_000, "{resident} KiB: the ledger was not measured");
    assert!(peak * 10 <= resident * 13, "{peak} KiB at the peak of loading a ledger of {resident} KiB");
    drop(stored);
    namespace.drop_database(servers).unwrap();
}
