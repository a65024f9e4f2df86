//! The tables that diesel's DSL is used on. The others are spoken to by statements in `sql/`.

diesel::table! {
    coupon_drafts (coupon_id) {
        coupon_id -> Uuid,
        partition -> Integer,
        name -> Text,
        quantity -> Integer,
        per_user_limit -> Integer,
        opens_at -> Timestamptz,
        closes_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
        expires_after_days -> Nullable<Integer>,
        created_by -> Text,
        created_at -> Timestamptz,
        idempotency_key -> Text,
    }
}

diesel::table! {
    partition_progress (partition) {
        partition -> Integer,
        next_src -> BigInt,
        next_outcome_offset -> BigInt,
        chain -> Binary,
        beat -> BigInt,
        last_record_id -> Nullable<Text>,
        last_appended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    redemption_closures (closure_no) {
        closure_no -> Integer,
        closed_at -> Timestamptz,
        closed_by -> Text,
        reason -> Text,
        reopened_at -> Nullable<Timestamptz>,
        reopened_by -> Nullable<Text>,
    }
}
