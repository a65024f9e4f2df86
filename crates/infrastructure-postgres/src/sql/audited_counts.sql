-- Coupon by coupon, through keys that begin with it: other partitions' rows are not looked at.
SELECT o.coupon_id, o.quantity::bigint AS quantity, o.issued::bigint AS issued, o.per_user_limit::bigint AS per_user_limit,
    i.rows, i.highest_issue_no, i.codes, u.most_of_one_user
FROM coupons o
CROSS JOIN LATERAL (
    SELECT count(*) AS rows, coalesce(max(issue_no), 0)::bigint AS highest_issue_no, count(DISTINCT code) AS codes
    FROM issued_coupons WHERE coupon_id = o.coupon_id
) i
CROSS JOIN LATERAL (
    SELECT coalesce(max(held), 0)::bigint AS most_of_one_user
    FROM (SELECT count(*) AS held FROM issued_coupons WHERE coupon_id = o.coupon_id GROUP BY user_id) AS by_user
) u
