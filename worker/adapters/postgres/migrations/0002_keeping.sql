-- Until when the ledger has certainly known every subaccount; NULL if that is not known. A worker repeats it while it
-- runs: a backup shows its age by it. `purged_at`: when a worker has last begun to purge.
ALTER TABLE ledger
ADD COLUMN caught_up_at bigint,
ADD COLUMN purged_at bigint,
DROP COLUMN caught_up;
