//! The raft log loses nothing that was synced, or says so and does not open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::{RegionId, eraftpb};
use raftstore::engine::rocks::{Options, RocksLog};
use raftstore::engine::{GroupWrite, LogBatch, LogEngine, LogState};
use raftstore::error::Fault;

use crate::{copy_directory, small_options, wal_file};

const GROUP: RegionId = RegionId(7);
const OTHER: RegionId = RegionId(9);
const WRITES: u64 = 24;
const WATERMARK: &str = "SYNCED";

/// A closed log of some synced writes, and how the disk looked after each.
struct Written {
    _directory: tempfile::TempDir,
    path: PathBuf,
    options: Options,
    /// After write n: length of the WAL and content of the watermark.
    after: Vec<(u64, Vec<u8>)>,
}

fn written() -> Written {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let options = small_options();
    let log = RocksLog::open(&path, &options).unwrap();
    let mut after =
        vec![(fs::metadata(wal_or_empty(&path)).map_or(0, |m| m.len()), watermark(&path))];
    for index in 1..=WRITES {
        write(&log, index);
        after.push((fs::metadata(wal_file(&path)).unwrap().len(), watermark(&path)));
    }
    Written { _directory: directory, path, options, after }
}

/// One synced write.
fn write(log: &RocksLog, index: u64) {
    let data = Bytes::from(vec![index as u8; (index as usize * 37) % 300]);
    let entries = vec![eraftpb::Entry { index, term: 1, data, ..Default::default() }];
    let state = Some(LogState { last_index: index, ..Default::default() });
    let write = GroupWrite { entries, state, ..Default::default() };
    log.write(LogBatch { groups: vec![(GROUP, write)] }).unwrap();
}

/// A closed log whose last writes are in a WAL file that was used before.
struct UsedAgain {
    _directory: tempfile::TempDir,
    path: PathBuf,
    options: Options,
    taken: Taken,
    /// The WAL file and the watermark after write n.
    after: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How the file came to be used again.
struct Taken {
    /// The name it had.
    old: PathBuf,
    /// The first entry of the other group in it.
    index: u64,
    /// Before that was written.
    watermark: Vec<u8>,
}

impl UsedAgain {
    fn written() -> Self {
        Self::filled(None, |_| vec![1; 900])
    }

    /// Files are filled with this data; the directory has this mark, or the usual one.
    fn filled(kind: Option<&str>, data: impl Fn(u64) -> Vec<u8>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        if let Some(kind) = kind {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("KIND"), kind).unwrap();
        }
        let options = small_options();
        let log = RocksLog::open(&path, &options).unwrap();
        // Some files are filled and given back, until the next one begins.
        let mut files = BTreeSet::new();
        let mut taken = None;
        for index in 1.. {
            let before = (wal_files(&path), watermark(&path));
            let entry =
                eraftpb::Entry { index, term: 1, data: data(index).into(), ..Default::default() };
            let state = Some(LogState { last_index: index, ..Default::default() });
            let entries = vec![entry];
            let write = GroupWrite { entries, state, cut_before: index, ..Default::default() };
            log.write(LogBatch { groups: vec![(OTHER, write)] }).unwrap();
            let wal = wal_file(&path);
            if files.insert(wal.clone()) {
                let old = before.0.get(&fs::metadata(&wal).unwrap().ino()).cloned();
                taken = old.map(|old| Taken { old, index, watermark: before.1 });
            }
            if files.len() > 8 {
                break;
            }
        }
        let taken = taken.unwrap();
        let wal = wal_file(&path);
        let image = || (fs::read(&wal).unwrap(), watermark(&path));
        let mut after = vec![image()];
        for index in 1..=WRITES {
            write(&log, index);
            after.push(image());
        }
        let length = after[0].0.len();
        assert!(
            after.iter().all(|(file, _)| file.len() == length),
            "a file used again does not grow"
        );
        assert_eq!(wal_file(&path), wal);
        drop(log);
        Self { _directory: directory, path, options, taken, after }
    }

    /// Opens a copy with this WAL file and this watermark.
    fn open_with(&self, wal: &[u8], watermark: &[u8]) -> Result<RocksLog, Fault> {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&self.path, copy.path());
        fs::write(wal_file(copy.path()), wal).unwrap();
        fs::write(copy.path().join(WATERMARK), watermark).unwrap();
        RocksLog::open(copy.path(), &self.options)
    }

    /// Where write n is in the file.
    fn place(&self, n: usize) -> std::ops::Range<usize> {
        let (before, after) = (&self.after[n - 1].0, &self.after[n].0);
        let differs = |at: &usize| before[*at] != after[*at];
        let first = (0..before.len()).find(differs).unwrap();
        first..(0..before.len()).rfind(differs).unwrap() + 1
    }
}

/// WAL files by what stays when they get another name.
fn wal_files(path: &Path) -> BTreeMap<u64, PathBuf> {
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.map(|path| (fs::metadata(&path).unwrap().ino(), path)).collect()
}

