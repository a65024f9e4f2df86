//! What requests name, in our types, and which of it cannot be taken.

use coupon_domain::CouponId;
use coupon_domain::coupon::FieldError;
use infrastructure_http::Problem;

/// The coupon that a path names.
pub(crate) fn parse_coupon(path: &str) -> Result<CouponId, Problem> {
    path.parse().map_err(|error| Problem::invalid("coupon_id", error))
}

/// Names all wrong fields in one problem.
pub(crate) fn wrong_fields(errors: Vec<FieldError>) -> Problem {
    let field = errors.first().map_or("body", |error| error.field);
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Problem::invalid(field, all.join("; ").trim_start_matches(field).trim_start())
}
