SELECT o.coupon_id, o.partition, due.losing, due.issued
FROM coupons o
JOIN commands c ON c.coupon_id = o.coupon_id AND c.kind = 'retire' AND c.code = 'applied'
LEFT JOIN coupon_retention r ON r.coupon_id = o.coupon_id
CROSS JOIN LATERAL (
    SELECT c.appended_at < now() - make_interval(days => $1) AND NOT coalesce(r.losing_done, false) AS losing,
        coalesce(r.issued_ended_from < now() - make_interval(days => $2), true) AS issued
) due
WHERE o.status = 'retired' AND (due.losing OR due.issued)
ORDER BY o.coupon_id
