//! Times in the API: RFC 3339 in UTC with milliseconds.

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use coupon_domain::Timestamp;

/// `2026-11-21T10:00:00.123Z`
#[must_use]
pub fn to_rfc3339(timestamp: Timestamp) -> String {
    let nanoseconds = i128::from(timestamp.ms()) * 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Reads RFC 3339, in any offset; what is finer than a millisecond is cut off.
///
/// # Errors
/// What is wrong, to be read behind the field's name.
pub fn from_rfc3339(text: &str) -> Result<Timestamp, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "must be a time like 2026-11-21T10:00:00Z (RFC 3339)".to_owned())?;
    let ms = time.unix_timestamp_nanos() / 1_000_000;
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_ms(ms).ok())
        .ok_or_else(|| "must lie in the years 1970 to 9999".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back() {
        let moment = Timestamp::from_ms(1_795_255_200_123).unwrap();
        assert_eq!(to_rfc3339(moment), "2026-11-21T10:00:00.123Z");
        assert_eq!(from_rfc3339("2026-11-21T10:00:00.123Z"), Ok(moment));
        assert_eq!(from_rfc3339("2026-11-21T19:00:00.1239+09:00"), Ok(moment));
        assert!(from_rfc3339("tomorrow").is_err());
        assert!(from_rfc3339("1969-12-31T23:59:59Z").is_err());
    }
}
