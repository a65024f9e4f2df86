-- The roles of Firstcome's services. An administrator (a superuser, or whoever may create roles) runs this once for a server, before the first `couponctl migrate`;
-- running it again changes nothing. `couponctl migrate` then grants each role what it needs of every table, and only that.
--
--   psql -f deploy/postgres/roles.sql
--   CREATE DATABASE firstcome OWNER firstcome_migrator;
--   CREATE ROLE db_writer LOGIN PASSWORD '…' IN ROLE firstcome_writer;       -- one login for each service, in the role of its kind
--   CREATE ROLE migrate LOGIN PASSWORD '…' IN ROLE firstcome_migrator;
--   ALTER ROLE migrate SET role = firstcome_migrator;                         -- so that every table has one owner, whoever migrates
--
-- | role               | for                                                   | may                                                          |
-- |--------------------|-------------------------------------------------------|--------------------------------------------------------------|
-- | firstcome_migrator | couponctl migrate, couponctl redemptions reopen       | own the schema                                               |
-- | firstcome_writer   | db-writer                                             | append outcomes, move watermarks and counters; change no claim |
-- | firstcome_gateway  | api-gateway                                           | read; write drafts and redemptions, close redeeming          |
-- | firstcome_retention | couponctl retention apply                            | read; delete what is over                                    |
-- | firstcome_reader   | stock-consumer, notifier, reconciler, couponctl audit | read                                                         |
DO $$
DECLARE
    wanted text;
BEGIN
    -- Two at once would see none and both create it.
    PERFORM pg_advisory_xact_lock(hashtext('firstcome roles'));
    FOREACH wanted IN ARRAY ARRAY['firstcome_migrator', 'firstcome_writer', 'firstcome_gateway', 'firstcome_retention', 'firstcome_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END
$$;
