-- Tables of records, of anonymous demand, and the ledger of batches.
--
-- One common subset of SQL for every ClickHouse from 18.16 on. {engine:TABLE:ENGINE} becomes the
-- Replicated form on a cluster, {on_cluster} becomes ON CLUSTER there. A line "-- since X.Y: SQL"
-- and its indented lines run only where the server is at least that version (codecs).
-- Times are microseconds UTC. clock_day is the day on which the row's retention clock starts, and
-- it alone places a row in a partition: that of the communication, and for a mapping the day on
-- which it ended. No TTL anywhere: rows leave by partition, through the retention service alone.
-- A receipt frees the collector's copy, so new servers write a block, and what it is merged into,
-- through to the disk before they acknowledge.

CREATE TABLE IF NOT EXISTS binding{on_cluster} (
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
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(valid_from_us, 1000000), 'UTC'))
)
ENGINE = {engine:binding:ReplacingMergeTree(observed_us)}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (collector, address, valid_from_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE binding{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN valid_from_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN valid_to_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE binding{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE binding{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS session{on_cluster} (
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
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(slice_start_us, 1000000), 'UTC'))
)
ENGINE = {engine:session:ReplacingMergeTree(observed_us)}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (subscriber, slice_start_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE session{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN slice_start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN slice_end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN end_min_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN end_max_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN up_octets UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN down_octets UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE session{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE session{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS usage{on_cluster} (
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
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC'))
)
ENGINE = {engine:usage:MergeTree}
PARTITION BY toYYYYMM(clock_day)
ORDER BY (subscriber, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE usage{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN up_bytes UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN down_bytes UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN up_packets UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN down_packets UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE usage{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE usage{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS mapping{on_cluster} (
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
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(if(end_us > start_us, end_us - 1, start_us), 1000000), 'UTC'))
)
ENGINE = {engine:mapping:MergeTree}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (public_address, start_us, port_first)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE mapping{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE mapping{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE mapping{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS visit{on_cluster} (
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
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC'))
)
ENGINE = {engine:visit:MergeTree}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (subscriber, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE visit{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN host String CODEC(ZSTD(1)),
--     MODIFY COLUMN first_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN last_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN up_bytes UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN down_bytes UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE visit{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE visit{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS call{on_cluster} (
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
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC'))
)
ENGINE = {engine:call:ReplacingMergeTree(observed_us)}
PARTITION BY toYYYYMMDD(clock_day)
ORDER BY (subscriber, start_us, record_id)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE call{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN ring_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN answer_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN end_min_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN end_max_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN talk_ms UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE call{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE call{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS link{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    start_us Int64,
    end_us Int64,
    interface String,
    role String,
    rx_bytes UInt64,
    tx_bytes UInt64,
    rx_packets UInt64,
    tx_packets UInt64,
    rx_errors UInt64,
    tx_errors UInt64,
    rx_drops UInt64,
    tx_drops UInt64,
    state_changes UInt32,
    speed_mbps UInt32,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC'))
)
ENGINE = {engine:link:MergeTree}
PARTITION BY toYYYYMM(clock_day)
ORDER BY (collector, interface, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE link{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN rx_bytes UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN tx_bytes UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN rx_packets UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN tx_packets UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN rx_errors UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN tx_errors UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN rx_drops UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN tx_drops UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE link{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE link{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS gap{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    start_us Int64,
    end_us Int64,
    stage String,
    reason String,
    amount Int64,
    unit String,
    classes String,
    scope String,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC'))
)
ENGINE = {engine:gap:MergeTree}
PARTITION BY toYYYYMM(clock_day)
ORDER BY (collector, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE gap{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE gap{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE gap{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS demand{on_cluster} (
    area String,
    start_us Int64,
    window_us Int64,
    up_bytes UInt64,
    down_bytes UInt64,
    active_lines UInt32,
    lines_known UInt8,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC'))
)
ENGINE = {engine:demand:MergeTree}
PARTITION BY toYYYYMM(clock_day)
ORDER BY (area, start_us)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE demand{on_cluster}
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN window_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN up_bytes UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN down_bytes UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE demand{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE demand{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS ingest_ledger{on_cluster} (
    collector String,
    epoch String,
    sequence UInt64,
    batch FixedString(16),
    sha256 String,
    rows UInt64,
    window_start_us Int64,
    window_end_us Int64,
    received_us Int64,
    verdict String,
    lag_us Int64,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(received_us, 1000000), 'UTC')
)
ENGINE = {engine:ingest_ledger:MergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (collector, epoch, sequence)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE ingest_ledger{on_cluster}
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN sequence UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1)),
--     MODIFY COLUMN rows UInt64 CODEC(T64, ZSTD(1)),
--     MODIFY COLUMN window_start_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN window_end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN received_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN lag_us Int64 CODEC(Delta, ZSTD(1));
-- since 21.1: ALTER TABLE ingest_ledger{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
