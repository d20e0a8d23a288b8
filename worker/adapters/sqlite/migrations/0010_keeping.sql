-- Until when the ledger has certainly known every subaccount, in microseconds since 1970; NULL if that is not
-- known. A worker repeats it while it runs: a backup shows its age by it.
ALTER TABLE ledger ADD COLUMN caught_up_at INTEGER;

ALTER TABLE ledger DROP COLUMN caught_up;

-- When a worker has last begun to purge, in microseconds since 1970.
ALTER TABLE ledger ADD COLUMN purged_at INTEGER;
