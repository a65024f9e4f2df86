SELECT s.system_identifier, p.partitions, p.beats, c.closed_at, c.closed_by, c.reason
FROM (SELECT system_identifier::text FROM pg_control_system()) AS s
CROSS JOIN (
    SELECT coalesce(array_agg(partition), '{}') AS partitions, coalesce(array_agg(beat), '{}') AS beats FROM partition_progress
) AS p
LEFT JOIN redemption_closures c ON c.reopened_at IS NULL
