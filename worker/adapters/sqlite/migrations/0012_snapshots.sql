-- The departments that sources named, and the last snapshot of each source. Times are microseconds since 1970.
CREATE TABLE snapshots (
    source TEXT PRIMARY KEY,
    as_of INTEGER NOT NULL,
    digest TEXT NOT NULL,
    revision INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    complete INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `unsent`: an event that the broker has not confirmed yet. With `removed` the row goes once it has.
CREATE TABLE said (
    source TEXT NOT NULL,
    tenant TEXT NOT NULL,
    department_id TEXT NOT NULL,
    name TEXT NOT NULL,
    as_of INTEGER NOT NULL,
    missing_since INTEGER,
    unsent TEXT,
    removed INTEGER NOT NULL,
    PRIMARY KEY (source, tenant, department_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX unsent_events ON said (source) WHERE unsent IS NOT NULL;
CREATE INDEX missing_departments ON said (source) WHERE missing_since IS NOT NULL;
CREATE INDEX said_of_department ON said (tenant, department_id);
