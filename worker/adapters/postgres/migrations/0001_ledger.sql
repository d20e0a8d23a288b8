-- The ledger in PostgreSQL. Texts are compared by their code points (COLLATE "C"), as Python does. Entries, answers,
-- holds and so on are JSON in columns of type text: jsonb refuses \u0000 and rewrites numbers. Instants are Unix times,
-- or microseconds since 1970 where they are compared exactly.

-- Whose ledger this is: one row, made at the first start, and written again to learn whether that is possible.
CREATE TABLE ledger (
    only_row integer PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    owner text NOT NULL,
    provider_account text NOT NULL,
    times_bound bigint NOT NULL DEFAULT 1,
    caught_up boolean NOT NULL DEFAULT false -- whether it knew all there is when the whole list was last read
);

-- One row for each department ever heard of. `entry` is the whole truth; the columns beside it are for conditional
-- writes and for queries. `active`: it counts as an active department of its tenant. `deletable_since`: when the grace
-- of its deletion began. `removals`: the times of its counted removals; NULL without any. `last_removal_at`: when it
-- was last removed, counted or not. `overdue_since`: the age of its oldest debt or failing late removal.
CREATE TABLE departments (
    tenant text COLLATE "C" NOT NULL,
    department_id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    status text NOT NULL,
    auth_id text COLLATE "C",
    active boolean NOT NULL,
    due_at double precision,
    overdue_since double precision,
    deletable_since double precision,
    last_removal_at bigint,
    removals bigint [],
    entry text NOT NULL,
    PRIMARY KEY (tenant, department_id)
) WITH (fillfactor = 80); -- most updates change no indexed column, and stay on their page

CREATE UNIQUE INDEX departments_by_auth_id ON departments (auth_id) WHERE auth_id IS NOT NULL;
CREATE INDEX departments_by_due_at ON departments (due_at, tenant, department_id) WHERE due_at IS NOT NULL;
CREATE INDEX departments_by_overdue_since ON departments (overdue_since) WHERE overdue_since IS NOT NULL;
CREATE INDEX departments_by_deletable_since ON departments (deletable_since, tenant, department_id)
WHERE deletable_since IS NOT NULL;
CREATE INDEX active_departments ON departments (tenant) WHERE active;
CREATE INDEX departments_by_removal ON departments (tenant, last_removal_at) WHERE last_removal_at IS NOT NULL;

CREATE INDEX departments_by_status ON departments (status); -- to count them

-- The workers that run on this ledger, as each says every second, and those of the last day. `seen_at`: Unix time by
-- the clock of this server, so that all are compared on one clock.
CREATE TABLE workers (
    id text COLLATE "C" PRIMARY KEY,
    seen_at double precision NOT NULL,
    has_left boolean NOT NULL,
    worker text NOT NULL
);

-- One row for each event answered. `key`: of its source and id, whose texts may be too long for an index.
CREATE TABLE answers (
    key uuid PRIMARY KEY,
    source text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    department_id text COLLATE "C" NOT NULL,
    answered_at bigint NOT NULL,
    confirmed boolean NOT NULL,
    answer text NOT NULL
) WITH (fillfactor = 80);

CREATE INDEX answers_by_department ON answers (tenant, department_id, answered_at);
CREATE INDEX answers_by_event_id ON answers USING hash (event_id);

-- The removals that are or were held for a person.
CREATE TABLE holds (
    id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    department_id text COLLATE "C" NOT NULL,
    held_at double precision NOT NULL,
    reason text NOT NULL,
    state text NOT NULL,
    hold text NOT NULL
);

CREATE INDEX holds_by_department ON holds (tenant, department_id, held_at);
CREATE INDEX open_holds ON holds (held_at) WHERE state IN ('waiting', 'approved');

-- The last calls for each department, numbered from 1.
CREATE TABLE calls (
    tenant text COLLATE "C" NOT NULL,
    department_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    call text NOT NULL,
    PRIMARY KEY (tenant, department_id, number)
);

-- What a person asked the workers for. What came of it is in `answers`, under its id.
CREATE TABLE wishes (
    id text COLLATE "C" PRIMARY KEY,
    asked_at double precision NOT NULL,
    closed boolean NOT NULL DEFAULT false, -- granted, refused or withdrawn
    wish text NOT NULL
);

CREATE INDEX open_wishes ON wishes (asked_at) WHERE NOT closed;

-- The reports of the last sweeps.
CREATE TABLE sweeps (
    id text COLLATE "C" PRIMARY KEY,
    finished_at double precision NOT NULL,
    report text NOT NULL
);

-- Messages that came back very often, while one of them is being worked on: what kills its worker stays marked.
CREATE TABLE suspects (
    message text COLLATE "C" PRIMARY KEY,
    marks integer NOT NULL
);

