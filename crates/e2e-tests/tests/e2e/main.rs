//! The whole system, end to end, on real Kafka, PostgreSQL and Redis: one module a scenario, each in a world of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod audit_in_a_burst;
mod audit_memory;
mod audit_of_one_coupon;
mod bad_requests;
mod binaries;
mod both_stores_behind;
mod browsers;
mod commands_repeated;
mod decided_late;
mod described;
mod encrypted;
mod flood_of_garbage;
mod granted_stored_pushed;
mod halted_line;
mod halted_tail;
mod idle_past_retention;
mod issuer_rotates;
mod kafka_stopped;
mod key_missing;
mod killed_in_a_burst;
mod last_coupon;
mod late_subscriber;
mod limits;
mod logs_tell_nobody;
mod lost_answer;
mod metrics;
mod one_user_floods;
mod orderly_stop;
mod outcomes_deleted;
mod planted_faults;
mod poisoned_claim;
mod postgres_back_in_time;
mod postgres_stopped;
mod postgres_wiped;
mod prod_refusals;
mod reconciler;
mod redemptions;
mod redis_lost;
mod refusals;
mod restock;
mod retention;
mod retired;
mod same_user_two_gateways;
mod several_notifiers;
mod several_of_one_user;
mod several_partitions;
mod signed_tokens;
#[cfg(feature = "otlp")]
mod spans;
mod topic_recreated;
mod topic_settings;
mod trace;
mod two_databases;
mod undecodable_record;
mod view_evicted;
mod wrong_topics;
mod zombie;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

