//! Every limit of the domain, by name. Promise BOUNDED: what is beyond one of these is refused, never truncated.

/// Most coupons of one kind that can be on offer. A ledger keeps about 64 bytes per claim and 60 more per grant.
pub const QUANTITY_MAX: u32 = 10_000_000;
/// Most coupons of one kind that one user may hold.
pub const PER_USER_LIMIT_MAX: u16 = 100;
/// Longest user id (the token's `sub`), in bytes. PostgreSQL's btree rows, Redis keys and logs all carry it.
pub const USER_ID_BYTES_MAX: usize = 128;
/// Longest coupon name, in bytes.
pub const NAME_BYTES_MAX: usize = 200;
/// Longest operator's reason on a command, in bytes.
pub const REASON_BYTES_MAX: usize = 500;
/// Highest round. One look-up of a user's claims asks for one claim id per round, so rounds are few.
pub const ROUND_MAX: u8 = 31;
/// Longest reference of the order that a coupon is redeemed for, in bytes.
pub const ORDER_REF_BYTES_MAX: usize = 128;
/// Longest Idempotency-Key, in characters (visible ASCII).
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
/// Longest key id, in characters.
pub const KEY_ID_CHARS_MAX: usize = 32;
/// Shortest secret behind a key, in bytes (256 bits).
pub const SECRET_BYTES_MIN: usize = 32;
/// Largest record on `coupon.claims`, in bytes. A larger one is undecodable.
pub const CLAIMS_RECORD_BYTES_MAX: usize = 8 * 1024;
/// Highest partition number that fits a coupon id.
pub const PARTITION_MAX: u16 = 9_999;
/// Longest validity of an issued coupon, in days after its issue (ten years).
pub const EXPIRY_DAYS_MAX: u16 = 3_650;
/// Last moment that a timestamp may name: the end of the year 9999, in milliseconds since the epoch.
pub const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_999;
