-- Where rows of a partition that is already closed go: the retention service sweeps them within
-- minutes, keeps what an order holds and destroys the rest. Ingest knows nothing of holds.
--
-- Partitions are slots of arrival: five minutes of the server's own clock, which no peer can set.
-- A slot that is over takes no more rows, so it can be read, and then destroyed, as a whole.

CREATE TABLE IF NOT EXISTS late_binding{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    session_id FixedString(16),
    subscriber String,
    address FixedString(16),
    prefix_len UInt8,
    valid_from_us Int64,
    valid_to_us Int64,
    certainty String,
    source String,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(valid_from_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(valid_from_us, 1000000), 'UTC')),
    arrived DateTime('UTC') MATERIALIZED toDateTime(now(), 'UTC')
)
ENGINE = {engine:late_binding:ReplacingMergeTree(observed_us)}
PARTITION BY intDiv(toUnixTimestamp(arrived), 300)
ORDER BY (collector, address, valid_from_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_binding{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_session{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    session_id FixedString(16),
    subscriber String,
    nas String,
    acct_session_id String,
    nas_epoch UInt32,
    line String,
    user_name String,
    realm String,
    cui String,
    start_us Int64,
    start_source String,
    slice_start_us Int64,
    slice_end_us Int64,
    end_min_us Int64,
    end_max_us Int64,
    end_reason String,
    up_octets UInt64,
    down_octets UInt64,
    terminate_cause Int64,
    verified String,
    acked UInt8,
    flags UInt32,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(slice_start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(slice_start_us, 1000000), 'UTC')),
    arrived DateTime('UTC') MATERIALIZED toDateTime(now(), 'UTC')
)
ENGINE = {engine:late_session:ReplacingMergeTree(observed_us)}
PARTITION BY intDiv(toUnixTimestamp(arrived), 300)
ORDER BY (subscriber, slice_start_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_session{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_usage{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    start_us Int64,
    end_us Int64,
    address FixedString(16),
    prefix_len UInt8,
    up_bytes UInt64,
    down_bytes UInt64,
    up_packets UInt64,
    down_packets UInt64,
    flows UInt32,
    flags UInt32,
    subscriber String,
    reason String,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC')),
    arrived DateTime('UTC') MATERIALIZED toDateTime(now(), 'UTC')
)
ENGINE = {engine:late_usage:MergeTree}
PARTITION BY intDiv(toUnixTimestamp(arrived), 300)
ORDER BY (subscriber, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_usage{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_mapping{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    start_us Int64,
    end_us Int64,
    inside_address FixedString(16),
    inside_port UInt16,
    public_address FixedString(16),
    protocol UInt8,
    port_first UInt16,
    port_last UInt16,
    kind String,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(if(end_us > start_us, end_us - 1, start_us), 1000000), 'UTC')),
    arrived DateTime('UTC') MATERIALIZED toDateTime(now(), 'UTC')
)
ENGINE = {engine:late_mapping:MergeTree}
PARTITION BY intDiv(toUnixTimestamp(arrived), 300)
ORDER BY (public_address, start_us, port_first)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_mapping{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_visit{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    start_us Int64,
    end_us Int64,
    address FixedString(16),
    prefix_len UInt8,
    host String,
    evidence String,
    server FixedString(16),
    server_port UInt16,
    protocol UInt8,
    first_us Int64,
    last_us Int64,
    connections UInt32,
    up_bytes UInt64,
    down_bytes UInt64,
    flags UInt32,
    subscriber String,
    reason String,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC')),
    arrived DateTime('UTC') MATERIALIZED toDateTime(now(), 'UTC')
)
ENGINE = {engine:late_visit:MergeTree}
PARTITION BY intDiv(toUnixTimestamp(arrived), 300)
ORDER BY (subscriber, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_visit{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS late_call{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    call_hash FixedString(16),
    address FixedString(16),
    prefix_len UInt8,
    direction String,
    a_raw String,
    a_e164 String,
    b_raw String,
    b_e164 String,
    presentation String,
    start_us Int64,
    ring_us Int64,
    answer_us Int64,
    end_min_us Int64,
    end_max_us Int64,
    talk_ms UInt64,
    disposition String,
    sip_code UInt16,
    q850 UInt16,
    released_by String,
    emergency UInt8,
    retransmissions UInt32,
    flags UInt32,
    subscriber String,
    reason String,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC')),
    arrived DateTime('UTC') MATERIALIZED toDateTime(now(), 'UTC')
)
ENGINE = {engine:late_call:ReplacingMergeTree(observed_us)}
PARTITION BY intDiv(toUnixTimestamp(arrived), 300)
ORDER BY (subscriber, start_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;
-- since 21.1: ALTER TABLE late_call{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
