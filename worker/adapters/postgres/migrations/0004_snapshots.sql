-- The departments that sources named, and the last snapshot of each source. Times are microseconds since 1970.
CREATE TABLE snapshots (
    source text COLLATE "C" PRIMARY KEY,
    as_of bigint NOT NULL,
    digest text NOT NULL,
    revision bigint NOT NULL,
    finished integer NOT NULL,
    complete integer NOT NULL
);

-- `unsent`: an event that the broker has not confirmed yet. With `removed` the row goes once it has.
CREATE TABLE said (
    source text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    department_id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    as_of bigint NOT NULL,
    missing_since bigint,
    unsent text,
    removed integer NOT NULL,
    PRIMARY KEY (source, tenant, department_id)
);

CREATE INDEX unsent_events ON said (source) WHERE unsent IS NOT NULL;
CREATE INDEX missing_departments ON said (source) WHERE missing_since IS NOT NULL;
CREATE INDEX said_of_department ON said (tenant, department_id);