fn wal_or_empty(path: &Path) -> PathBuf {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .unwrap()
}

fn watermark(path: &Path) -> Vec<u8> {
    fs::read(path.join(WATERMARK)).unwrap()
}

impl Written {
    /// Opens a copy that was changed in some way.
    fn open_changed(&self, change: impl FnOnce(&Path)) -> Result<RocksLog, Fault> {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&self.path, copy.path());
        change(copy.path());
        RocksLog::open(copy.path(), &self.options)
    }

    fn wal_length(&self) -> u64 {
        self.after.last().unwrap().0
    }
}

/// How many writes a log still has; they must be whole and the first ones.
fn writes_in(log: &RocksLog) -> u64 {
    let last = log.state(GROUP).unwrap().map_or(0, |state| state.last_index);
    let entries = log.entries(GROUP, 1, last + 1, u64::MAX).unwrap();
    assert_eq!(entries.len() as u64, last);
    for (position, entry) in entries.iter().enumerate() {
        let index = position as u64 + 1;
        assert_eq!(entry.index, index);
        assert_eq!(entry.data, vec![index as u8; (index as usize * 37) % 300]);
    }
    assert!(log.entries(GROUP, last + 1, last + 2, u64::MAX).is_err());
    last
}

fn cut(path: &Path, length: u64) {
    fs::OpenOptions::new().write(true).open(wal_file(path)).unwrap().set_len(length).unwrap();
}

