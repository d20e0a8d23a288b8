-- Whose ledger this is: one row, made at the first start, and written again to learn whether that is possible.
CREATE TABLE ledger (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    owner TEXT NOT NULL,
    provider_account TEXT NOT NULL,
    times_bound INTEGER NOT NULL DEFAULT 1
) STRICT;

-- One row for each department ever heard of. `entry` is the whole truth; the columns beside it are for
-- conditional writes and for looking around.
CREATE TABLE departments (
    tenant TEXT NOT NULL,
    department_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    status TEXT NOT NULL,
    name TEXT,
    auth_id TEXT,
    due_at REAL, -- Unix time of the entry's next duty
    entry TEXT NOT NULL CHECK (json_valid(entry)),
    PRIMARY KEY (tenant, department_id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX departments_by_auth_id ON departments (auth_id) WHERE auth_id IS NOT NULL;

CREATE INDEX departments_by_due_at ON departments (due_at) WHERE due_at IS NOT NULL;

-- One row for each event answered.
CREATE TABLE answers (
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    payload_digest TEXT NOT NULL,
    tenant TEXT NOT NULL,
    department_id TEXT NOT NULL,
    answered_at TEXT NOT NULL,
    confirmed INTEGER NOT NULL,
    answer TEXT NOT NULL CHECK (json_valid(answer)),
    PRIMARY KEY (source, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX answers_by_department ON answers (tenant, department_id, answered_at);

-- Messages that came back very often, while one of them is being worked on: what kills its worker stays marked.
CREATE TABLE suspects (
    message TEXT PRIMARY KEY,
    marks INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