type Scenario = fn() -> anyhow::Result<()>;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_claim_is_granted_stored_and_pushed", granted_stored_pushed::scenario),
    ("a_late_or_reconnecting_subscriber_gets_the_result", late_subscriber::scenario),
    ("a_page_of_another_origin_presses_and_follows_to_the_code", browsers::scenario),
    ("with_both_stores_behind_whoever_listens_is_told", both_stores_behind::scenario),
    ("every_replica_tells_its_own_listeners", several_notifiers::scenario),
    ("the_brokers_clock_decides_who_was_in_time", decided_late::scenario),
    ("the_same_user_at_two_gateways_gets_one_coupon_and_the_same_claim", same_user_two_gateways::scenario),
    ("two_hundred_users_press_for_the_last_coupon", last_coupon::scenario),
    ("sold_out_not_open_paused_closed_and_unknown_are_told_apart", refusals::scenario),
    ("a_restock_opens_the_next_round_and_no_outcome_changes", restock::scenario),
    ("several_coupons_are_decided_on_several_partitions", several_partitions::scenario),
    ("an_undecodable_record_is_parked_and_the_line_moves_on", undecodable_record::scenario),
    ("a_poisoned_claim_is_parked_shown_and_redriven_once", poisoned_claim::scenario),
    ("with_kafka_stopped_the_gateway_says_503_and_never_202", kafka_stopped::scenario),
    ("outcomes_that_retention_took_from_db_writer_are_published_again", outcomes_deleted::scenario),
    ("whoever_listens_is_told_though_the_tail_stands_still", halted_tail::scenario),
    ("a_winner_whose_answer_was_lost_never_reads_sold_out_as_the_last_word", lost_answer::scenario),
    ("the_same_command_twice_has_one_effect", commands_repeated::scenario),
    ("without_postgres_claims_and_commands_go_on", postgres_stopped::scenario),
    ("postgres_put_back_in_time_catches_up", postgres_back_in_time::scenario),
    ("without_db_writer_a_restore_is_noticed_all_the_same", postgres_back_in_time::without_writer),
    ("of_two_databases_the_one_that_db_writer_left_is_noticed", two_databases::writer_moves),
    ("of_two_databases_the_one_that_a_gateway_went_to_is_noticed", two_databases::gateway_moves),
    ("of_two_databases_that_raise_the_same_beat_both_close", two_databases::without_writer),
    (
        "topics_that_are_changed_under_the_system_are_named_and_nothing_undated_is_promised",
        topic_settings::scenario,
    ),
    ("a_line_that_stands_still_gets_no_new_coupons", halted_line::scenario),
    ("what_is_over_goes_after_its_time_and_is_not_missed", retention::scenario),
    ("postgres_wiped_and_put_back_lifts_the_halt", postgres_wiped::scenario),
    ("a_coupon_is_redeemed_once_by_its_owner_in_time", redemptions::scenario),
    ("redis_emptied_or_hung_costs_nothing_but_time", redis_lost::scenario),
    ("with_parts_of_the_view_thrown_away_no_winner_reads_a_firm_sold_out", view_evicted::scenario),
    ("with_an_older_view_put_back_no_winner_reads_a_firm_sold_out", view_evicted::put_back),
    ("a_zombies_copies_change_nothing", zombie::scenario),
    ("idle_past_retention_everything_starts_from_the_stores", idle_past_retention::scenario),
    ("no_third_where_two_are_allowed_and_the_same_key_never_twice", several_of_one_user::scenario),
    ("one_user_with_a_thousand_keys_or_streams_leaves_nothing_behind", one_user_floods::scenario),
    ("a_recreated_topic_halts_by_name_and_gets_no_202", topic_recreated::scenario),
    ("a_retired_coupon_leaves_state_and_view", retired::scenario),
    ("without_a_coupons_key_gateway_and_db_writer_say_so_by_name", key_missing::scenario),
    ("a_flood_of_garbage_halts_the_line_and_is_not_drained", flood_of_garbage::scenario),
    ("each_service_stops_in_order_under_load_and_nothing_is_lost", orderly_stop::scenario),
    ("each_service_is_killed_in_the_middle_of_a_burst", killed_in_a_burst::scenario),
    ("in_a_burst_the_audit_reports_lag_and_no_violation", audit_in_a_burst::scenario),
    ("an_audit_of_ten_million_claims_would_fit_into_512_mib", audit_memory::scenario),
    ("an_audit_of_one_coupon_reads_that_coupon_alone", audit_of_one_coupon::scenario),
    ("the_reconciler_shows_ledger_lag_and_broken_promises", reconciler::scenario),
    ("each_process_shows_exactly_its_rows_of_the_catalogue", metrics::scenario),
    ("audit_and_oracle_catch_planted_faults", planted_faults::scenario),
    ("a_trace_goes_from_request_to_both_logs_and_whoever_waits", trace::scenario),
    #[cfg(feature = "otlp")]
    ("the_spans_of_a_press_arrive_at_a_collector_as_one_trace", spans::scenario),
    ("no_line_of_any_log_tells_who_or_what_nobody_may_know", logs_tell_nobody::scenario),
    ("a_claim_is_taken_with_a_signed_token_and_no_shared_secret", signed_tokens::scenario),
    ("an_issuers_keys_are_found_followed_and_kept", issuer_rotates::scenario),
    ("bad_requests_are_refused_by_name_and_nothing_is_appended", bad_requests::scenario),
    ("every_answer_is_one_that_the_served_document_describes", described::scenario),
    ("beyond_a_limit_the_answer_is_503_or_the_turn_comes_later", limits::scenario),
    ("through_tls_alone_a_crowd_is_served_and_strangers_are_refused_by_key", encrypted::scenario),
    ("services_refuse_wrong_topics_and_wait_for_missing_ones", wrong_topics::scenario),
    ("every_binary_explains_itself_and_refuses_a_wrong_configuration", binaries::scenario),
    ("prod_takes_a_complete_configuration_and_refuses_each_careless_one_by_key", prod_refusals::scenario),
];

/// What the services are built with.
const FEATURES: &[&str] = if cfg!(feature = "otlp") {
    &["api-gateway/otlp", "stock-consumer/otlp", "db-writer/otlp", "notifier/otlp"]
} else {
    &[]
};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = local_stack::build_services_with(local_stack::BuildProfile::of_caller(), FEATURES)
    {
        panic!("the services could not be built: {error}");
    }
    let trials = SCENARIOS.iter().map(|(name, scenario)| {
        Trial::test(*name, || scenario().map_err(|error| Failed::from(format!("{error:#}"))))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
