-- The tables of the pipeline. Everything about a published coupon is derived from the log by db-writer; drafts and
-- redemptions are the only rows that are born here. UNIQUE and CHECK hold even if everything above them were wrong.
--
-- Ids are kept in their compact form: coupon_id is the UUID of a coupon id, claim_mac and command_mac are the 128-bit
-- macs at the end of a claim id and of a command id. A mac says which claim or command of its coupon it is, for the
-- ledger as for the unique indexes here. The functions and views below spell ids as the API does.
--
-- Macs are random, so every key and index that holds one begins with the coupon: a drop's rows lie together, and those of
-- a year ago are never touched for one of today. What is read by the place in the line has a key that begins with the partition.

CREATE TABLE schema_compatibility (
    -- Raised by every migration.
    schema_version integer PRIMARY KEY,
    -- The oldest schema version whose release can still work with this one.
    compatible_from integer NOT NULL CHECK (compatible_from <= schema_version)
);
INSERT INTO schema_compatibility (schema_version, compatible_from) VALUES (1, 1);

CREATE TYPE claim_code AS ENUM ('granted', 'sold_out', 'already_issued', 'closed', 'not_open', 'paused');
CREATE TYPE command_code AS ENUM ('applied', 'no_change', 'version_mismatch', 'refused');
CREATE TYPE command_kind AS ENUM ('publish', 'reschedule', 'pause', 'resume', 'restock', 'close', 'retire');
CREATE TYPE coupon_status AS ENUM ('active', 'paused', 'closed', 'retired');

-- How far a partition is reflected. Moved in the very statement that writes the rows.
CREATE TABLE partition_progress (
    partition integer PRIMARY KEY CHECK (partition BETWEEN 0 AND 9999),
    -- The first claims offset that is not reflected.
    next_src bigint NOT NULL CHECK (next_src >= 0),
    -- The outcomes offset to read next.
    next_outcome_offset bigint NOT NULL CHECK (next_outcome_offset >= 0),
    -- The chain behind the last reflected outcome.
    chain bytea NOT NULL CHECK (octet_length(chain) = 32),
    -- Raised by every batch and every idle ten seconds, before it is published.
    beat bigint NOT NULL CHECK (beat >= 0),
    -- The record before next_src: the claim id or command id it names (null: unreadable), and its append time.
    last_record_id text COLLATE "C",
    last_appended_at timestamptz
) WITH (fillfactor = 50);

CREATE TABLE coupon_drafts (
    coupon_id uuid PRIMARY KEY,
    partition integer NOT NULL CHECK (partition BETWEEN 0 AND 9999),
    name text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 200),
    quantity integer NOT NULL CHECK (quantity BETWEEN 1 AND 10000000),
    per_user_limit integer NOT NULL CHECK (per_user_limit BETWEEN 1 AND 100),
    opens_at timestamptz NOT NULL,
    closes_at timestamptz NOT NULL CHECK (closes_at > opens_at),
    expires_at timestamptz,
    expires_after_days integer CHECK (expires_after_days BETWEEN 1 AND 3650),
    created_by text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    CHECK (expires_at IS NULL OR expires_after_days IS NULL),
    -- The same request makes one draft.
    CONSTRAINT coupon_drafts_request UNIQUE (created_by, idempotency_key)
);

CREATE TABLE coupons (
    coupon_id uuid PRIMARY KEY,
    partition integer NOT NULL CHECK (partition BETWEEN 0 AND 9999),
    name text NOT NULL,
    initial_quantity integer NOT NULL CHECK (initial_quantity >= 1),
    per_user_limit integer NOT NULL CHECK (per_user_limit BETWEEN 1 AND 100),
    opens_at timestamptz NOT NULL,
    closes_at timestamptz NOT NULL CHECK (closes_at > opens_at),
    expires_at timestamptz,
    expires_after_days integer,
    rules integer NOT NULL CHECK (rules >= 1),
    key_id text NOT NULL,
    status coupon_status NOT NULL,
    round smallint NOT NULL CHECK (round BETWEEN 0 AND 31),
    quantity integer NOT NULL CHECK (quantity BETWEEN 1 AND 10000000),
    issued integer NOT NULL CHECK (issued >= 0),
    -- Claims with a final answer: the last rank.
    settled integer NOT NULL CHECK (settled >= 0),
    version integer NOT NULL CHECK (version >= 1),
    last_command_mac uuid NOT NULL,
    last_command_code command_code NOT NULL,
    last_grant_offset bigint,
    published_offset bigint NOT NULL,
    published_at timestamptz NOT NULL,
    -- NO-OVERSELL
    CONSTRAINT coupons_issued_within_quantity CHECK (issued <= quantity)
) WITH (fillfactor = 50);
CREATE INDEX coupons_partition ON coupons (partition);

