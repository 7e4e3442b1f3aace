//! How RocksDB is tuned.
//!
//! The defaults are for a small machine that runs three stores in one process: little memory when
//! idle, few threads, few open files. A larger node changes the four numbers of [`Options`].
//! Threads need no sharing of ours: every database of a process uses RocksDB's one default
//! environment, so six databases have the same two background threads as one.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, DataBlockIndexType, LogLevel,
};

use crate::engine::ColumnFamily;

/// Bytes of the default block cache, shared by all engines that are opened with clones of the same
/// options. At the limit the blocks used longest ago are read from disk again.
const CACHE_BYTES: usize = 64 << 20;
/// Bytes of one memtable. At the limit it is sealed and written to a file in the background.
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// Files a data engine keeps open. At the limit the one used longest ago is closed. With a quarter
/// of it for the log engine, three stores take at most 480 descriptors, which leaves room for
/// sockets below the usual limit of 1024.
const OPEN_FILES_MAX: i32 = 128;
/// Flushes and compactions at once, over all engines of the process.
const BACKGROUND_JOBS: i32 = 2;

/// Bytes of a block of an SST file, the unit of reading and caching.
const BLOCK_BYTES: usize = 16 << 10;
/// Bits a key takes in a file's bloom filter: about one false answer in a hundred.
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// Bytes of an SST file.
const FILE_BYTES: u64 = 32 << 20;
/// Written back to disk at this pace, so that a sync never finds a mountain.
const WRITE_BACK_BYTES: u64 = 1 << 20;
/// Bytes of RocksDB's own diagnostic log before it begins a new one, of which it keeps two.
const DIAGNOSTIC_LOG_BYTES: usize = 4 << 20;
/// Memtables of the log engine: sealed ones wait here while a flush runs; writes stall at the limit.
const LOG_WRITE_BUFFERS_MAX: i32 = 4;

/// WAL files of a log engine that are kept to be used again; each is about as large as a memtable. More
/// than this many are deleted.
const LOG_FILES_KEPT: usize = 2;

/// Memory for blocks read from disk. Clones share it.
#[derive(Clone)]
pub struct BlockCache(Cache);

impl BlockCache {
    /// A cache of this many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Cache::new_lru_cache(bytes))
    }

    /// Bytes held now.
    pub fn used_bytes(&self) -> usize {
        self.0.get_usage()
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache").field("used_bytes", &self.used_bytes()).finish()
    }
}

/// What a node may decide about its engines. Clones share the block cache, so the stores of one
/// process should be opened with clones of one value.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cache of blocks read from disk.
    pub cache: BlockCache,
    /// Bytes of a memtable; a data engine holds about two of them when busy, a log engine up to
    /// four.
    pub write_buffer_bytes: usize,
    /// Files a data engine keeps open; a log engine takes a quarter of it.
    pub open_files_max: i32,
    /// Flushes and compactions at once.
    pub background_jobs: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache: BlockCache::new(CACHE_BYTES),
            write_buffer_bytes: WRITE_BUFFER_BYTES,
            open_files_max: OPEN_FILES_MAX,
            background_jobs: BACKGROUND_JOBS,
        }
    }
}

impl Options {
    /// The data engine's database.
    pub(super) fn data(&self) -> rocksdb::Options {
        let mut options = self.database();
        options.set_max_open_files(self.open_files_max);
        // Over all families: when together they hold more, the oldest memtable is flushed.
        options.set_db_write_buffer_size(self.write_buffer_bytes.saturating_mul(2));
        // A prefix of what was written, never a hole, is what the data engine promises.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_wal_bytes_per_sync(WRITE_BACK_BYTES);
        options
    }

    /// One family of the data engine.
    pub(super) fn family(&self, cf: ColumnFamily) -> rocksdb::Options {
        let mut options = rocksdb::Options::default();
        let share = match cf {
            ColumnFamily::Default | ColumnFamily::Write => 1,
            // Locks live for milliseconds and should die before they reach a file.
            ColumnFamily::Lock => 2,
            ColumnFamily::Meta => 8,
        };
        self.tune_tables(&mut options, self.write_buffer_bytes / share);
        options.set_compression_type(DBCompressionType::Lz4);
        options
    }

    /// The log engine's database and its one family.
    pub(super) fn log(&self) -> rocksdb::Options {
        let mut options = self.database();
        self.tune_tables(&mut options, self.write_buffer_bytes);
        options.set_max_open_files((self.open_files_max / 4).max(16));
        options.set_max_write_buffer_number(LOG_WRITE_BUFFERS_MAX);
        // Most entries are cut before they reach a file; those that do will not stay.
        options.set_compression_type(DBCompressionType::None);
        // See the head of `rocks`: damage is looked for before, and files that are used again exclude the
        // stricter modes.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_recycle_log_file_num(LOG_FILES_KEPT);
        options
    }

    fn database(&self) -> rocksdb::Options {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_background_jobs(self.background_jobs);
        options.set_paranoid_checks(true);
        // Sizes of closed WAL files are remembered: a missing or short one is refused.
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_bytes_per_sync(WRITE_BACK_BYTES);
        options.set_avoid_unnecessary_blocking_io(true);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(DIAGNOSTIC_LOG_BYTES);
        // Nobody reads the periodic dumps, and without them a thread less wakes up.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }

    fn tune_tables(&self, options: &mut rocksdb::Options, write_buffer_bytes: usize) {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache.0);
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        // Finds a key in a block by hash instead of bisection.
        table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        // Indexes and filters count against the cache's limit instead of growing with the files.
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(write_buffer_bytes);
        options.set_target_file_size_base(FILE_BYTES);
        options.set_max_bytes_for_level_base(4 * self.write_buffer_bytes as u64);
        options.set_level_compaction_dynamic_level_bytes(true);
    }
}
