-- Whether credentials were ever sealed: from then on none go out in the clear by mistake.
ALTER TABLE ledger ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0 CHECK (sealed IN (0, 1));
