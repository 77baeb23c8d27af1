-- Visits at the detail level `connection` have the subscriber's port; all others have 0.

ALTER TABLE visit{on_cluster} ADD COLUMN client_port UInt16;

ALTER TABLE late_visit{on_cluster} ADD COLUMN client_port UInt16;
