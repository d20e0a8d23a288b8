-- Removals: their limits, holds, calls and sweeps.

-- `active`: it counts as an active department of its tenant. `deletable_since`: Unix time at which the grace of
-- its deletion began. `removals`: JSON array of the times of its counted removals in microseconds since 1970; NULL
-- without any. `last_removal_at`: when it was last removed, counted or not.
ALTER TABLE departments ADD COLUMN active INTEGER NOT NULL DEFAULT 0 CHECK (active IN (0, 1));
ALTER TABLE departments ADD COLUMN deletable_since REAL;
ALTER TABLE departments ADD COLUMN last_removal_at INTEGER;
ALTER TABLE departments ADD COLUMN removals TEXT CHECK (json_valid(removals));

UPDATE departments SET active = 1 WHERE status = 'active' AND entry ->> 'gone_at' IS NULL;

-- A deletion begun by an earlier version began before this moment, and its call may have been sent.
UPDATE departments SET entry = json_set(
    entry,
    '$.rare',
    json_object(
        'deletion', json_object('begun_at', strftime('%FT%H:%M:%fZ', 'now'), 'in_doubt', json('true'))
    )
) WHERE status = 'deleting';

-- A limit is decided from these indexes: the active departments of a tenant, and those removed within a window.
CREATE INDEX active_departments ON departments (tenant) WHERE active = 1;

CREATE INDEX departments_by_removal ON departments (tenant, last_removal_at) WHERE last_removal_at IS NOT NULL;

CREATE INDEX departments_by_deletable_since ON departments (deletable_since) WHERE deletable_since IS NOT NULL;

-- The removals that are or were held for a person. `hold` is the whole truth.
CREATE TABLE holds (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    department_id TEXT NOT NULL,
    held_at REAL NOT NULL, -- Unix time
    reason TEXT NOT NULL,
    state TEXT NOT NULL,
    hold TEXT NOT NULL CHECK (json_valid(hold))
) STRICT, WITHOUT ROWID;

CREATE INDEX holds_by_department ON holds (tenant, department_id, held_at);

CREATE INDEX open_holds ON holds (held_at) WHERE state IN ('waiting', 'approved');

-- The last calls for each department, numbered from 1.
CREATE TABLE calls (
    tenant TEXT NOT NULL,
    department_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    call TEXT NOT NULL CHECK (json_valid(call)),
    PRIMARY KEY (tenant, department_id, number)
) STRICT, WITHOUT ROWID;

-- The reports of the last sweeps.
CREATE TABLE sweeps (
    id TEXT PRIMARY KEY,
    finished_at REAL NOT NULL, -- Unix time
    report TEXT NOT NULL CHECK (json_valid(report))
) STRICT, WITHOUT ROWID;

-- When a worker has last said that it runs, as Unix time.
ALTER TABLE ledger ADD COLUMN running_at REAL;

CREATE INDEX audit_by_department ON audit (audit ->> '$.tenant', audit ->> '$.department_id');
