-- A batch of a retired coupon's issued coupons that were used or have expired long ago, each with its claim and its redemption; noted in the same commit. Where none
-- is due, none that is left has ended before the one that ends first; and what is used from now on ends now at the earliest.
WITH due AS (
    SELECT coupon_id, claim_mac FROM issued_coupons
    WHERE coupon_id = $1 AND coalesce(used_at, expires_at) < now() - make_interval(days => $3)
    LIMIT $2
), issued AS (
    DELETE FROM issued_coupons i USING due WHERE i.coupon_id = due.coupon_id AND i.claim_mac = due.claim_mac
    RETURNING 1
), redeemed AS (
    DELETE FROM redemptions r USING due WHERE r.coupon_id = due.coupon_id AND r.claim_mac = due.claim_mac
), won AS (
    DELETE FROM claims c USING due WHERE c.coupon_id = due.coupon_id AND c.claim_mac = due.claim_mac AND c.final
), gone AS (
    SELECT count(*) AS rows FROM issued
), next AS (
    SELECT least(min(coalesce(used_at, expires_at)), now()) AS ended_from FROM issued_coupons WHERE coupon_id = $1
), noted AS (
    INSERT INTO coupon_retention AS r (coupon_id, issued_coupons, issued_ended_from, last_run_at)
    SELECT $1, gone.rows, CASE gone.rows WHEN 0 THEN next.ended_from ELSE '-infinity' END, now() FROM gone, next
    ON CONFLICT (coupon_id) DO UPDATE SET issued_coupons = r.issued_coupons + excluded.issued_coupons,
        issued_ended_from = excluded.issued_ended_from, last_run_at = excluded.last_run_at
)
SELECT rows::bigint AS rows FROM gone
