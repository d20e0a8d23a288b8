-- What grew with the number of departments, and was asked for with each removal, or each second.

-- The number of active departments of each tenant.
CREATE TABLE active_counts (
    tenant TEXT PRIMARY KEY,
    active INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO active_counts SELECT tenant, count(*) FROM departments WHERE active = 1 GROUP BY tenant;

CREATE TRIGGER new_departments_count AFTER INSERT ON departments WHEN NEW.active = 1
BEGIN
    INSERT INTO active_counts VALUES (NEW.tenant, 1) ON CONFLICT (tenant) DO UPDATE SET active = active + 1;
END;

CREATE TRIGGER changed_departments_count AFTER UPDATE OF active ON departments WHEN NEW.active <> OLD.active
BEGIN
    INSERT INTO active_counts VALUES (NEW.tenant, NEW.active - OLD.active)
    ON CONFLICT (tenant) DO UPDATE SET active = active + excluded.active;
END;

DROP INDEX active_departments;

-- Has all that a window is counted from, so that no entry is read.
DROP INDEX departments_by_removal;

CREATE INDEX departments_by_removal ON departments (tenant, last_removal_at, active, removals)
WHERE last_removal_at IS NOT NULL;

-- The age of an entry's oldest debt that is tried again, or of its late removal that fails, as Unix time. Few entries
-- have a duty, and the others cost nothing here.
CREATE INDEX departments_by_overdue_since ON departments (
    min(
        CASE WHEN entry ->> 'owed_at' IS NULL THEN 1e12
        ELSE ifnull(unixepoch(entry ->> 'created_at', 'subsec'), 1e12) END,
        ifnull(unixepoch(entry ->> '$.rare.retry.failing_since', 'subsec'), 1e12)
    )
) WHERE due_at IS NOT NULL;
