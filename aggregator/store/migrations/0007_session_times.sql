-- When the reports of a session's start and of what is last known of it were captured, and the NAS's
-- own times of them, beside the event times that follow from both.

ALTER TABLE session{on_cluster}
    ADD COLUMN start_seen_us Int64,
    ADD COLUMN start_stamp_us Int64,
    ADD COLUMN last_seen_us Int64,
    ADD COLUMN last_stamp_us Int64;

ALTER TABLE late_session{on_cluster}
    ADD COLUMN start_seen_us Int64,
    ADD COLUMN start_stamp_us Int64,
    ADD COLUMN last_seen_us Int64,
    ADD COLUMN last_stamp_us Int64;
