-- SafeGuard: noisy counts of the public domain, and the entry that accounts for each of them. No
-- address, no name of a host and no time of an event has a column here; windows end when they end.

CREATE TABLE IF NOT EXISTS block_count{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    start_us Int64,
    end_us Int64,
    marginal String,
    region String,
    category String,
    count Int64,
    mechanism FixedString(16),
    release FixedString(16),
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC'))
)
ENGINE = {engine:block_count:MergeTree}
PARTITION BY toYYYYMM(clock_day)
ORDER BY (marginal, start_us, collector, region, category)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE block_count{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN mechanism FixedString(16) CODEC(ZSTD(1)),
--     MODIFY COLUMN release FixedString(16) CODEC(ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE block_count{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE block_count{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS safeguard_ledger{on_cluster} (
    record_id FixedString(16),
    observed_us Int64,
    start_us Int64,
    end_us Int64,
    release FixedString(16),
    mechanism FixedString(16),
    marginal String,
    scale_num UInt32,
    scale_den UInt32,
    l0 UInt32,
    epsilon_micro UInt64,
    routers UInt32,
    restarts UInt32,
    rows UInt32,
    outcome String,
    collector String,
    boot String,
    batch FixedString(16),
    schema_version UInt8,
    time DateTime('UTC') MATERIALIZED toDateTime(intDiv(start_us, 1000000), 'UTC'),
    clock_day Date MATERIALIZED toDate(toDateTime(intDiv(start_us, 1000000), 'UTC'))
)
ENGINE = {engine:safeguard_ledger:MergeTree}
PARTITION BY toYYYYMM(clock_day)
ORDER BY (collector, start_us, marginal)
SETTINGS index_granularity = 8192, old_parts_lifetime = 1;

-- since 20.3: ALTER TABLE safeguard_ledger{on_cluster}
--     MODIFY COLUMN observed_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN start_us Int64 CODEC(DoubleDelta, ZSTD(1)),
--     MODIFY COLUMN end_us Int64 CODEC(Delta, ZSTD(1)),
--     MODIFY COLUMN mechanism FixedString(16) CODEC(ZSTD(1)),
--     MODIFY COLUMN collector String CODEC(ZSTD(1)),
--     MODIFY COLUMN boot String CODEC(ZSTD(1)),
--     MODIFY COLUMN batch FixedString(16) CODEC(ZSTD(1));
-- since 21.1: ALTER TABLE safeguard_ledger{on_cluster}
--     MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
-- since 22.2: ALTER TABLE safeguard_ledger{on_cluster} MODIFY SETTING non_replicated_deduplication_window = 1000;
