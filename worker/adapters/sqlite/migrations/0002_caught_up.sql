-- Whether the ledger knew all there is at the provider when the whole list was last read.
ALTER TABLE ledger ADD COLUMN caught_up INTEGER NOT NULL DEFAULT 0 CHECK (caught_up IN (0, 1));
