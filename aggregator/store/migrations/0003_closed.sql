-- Which partitions take no more rows: for each class all those below `first_open` of its newest
-- version. The retention service writes it; ingest reads it, and puts what is older aside.

CREATE TABLE IF NOT EXISTS closed_partitions{on_cluster} (
    record_class String,
    first_open UInt32,
    version UInt64
)
ENGINE = {engine:closed_partitions:ReplacingMergeTree(version)}
ORDER BY record_class
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE closed_partitions{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