-- Every new answer to a claim. Repeats are not here: they say nothing new.
CREATE TABLE claims (
    src_partition integer NOT NULL,
    src_offset bigint NOT NULL CHECK (src_offset >= 0),
    coupon_id uuid NOT NULL,
    claim_mac uuid NOT NULL,
    slot bigint NOT NULL,
    appended_at timestamptz NOT NULL,
    granted_claim_mac uuid,
    granted_round smallint,
    granted_slot bigint,
    rank integer CHECK (rank >= 1),
    issue_no integer CHECK (issue_no >= 1),
    code claim_code NOT NULL,
    round smallint NOT NULL CHECK (round BETWEEN 0 AND 31),
    user_nth smallint CHECK (user_nth >= 1),
    final boolean NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (src_partition, src_offset)
);
-- ONE-OUTCOME
CREATE UNIQUE INDEX claims_one_final_outcome ON claims (coupon_id, claim_mac) WHERE final;
CREATE INDEX claims_deferred ON claims (coupon_id, claim_mac) WHERE NOT final;

CREATE TABLE issued_coupons (
    claim_mac uuid NOT NULL,
    coupon_id uuid NOT NULL,
    slot bigint NOT NULL,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz,
    used_at timestamptz,
    src_partition integer NOT NULL,
    issue_no integer NOT NULL CHECK (issue_no >= 1),
    per_user_limit integer NOT NULL,
    round smallint NOT NULL,
    user_nth smallint NOT NULL CHECK (user_nth >= 1),
    user_id text COLLATE "C" NOT NULL,
    code text COLLATE "C" NOT NULL,
    order_ref text,
    PRIMARY KEY (coupon_id, claim_mac),
    -- ONE-EACH
    CONSTRAINT issued_coupons_within_user_limit CHECK (user_nth <= per_user_limit),
    CONSTRAINT issued_coupons_user_slot UNIQUE (coupon_id, user_id, slot),
    CONSTRAINT issued_coupons_user_nth UNIQUE (coupon_id, user_id, user_nth),
    -- FIRST-COME: no number twice.
    CONSTRAINT issued_coupons_issue_no UNIQUE (coupon_id, issue_no),
    CONSTRAINT issued_coupons_used_for_an_order CHECK ((used_at IS NULL) = (order_ref IS NULL))
);
-- A user's wallet, the newest first.
CREATE INDEX issued_coupons_wallet ON issued_coupons (user_id, issued_at, claim_mac, coupon_id);

-- What issued coupons were used for. Written in the very statement that sets used_at. No foreign key: issued_coupons can
-- be written anew from the log, redemptions cannot, and a coupon that came back unused is still refused here.
CREATE TABLE redemptions (
    claim_mac uuid NOT NULL,
    coupon_id uuid NOT NULL,
    redeemed_at timestamptz NOT NULL,
    -- The request that did it: repeated under the same key it is answered alike.
    idempotency_key text COLLATE "C" NOT NULL CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    order_ref text NOT NULL CHECK (octet_length(order_ref) BETWEEN 1 AND 128),
    redeemed_by text COLLATE "C" NOT NULL,
    -- ONCE-USED
    CONSTRAINT redemptions_once PRIMARY KEY (coupon_id, claim_mac)
);

-- When and why redeeming was closed: PostgreSQL was put back in time or moved, so that redemptions may be lost. At most
-- one closure stands; only an operator ends it.
CREATE TABLE redemption_closures (
    closure_no integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    closed_at timestamptz NOT NULL DEFAULT now(),
    closed_by text NOT NULL,
    reason text NOT NULL,
    reopened_at timestamptz,
    reopened_by text,
    CHECK ((reopened_at IS NULL) = (reopened_by IS NULL))
);
CREATE UNIQUE INDEX redemption_closures_one_stands ON redemption_closures ((true)) WHERE reopened_at IS NULL;