-- The recipients that credentials were ever sealed for.
CREATE TABLE sealed_for (
    recipient text COLLATE "C" PRIMARY KEY
);

-- What operators did. Only ever added to. `id`: so that a line whose commit was in doubt is written once.
CREATE TABLE audit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    at bigint NOT NULL,
    by text COLLATE "C" NOT NULL,
    event_id text COLLATE "C",
    letter text COLLATE "C",
    tenant text COLLATE "C",
    department_id text COLLATE "C",
    audit text NOT NULL
);

CREATE INDEX audit_by_event ON audit USING hash (event_id);
CREATE INDEX audit_by_letter ON audit USING hash (letter);
CREATE INDEX audit_by_department ON audit (tenant, department_id) WHERE tenant IS NOT NULL;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only';
END
$$;

CREATE TRIGGER audit_keeps_its_rows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What `record_changes` takes. `job` says which of the changes of one commit a row belongs to.
CREATE TYPE entry_change AS (
    job integer,
    tenant text COLLATE "C",
    department_id text COLLATE "C",
    revision bigint,
    status text,
    auth_id text COLLATE "C",
    active boolean,
    due_at double precision,
    overdue_since double precision,
    deletable_since double precision,
    last_removal_at bigint,
    removals bigint [],
    entry text
);

CREATE TYPE answer_change AS (
    job integer,
    key uuid,
    source text COLLATE "C",
    event_id text COLLATE "C",
    tenant text COLLATE "C",
    department_id text COLLATE "C",
    answered_at bigint,
    confirmed boolean,
    answer text,
    replaces text -- the known answer that it may replace, beside the same one
);

