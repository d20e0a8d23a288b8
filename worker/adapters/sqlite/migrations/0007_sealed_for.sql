-- The recipients that credentials were ever sealed for.
CREATE TABLE sealed_for (
    recipient TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

ALTER TABLE ledger DROP COLUMN sealed;
