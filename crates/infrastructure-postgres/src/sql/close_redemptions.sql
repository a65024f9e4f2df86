-- The beats are raised above everything that was published in the same commit as the closure: a store that was put back again, and lost
-- both, is behind again and noticed again. Rows are locked in one order, for several may close at once.
WITH behind AS (
    SELECT p.partition, f.beat FROM partition_progress p JOIN unnest($1, $2) AS f (partition, beat) USING (partition)
    WHERE p.beat <= f.beat ORDER BY p.partition FOR UPDATE OF p
), raised AS (
    UPDATE partition_progress p SET beat = b.beat + 1 FROM behind b WHERE p.partition = b.partition
), closed AS (
    INSERT INTO redemption_closures (closed_by, reason) VALUES ($3, $4) ON CONFLICT DO NOTHING RETURNING 1
)
SELECT count(*) = 1 AS is_new FROM closed
