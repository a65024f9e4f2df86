SELECT c.src_offset, c.coupon_id, c.command_mac, c.kind::text AS kind, c.code::text AS code, c.refusal, c.version,
    c.appended_at, e.actor, e.reason, e.state
FROM commands c
LEFT JOIN audit_events e ON e.src_partition = c.src_partition AND e.src_offset = c.src_offset
    AND e.coupon_id = c.coupon_id AND e.command_mac = c.command_mac AND e.kind = c.kind AND e.code = c.code
    AND e.appended_at = c.appended_at
