-- Where rows of a partition that is already closed go: the retention service sweeps them within
-- minutes, keeps what an order holds and destroys the rest. Ingest knows nothing of holds.

CREATE TABLE IF NOT EXISTS late_binding{on_cluster} AS binding
ENGINE = {engine:late_binding:ReplacingMergeTree(observed_us)}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (collector, address, valid_from_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_binding{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_session{on_cluster} AS session
ENGINE = {engine:late_session:ReplacingMergeTree(observed_us)}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (subscriber, slice_start_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_session{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_usage{on_cluster} AS usage
ENGINE = {engine:late_usage:MergeTree}
PARTITION BY toYYYYMM(clock_day)
ORDER BY (subscriber, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_usage{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_mapping{on_cluster} AS mapping
ENGINE = {engine:late_mapping:MergeTree}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (public_address, start_us, port_first)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_mapping{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_visit{on_cluster} AS visit
ENGINE = {engine:late_visit:MergeTree}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (subscriber, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_visit{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_call{on_cluster} AS call
ENGINE = {engine:late_call:ReplacingMergeTree(observed_us)}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (subscriber, start_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_call{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