/// Lengths at each record's seams and between them.
fn lengths(written: &Written) -> Vec<u64> {
    let mut lengths: Vec<u64> = written
        .after
        .iter()
        .flat_map(|(end, _)| [end.saturating_sub(1), *end, end + 1, end + 4, end + 7, end + 30])
        .filter(|length| *length <= written.wal_length() && *length > 0)
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

#[test]
fn a_torn_tail_that_was_never_synced_is_dropped_and_nothing_else() {
    let written = written();
    for length in lengths(&written) {
        // The last write that was synced when the power failed is the last that is whole.
        let synced = written.after.iter().rposition(|(end, _)| *end <= length).unwrap_or(0);
        let log = written.open_changed(|path| {
            cut(path, length);
            fs::write(path.join(WATERMARK), &written.after[synced].1).unwrap();
        });
        assert_eq!(writes_in(&log.unwrap()), synced as u64, "cut at {length}");
    }
}

#[test]
fn bug_r15_a_log_cut_short_inside_its_synced_part_is_opened() {
    let written = written();
    for length in lengths(&written) {
        match written.open_changed(|path| cut(path, length)) {
            Ok(log) => {
                assert_eq!((length, writes_in(&log)), (written.wal_length(), WRITES));
            }
            Err(Fault::Corrupt { detail, .. }) => {
                assert!(detail.contains("synced up to"), "cut at {length}: {detail}");
            }
            Err(other) => panic!("cut at {length}: {other}"),
        }
    }
}

#[test]
fn bug_s3_a_flipped_bit_inside_the_synced_part_loses_a_write_in_silence() {
    let written = written();
    let mut refused = 0;
    // All bytes of a few records' headers, and bytes all over the rest.
    let headers =
        written.after[..WRITES as usize].iter().step_by(6).flat_map(|(end, _)| *end..end + 9);
    let mut places: Vec<u64> = headers.chain((0..written.wal_length()).step_by(61)).collect();
    places.sort_unstable();
    places.dedup();
    for place in places.into_iter().filter(|place| *place < written.wal_length()) {
        let bit = 1u8 << (place % 8);
        let log = written.open_changed(|path| {
            let wal = wal_file(path);
            let mut bytes = fs::read(&wal).unwrap();
            bytes[place as usize] ^= bit;
            fs::write(&wal, bytes).unwrap();
        });
        match log {
            Ok(log) => assert_eq!(writes_in(&log), WRITES, "byte {place}, bit {bit:#04x}"),
            Err(Fault::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("byte {place}: {other}"),
        }
    }
    assert!(refused > 50, "only {refused} flips were noticed");
}

#[test]
fn bug_s3_a_damaged_length_that_reads_like_a_torn_tail_is_opened() {
    // RocksDB alone opens this log without its last half: the length points beyond the end of the
    // file, as if the rest had not been written yet.
    let written = written();
    let (header, _) = written.after[WRITES as usize / 2];
    let log = written.open_changed(|path| {
        let wal = wal_file(path);
        let mut bytes = fs::read(&wal).unwrap();
        bytes[header as usize + 5] ^= 0x40;
        fs::write(&wal, bytes).unwrap();
    });
    match log.err() {
        Some(Fault::Corrupt { detail, .. }) => assert!(detail.contains("synced later"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_zeroed_page_inside_the_synced_part_is_refused() {
    let written = written();
    let (start, _) = written.after[4];
    let (end, _) = written.after[9];
    let log = written.open_changed(|path| {
        let wal = wal_file(path);
        let mut bytes = fs::read(&wal).unwrap();
        bytes[start as usize..end as usize].fill(0);
        fs::write(&wal, bytes).unwrap();
    });
    assert!(matches!(log.err(), Some(Fault::Corrupt { .. })));
}

#[test]
fn a_log_whose_wal_file_is_gone_is_refused() {
    let written = written();
    let log = written.open_changed(|path| fs::remove_file(wal_file(path)).unwrap());
    assert!(matches!(log.err(), Some(Fault::Corrupt { .. })));
}

#[test]
fn bug_s3_a_flipped_bit_in_a_file_that_is_used_again_loses_a_write_in_silence() {
    let log = UsedAgain::written();
    let (whole, watermark) = log.after.last().unwrap();
    let (first, last) = (log.place(1), log.place(WRITES as usize));
    let mut refused = [0, 0];
    for place in (first.start..last.end + 2000).step_by(17).filter(|place| *place < whole.len()) {
        let mut wal = whole.clone();
        wal[place] ^= 1 << (place % 8);
        // With the watermark nothing is lost. Without it, as when the power fails too, the last write may
        // look torn, and no other.
        for (kind, watermark) in [watermark.as_slice(), &[]].into_iter().enumerate() {
            match log.open_with(&wal, watermark) {
                Ok(opened) => {
                    let writes = writes_in(&opened);
                    let may_look_torn = kind == 1 && last.contains(&place);
                    let lost = WRITES - writes;
                    assert!(lost == 0 || (lost == 1 && may_look_torn), "byte {place}: {writes}");
                }
                Err(Fault::Corrupt { .. }) => refused[kind] += 1,
                Err(other) => panic!("byte {place}: {other}"),
            }
        }
    }
    assert!(refused.iter().all(|refused| *refused > 100), "{refused:?} flips were noticed");
}

#[test]
fn a_torn_write_into_a_file_that_is_used_again_is_dropped_and_nothing_else() {
    let log = UsedAgain::written();
    for n in 1..=WRITES as usize {
        let ((before, watermark), (after, _)) = (&log.after[n - 1], &log.after[n]);
        let place = log.place(n);
        // Torn anywhere, and in whatever order its pages were written.
        for part in [
            place.start..place.start,
            place.start..place.start + place.len() / 2,
            place.start + place.len() / 2..place.end,
        ] {
            let mut wal = before.clone();
            wal[part.clone()].copy_from_slice(&after[part.clone()]);
            let opened = log.open_with(&wal, watermark).unwrap();
            assert_eq!(writes_in(&opened), n as u64 - 1, "write {n}, {part:?} of {place:?}");
        }
    }
}

/// A file got its new name and its first bytes; power failed before the name was on the disk.
#[test]
fn a_file_that_is_needed_no_more_proves_no_damage() {
    let log = UsedAgain::written();
    let Taken { old, index, watermark } = &log.taken;
    let first = &log.after[0].0;
    // All of the first write is there, or its beginning, or what follows that.
    for changed in [0..first.len(), 0..100, 100..first.len()] {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&log.path, copy.path());
        let mut bytes = first.clone();
        for place in (0..bytes.len()).filter(|place| !changed.contains(place)) {
            bytes[place] = 0;
        }
        fs::remove_file(wal_file(copy.path())).unwrap();
        fs::write(copy.path().join(old.file_name().unwrap()), bytes).unwrap();
        fs::write(copy.path().join(WATERMARK), watermark).unwrap();
        let opened = RocksLog::open(copy.path(), &log.options).unwrap();
        let last = opened.state(OTHER).unwrap().unwrap().last_index;
        assert_eq!(last, index - 1, "{changed:?}");
    }
}

/// A whole record, as RocksDB writes them, of a file with this number.
fn record(number: u32) -> Vec<u8> {
    const FULL: u8 = 5;
    let covered = [&[FULL], number.to_le_bytes().as_slice()].concat();
    let crc = crc32c::crc32c(&covered).rotate_right(15).wrapping_add(0xa282_ead8);
    [crc.to_le_bytes().as_slice(), &0u16.to_le_bytes(), &covered].concat()
}

#[test]
fn what_clients_send_does_not_pass_for_records_of_the_log() {
    let hostile = |index: u64| {
        let first = index as u32 % 8 * 80;
        (first..first + 80).flat_map(record).collect::<Vec<u8>>()
    };
    let log = UsedAgain::filled(None, hostile);
    for (n, (wal, watermark)) in log.after.iter().enumerate() {
        let opened = log.open_with(wal, watermark).unwrap();
        assert_eq!(writes_in(&opened), n as u64);
    }
    // It is the mask that does it.
    let log = UsedAgain::filled(Some("tessera log 1\n"), hostile);
    let (wal, watermark) = &log.after[0];
    assert!(matches!(log.open_with(wal, watermark).err(), Some(Fault::Corrupt { .. })));
}