CREATE FUNCTION bare_answer(answer text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN replace(answer, '"confirmed":true', '"confirmed":false'); -- no text in it has these characters unescaped

-- Writes many changes in one commit, each whole or not at all: an entry over the revision before it, answers, and what
-- is beside them. There is at most one change for a department, and one for an event. It returns the changes that it
-- refuses: `stale` entries, and those with an answer to an event that has another, `known`, already. `again`: the
-- outcome of the first try is unknown, so an entry that is there already is its own.
--
-- Whatever changes between the look and the write raises an error (40001), and nothing is written: the caller then
-- tries the changes one by one.
CREATE FUNCTION record_changes(
    entries_json json, answers_json json, holds_json json, calls_json json, audit_json json, again boolean
) RETURNS TABLE (job integer, refusal text, known text)
LANGUAGE plpgsql
-- Each plan is made once, perhaps on an empty table: it must be the one for a large table.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    new_entries entry_change[] := ARRAY(
        SELECT x FROM json_populate_recordset(NULL::entry_change, coalesce(entries_json, '[]')) x);
    new_answers answer_change[] := ARRAY(
        SELECT x FROM json_populate_recordset(NULL::answer_change, coalesce(answers_json, '[]')) x);
    refused integer[];
    done integer[] := '{}';
    changed bigint;
    added bigint;
BEGIN
    IF again THEN
        done := ARRAY(
            SELECT x.job FROM unnest(new_entries) x JOIN departments d USING (tenant, department_id)
            WHERE d.revision = x.revision AND d.entry = x.entry);
        new_entries := ARRAY(SELECT x FROM unnest(new_entries) x WHERE x.job <> ALL (done));
        new_answers := ARRAY(SELECT x FROM unnest(new_answers) x WHERE x.job <> ALL (done));
    END IF;
    refused := ARRAY(
        SELECT x.job FROM unnest(new_entries) x
        WHERE x.revision - 1 <> coalesce((
            SELECT d.revision FROM departments d
            WHERE d.tenant = x.tenant AND d.department_id = x.department_id), 0));
    RETURN QUERY SELECT stale, 'stale', NULL::text FROM unnest(refused) AS stale;
    IF cardinality(new_answers) > 0 THEN
        FOR job, known IN
            SELECT x.job, k.answer FROM unnest(new_answers) x JOIN answers k ON k.key = x.key
            WHERE x.job <> ALL (refused) AND bare_answer(k.answer) <> bare_answer(x.answer)
            AND k.answer IS DISTINCT FROM x.replaces
        LOOP
            CONTINUE WHEN job = ANY (refused);
            refused := refused || job;
            refusal := 'answered';
            RETURN NEXT;
        END LOOP;
    END IF;
    IF cardinality(refused) > 0 THEN
        new_entries := ARRAY(SELECT x FROM unnest(new_entries) x WHERE x.job <> ALL (refused));
        new_answers := ARRAY(SELECT x FROM unnest(new_answers) x WHERE x.job <> ALL (refused));
    END IF;
    refused := refused || done;

    IF cardinality(new_entries) > 0 THEN
        UPDATE departments d SET
            revision = x.revision, status = x.status, auth_id = x.auth_id, active = x.active, due_at = x.due_at,
            overdue_since = x.overdue_since, deletable_since = x.deletable_since,
            last_removal_at = x.last_removal_at, removals = x.removals, entry = x.entry
        FROM unnest(new_entries) x
        WHERE d.tenant = x.tenant AND d.department_id = x.department_id
        AND x.revision > 1 AND d.revision = x.revision - 1;
        GET DIAGNOSTICS changed = ROW_COUNT;
        INSERT INTO departments (
            tenant, department_id, revision, status, auth_id, active, due_at, overdue_since, deletable_since,
            last_removal_at, removals, entry)
        SELECT
            x.tenant, x.department_id, x.revision, x.status, x.auth_id, x.active, x.due_at, x.overdue_since,
            x.deletable_since, x.last_removal_at, x.removals, x.entry
        FROM unnest(new_entries) x WHERE x.revision = 1
        ON CONFLICT (tenant, department_id) DO NOTHING;
        GET DIAGNOSTICS added = ROW_COUNT;
        IF changed + added <> cardinality(new_entries) THEN
            RAISE EXCEPTION 'an entry was changed meanwhile' USING ERRCODE = '40001';
        END IF;
    END IF;

    IF cardinality(new_answers) > 0 THEN
        UPDATE answers k SET answered_at = x.answered_at, confirmed = x.confirmed, answer = x.answer
        FROM unnest(new_answers) x
        WHERE k.key = x.key
        AND (bare_answer(k.answer) = bare_answer(x.answer) OR k.answer = x.replaces);
        GET DIAGNOSTICS changed = ROW_COUNT;
        added := 0;
        IF changed < cardinality(new_answers) THEN
            INSERT INTO answers (
                key, source, event_id, tenant, department_id, answered_at, confirmed, answer)
            SELECT x.key, x.source, x.event_id, x.tenant, x.department_id, x.answered_at, x.confirmed, x.answer
            FROM unnest(new_answers) x WHERE NOT EXISTS (SELECT FROM answers k WHERE k.key = x.key)
            ON CONFLICT (key) DO NOTHING;
            GET DIAGNOSTICS added = ROW_COUNT;
        END IF;
        IF changed + added <> cardinality(new_answers) THEN
            RAISE EXCEPTION 'an answer was written meanwhile' USING ERRCODE = '40001';
        END IF;
    END IF;

    IF holds_json IS NOT NULL THEN
        INSERT INTO holds (id, tenant, department_id, held_at, reason, state, hold)
        SELECT x.id, x.tenant, x.department_id, x.held_at, x.reason, x.state, x.hold
        FROM json_to_recordset(holds_json) AS x (
            job integer, id text, tenant text, department_id text, held_at double precision, reason text,
            state text, hold text)
        WHERE x.job <> ALL (refused)
        ON CONFLICT (id) DO UPDATE SET
            held_at = excluded.held_at, reason = excluded.reason, state = excluded.state, hold = excluded.hold;
    END IF;

    IF calls_json IS NOT NULL THEN
        INSERT INTO calls (tenant, department_id, number, call)
        SELECT
            x.tenant, x.department_id,
            row_number() OVER (PARTITION BY x.job ORDER BY x.place) + coalesce((
                SELECT max(c.number) FROM calls c
                WHERE c.tenant = x.tenant AND c.department_id = x.department_id), 0),
            x.call
        FROM json_to_recordset(calls_json) AS x (
            job integer, place integer, tenant text COLLATE "C", department_id text COLLATE "C", call text)
        WHERE x.job <> ALL (refused);
        DELETE FROM calls c USING (
            SELECT x.tenant, x.department_id, (
                SELECT max(k.number) FROM calls k
                WHERE k.tenant = x.tenant AND k.department_id = x.department_id) AS newest
            FROM json_to_recordset(calls_json) AS x (
                place integer, tenant text COLLATE "C", department_id text COLLATE "C")
            WHERE x.place = 0
        ) n
        WHERE c.tenant = n.tenant AND c.department_id = n.department_id AND c.number <= n.newest - 50;
    END IF;

    IF audit_json IS NOT NULL THEN
        INSERT INTO audit (id, at, by, event_id, letter, tenant, department_id, audit)
        SELECT x.id, x.at, x.by, x.event_id, x.letter, x.tenant, x.department_id, x.audit
        FROM json_to_recordset(audit_json) AS x (
            job integer, place integer, id uuid, at bigint, by text, event_id text, letter text, tenant text,
            department_id text, audit text)
        WHERE x.job <> ALL (refused)
        ORDER BY x.job, x.place
        ON CONFLICT (id) DO NOTHING;
    END IF;
END
$$;
