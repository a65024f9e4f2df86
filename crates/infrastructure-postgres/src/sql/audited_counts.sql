SELECT c.coupon_id, c.quantity::bigint AS quantity, c.issued::bigint AS issued, c.per_user_limit::bigint AS per_user_limit,
    coalesce(sum(u.held), 0)::bigint AS rows, coalesce(max(u.highest), 0)::bigint AS highest_issue_no,
    coalesce(max(d.codes), 0)::bigint AS codes, coalesce(max(u.held), 0)::bigint AS most_of_one_user
FROM coupons c
LEFT JOIN (
    SELECT coupon_id, user_id, count(*) AS held, max(issue_no) AS highest
    FROM issued_coupons WHERE src_partition = $1 GROUP BY coupon_id, user_id
) u ON u.coupon_id = c.coupon_id
LEFT JOIN (
    SELECT coupon_id, count(DISTINCT code) AS codes FROM issued_coupons GROUP BY coupon_id
) d ON d.coupon_id = c.coupon_id
WHERE c.partition = $1
GROUP BY c.coupon_id
