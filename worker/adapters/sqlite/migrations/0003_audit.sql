-- What operators did, one row for each dead letter it was done to. Only ever added to: `audit` is the whole
-- truth, the columns beside it are for looking around.
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    by TEXT NOT NULL,
    event_id TEXT,
    audit TEXT NOT NULL CHECK (json_valid(audit))
) STRICT;

CREATE INDEX audit_by_event ON audit (event_id) WHERE event_id IS NOT NULL;

CREATE TRIGGER audit_keeps_its_rows BEFORE DELETE ON audit
BEGIN
    SELECT raise(ABORT, 'the audit is append-only');
END;

CREATE TRIGGER audit_keeps_their_words BEFORE UPDATE ON audit
BEGIN
    SELECT raise(ABORT, 'the audit is append-only');
END;

-- INSERT OR REPLACE deletes without asking the trigger above.
CREATE TRIGGER audit_replaces_nothing BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE number = NEW.number)
BEGIN
    SELECT raise(ABORT, 'the audit is append-only');
END;
