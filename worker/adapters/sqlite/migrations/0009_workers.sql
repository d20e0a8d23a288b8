-- The workers that run on this ledger, as each says every second, and those of the last day. `seen_at`: Unix time
-- by the clock of SQLite, so that all are compared on one clock.
CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    seen_at REAL NOT NULL,
    has_left INTEGER NOT NULL CHECK (has_left IN (0, 1)),
    worker TEXT NOT NULL CHECK (json_valid(worker))
) STRICT, WITHOUT ROWID;

ALTER TABLE ledger DROP COLUMN running_at;

-- Counts the departments by status without reading their entries.
CREATE INDEX departments_by_status ON departments (status);
