-- What each role of deploy/postgres/roles.sql may do, as far as the role exists: run as the owner of the tables behind every migration, so it has to know of every
-- table. What is not granted here is not allowed. A row lock needs UPDATE of a column.
DO $$
DECLARE
    -- Tables and views of their owner; whatever else lies in the schema is not ours to grant. None where somebody else migrates, who had nothing to do.
    ours text := (
        SELECT string_agg(format('%I', relname), ', ') FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'v') AND pg_has_role(relowner, 'USAGE')
            AND relowner = (SELECT relowner FROM pg_class WHERE oid = 'partition_progress'::regclass)
    );
    -- Role, privilege, tables.
    granted text[][] := ARRAY[
        ['firstcome_reader', 'SELECT', ours],
        ['firstcome_gateway', 'SELECT', ours],
        ['firstcome_gateway', 'INSERT', 'coupon_drafts, command_requests, redemptions, redemption_closures'],
        ['firstcome_gateway', 'UPDATE (fingerprint)', 'command_requests'],
        ['firstcome_gateway', 'UPDATE (used_at, order_ref)', 'issued_coupons'],
        -- Closing redeeming raises beats.
        ['firstcome_gateway', 'UPDATE (beat)', 'partition_progress'],
        ['firstcome_writer', 'SELECT', ours],
        ['firstcome_writer', 'INSERT',
            'claims, issued_coupons, coupons, commands, audit_events, parked_claims, partition_progress, redemption_closures'],
        ['firstcome_writer', 'UPDATE', 'coupons, partition_progress'],
        ['firstcome_retention', 'SELECT', ours],
        ['firstcome_retention', 'DELETE', 'claims, issued_coupons, redemptions, parked_claims'],
        ['firstcome_retention', 'INSERT, UPDATE', 'coupon_retention']
    ];
    one text[];
BEGIN
    FOREACH one SLICE 1 IN ARRAY granted LOOP
        IF ours IS NOT NULL AND EXISTS (SELECT FROM pg_roles WHERE rolname = one[1]) THEN
            EXECUTE format('GRANT %s ON %s TO %I', one[2], one[3], one[1]);
        END IF;
    END LOOP;
END
$$;
