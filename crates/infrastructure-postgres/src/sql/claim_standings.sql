WITH asked AS (
    SELECT mac, $2::uuid AS coupon_id, $3::integer AS partition, $4::bigint AS before FROM unnest($1::uuid[]) AS m (mac)
)
SELECT asked.mac AS claim_mac,
    (SELECT f.code::text FROM claims f
        WHERE f.claim_mac = asked.mac AND f.coupon_id = asked.coupon_id AND f.final AND f.src_offset < asked.before) AS final_code,
    (SELECT max(d.src_offset) FROM claims d
        WHERE d.claim_mac = asked.mac AND d.coupon_id = asked.coupon_id AND NOT d.final
            AND d.src_offset < asked.before) AS deferred_at,
    (SELECT max(k.src_offset) FROM parked_claims k
        WHERE k.claim_mac = asked.mac AND k.coupon_id = asked.coupon_id AND k.src_partition = asked.partition
            AND k.src_offset < asked.before) AS parked_at
FROM asked
