-- What a person asked the running worker for, who, and when. What came of it is in `answers`, under its id.
CREATE TABLE wishes (
    id TEXT PRIMARY KEY,
    asked_at REAL NOT NULL, -- Unix time
    closed INTEGER NOT NULL DEFAULT 0 CHECK (closed IN (0, 1)), -- granted, refused or withdrawn
    wish TEXT NOT NULL CHECK (json_valid(wish))
) STRICT, WITHOUT ROWID;

CREATE INDEX open_wishes ON wishes (asked_at) WHERE closed = 0;
