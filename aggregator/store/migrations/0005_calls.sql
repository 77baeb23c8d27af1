-- What a call's record says besides: where its numbers come from, who was connected, diversions and
-- who pays, setup and ring times, session timer, branches, linked calls, hourly versions.

ALTER TABLE call{on_cluster}
    ADD COLUMN a_kind String,
    ADD COLUMN a_source String,
    ADD COLUMN a_asserted String,
    ADD COLUMN b_kind String,
    ADD COLUMN b_source String,
    ADD COLUMN b_parameters String,
    ADD COLUMN connected_raw String,
    ADD COLUMN connected_e164 String,
    ADD COLUMN diversions String,
    ADD COLUMN charged String,
    ADD COLUMN setup_ms UInt64,
    ADD COLUMN ring_ms UInt64,
    ADD COLUMN session_expires_s UInt32,
    ADD COLUMN branches String,
    ADD COLUMN linked String,
    ADD COLUMN partial UInt32;

ALTER TABLE late_call{on_cluster}
    ADD COLUMN a_kind String,
    ADD COLUMN a_source String,
    ADD COLUMN a_asserted String,
    ADD COLUMN b_kind String,
    ADD COLUMN b_source String,
    ADD COLUMN b_parameters String,
    ADD COLUMN connected_raw String,
    ADD COLUMN connected_e164 String,
    ADD COLUMN diversions String,
    ADD COLUMN charged String,
    ADD COLUMN setup_ms UInt64,
    ADD COLUMN ring_ms UInt64,
    ADD COLUMN session_expires_s UInt32,
    ADD COLUMN branches String,
    ADD COLUMN linked String,
    ADD COLUMN partial UInt32;