-- Claims whose record could not be read, as far as its bytes still named them: what their users are told until the claim is answered. The bytes lie
-- in the dead-letter queue.
CREATE TABLE parked_claims (
    src_partition integer NOT NULL,
    src_offset bigint NOT NULL CHECK (src_offset >= 0),
    coupon_id uuid NOT NULL,
    claim_mac uuid NOT NULL,
    PRIMARY KEY (src_partition, src_offset)
);
CREATE INDEX parked_claims_claim ON parked_claims (coupon_id, claim_mac);

CREATE TABLE commands (
    command_mac uuid NOT NULL,
    coupon_id uuid NOT NULL,
    src_partition integer NOT NULL,
    src_offset bigint NOT NULL,
    kind command_kind NOT NULL,
    code command_code NOT NULL,
    refusal text,
    version integer NOT NULL,
    appended_at timestamptz NOT NULL,
    PRIMARY KEY (src_partition, src_offset),
    CONSTRAINT commands_one_answer UNIQUE (coupon_id, command_mac)
);

-- What commands asked for, as their requests said it: the same Idempotency-Key with another body is refused. Born here, like drafts.
CREATE TABLE command_requests (
    coupon_id uuid NOT NULL,
    command_mac uuid NOT NULL,
    -- SHA-256 of everything that is asked for.
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    PRIMARY KEY (coupon_id, command_mac)
);

-- Who changed what, when and why: one row per command outcome.
CREATE TABLE audit_events (
    src_partition integer NOT NULL,
    src_offset bigint NOT NULL,
    coupon_id uuid NOT NULL,
    command_mac uuid NOT NULL,
    kind command_kind NOT NULL,
    code command_code NOT NULL,
    actor text NOT NULL,
    reason text,
    state jsonb NOT NULL,
    appended_at timestamptz NOT NULL,
    PRIMARY KEY (src_partition, src_offset)
);
CREATE INDEX audit_events_coupon ON audit_events (coupon_id);

-- What `couponctl retention apply` has deleted of retired coupons, counted in the very statements that delete.
CREATE TABLE coupon_retention (
    coupon_id uuid PRIMARY KEY,
    -- Answers that won nothing, and parked claims.
    losing_claims bigint NOT NULL DEFAULT 0,
    -- Issued coupons, each with its claim, and its redemption where there was one.
    issued_coupons bigint NOT NULL DEFAULT 0,
    -- No answer is left that won nothing.
    losing_done boolean NOT NULL DEFAULT false,
    -- No issued coupon that is left was used, or has expired, before this moment.
    issued_ended_from timestamptz NOT NULL DEFAULT '-infinity',
    last_run_at timestamptz NOT NULL
);

-- Fails the statement, and with it all that it wrote, where the log and the tables disagree.
CREATE FUNCTION demand(satisfied boolean, name text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF satisfied THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'the log and the tables disagree: %', name
        USING ERRCODE = 'check_violation', CONSTRAINT = name;
END $$;

CREATE FUNCTION spell_coupon_id(partition integer, coupon_id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 'c' || partition || '-' || replace(coupon_id::text, '-', '');

CREATE FUNCTION spell_claim_id(partition integer, coupon_id uuid, round smallint, slot bigint, claim_mac uuid)
    RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 'c' || partition || '-' || replace(coupon_id::text, '-', '') || '.' || round || '.'
        || CASE slot WHEN 0 THEN '0' ELSE lpad(to_hex(slot), 16, '0') END
        || '.' || replace(claim_mac::text, '-', '');

CREATE VIEW claims_spelled AS
    SELECT src_partition, src_offset,
        spell_claim_id(src_partition, coupon_id, round, slot, claim_mac) AS claim_id,
        spell_coupon_id(src_partition, coupon_id) AS coupon_id,
        user_id, round, code, final, rank, issue_no, user_nth,
        spell_claim_id(src_partition, coupon_id, granted_round, granted_slot, granted_claim_mac) AS granted_claim_id,
        appended_at
    FROM claims;

CREATE VIEW issued_coupons_spelled AS
    SELECT spell_claim_id(src_partition, coupon_id, round, slot, claim_mac) AS claim_id,
        spell_coupon_id(src_partition, coupon_id) AS coupon_id,
        user_id, user_nth, issue_no, code, issued_at, expires_at, used_at, order_ref
    FROM issued_coupons;
