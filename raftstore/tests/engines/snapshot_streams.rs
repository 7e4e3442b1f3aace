//! A region's data as a stream: it arrives as it was sent, or is refused.

use std::fs;

use bytes::Bytes;
use proptest::prelude::*;
use proto::KeyRange;
use raftstore::engine::memory::{MemoryData, MemorySnapshot};
use raftstore::engine::rocks::RocksData;
use raftstore::engine::snapshot_file::{
    FRAME_BYTES, SnapshotFile, SnapshotReader, SnapshotWriter, Totals, open_file, verify,
    write_bytes, write_file,
};
use raftstore::engine::{ColumnFamily, DataEngine, WriteBatch};
use raftstore::error::Fault;

use crate::{pairs, small_options};

fn region() -> KeyRange {
    KeyRange::from_wire("b", "y")
}

fn data_of(keys: &[(ColumnFamily, String, usize)]) -> MemoryData {
    let data = MemoryData::new();
    let mut batch = WriteBatch::new();
    for (cf, key, length) in keys {
        batch.put(*cf, key.clone(), vec![key.len() as u8; *length]);
    }
    data.write(batch).unwrap();
    data
}

fn writer(data: &MemoryData) -> SnapshotWriter<MemorySnapshot> {
    SnapshotWriter::new(data.snapshot(), region(), "r2 at 7@3")
}

/// Reads the whole stream into an engine that was empty.
fn install(stream: &[u8], into: &impl DataEngine) -> Result<Totals, Fault> {
    let totals = verify(SnapshotReader::new(stream, region(), "stream")?)?;
    let mut reader = SnapshotReader::new(stream, region(), "stream")?;
    assert_eq!(reader.description(), "r2 at 7@3");
    while let Some(batch) = reader.next_batch()? {
        into.write(batch)?;
    }
    Ok(totals)
}

fn small() -> MemoryData {
    data_of(&[
        (ColumnFamily::Default, "c".into(), 5),
        (ColumnFamily::Default, "d".into(), 0),
        (ColumnFamily::Lock, "c".into(), 3),
        (ColumnFamily::Write, "m".into(), 9),
        (ColumnFamily::Write, "x".into(), 2),
    ])
}

#[test]
fn a_stream_tells_by_which_safe_point_versions_may_be_missing() {
    let from = small();
    from.raise_safe_point(77).unwrap();
    let stream = write_bytes(&mut writer(&from)).unwrap();
    assert_eq!(install(&stream, &MemoryData::new()).unwrap().safe_point, 77);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 100, ..Default::default() })]

    #[test]
    fn what_lies_in_the_range_arrives_and_nothing_else(
        keys in proptest::collection::vec(
            (
                proptest::sample::select(&ColumnFamily::ALL[..]),
                "[a-z]{1,4}",
                prop_oneof![0..50usize, 0..100_000usize],
            ),
            0..60,
        )
    ) {
        let from = data_of(&keys);
        let stream = write_bytes(&mut writer(&from)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let memory = MemoryData::new();
        let rocks = RocksData::open(directory.path(), &small_options()).unwrap();
        let totals = install(&stream, &memory).unwrap();
        prop_assert_eq!(totals, install(&stream, &rocks).unwrap());
        let mut sum = Totals::default();
        for cf in ColumnFamily::DATA {
            let sent = pairs(&from.snapshot(), cf, &region());
            sum.pairs[cf as usize] = sent.len() as u64;
            sum.bytes += sent.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
            prop_assert_eq!(&sent, &pairs(&memory.snapshot(), cf, &KeyRange::all()));
            prop_assert_eq!(&sent, &pairs(&rocks.snapshot(), cf, &KeyRange::all()));
        }
        prop_assert_eq!(sum, totals);
        prop_assert!(pairs(&memory.snapshot(), ColumnFamily::Meta, &KeyRange::all()).is_empty());
        // The same snapshot gives the same bytes.
        prop_assert_eq!(stream, write_bytes(&mut writer(&from)).unwrap());
    }
}

#[test]
fn frames_and_batches_have_a_bounded_size() {
    let keys: Vec<_> =
        (0..3000).map(|number| (ColumnFamily::Write, format!("k{number:06}"), 1000)).collect();
    let from = data_of(&keys);
    let mut writer = writer(&from);
    let mut stream = Vec::new();
    let mut frames = 0;
    while let Some(frame) = writer.next_frame().unwrap() {
        assert!(frame.len() < FRAME_BYTES + 2000);
        stream.extend_from_slice(&frame);
        frames += 1;
    }
    assert_eq!(writer.next_frame().unwrap(), None);
    assert_eq!(frames, 1 + 3_000_000_usize.div_ceil(FRAME_BYTES) + 1);
    let mut reader = SnapshotReader::new(&stream[..], region(), "stream").unwrap();
    while let Some(batch) = reader.next_batch().unwrap() {
        assert!(batch.bytes() < FRAME_BYTES + 2000);
    }
    assert_eq!(reader.next_batch().unwrap(), None);
}

fn refused(stream: &[u8], what: &str) {
    match install(stream, &MemoryData::new()) {
        Err(Fault::Corrupt { .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_stream_cut_anywhere_is_refused() {
    let stream = write_bytes(&mut writer(&small())).unwrap();
    for length in 0..stream.len() {
        refused(&stream[..length], &format!("cut at {length}"));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let stream = write_bytes(&mut writer(&small())).unwrap();
    for place in 0..stream.len() {
        for bit in 0..8 {
            let mut damaged = stream.to_vec();
            damaged[place] ^= 1 << bit;
            refused(&damaged, &format!("byte {place}, bit {bit}"));
        }
    }
}

#[test]
fn frames_dropped_doubled_or_exchanged_are_refused() {
    let mut writer = writer(&small());
    let mut frames: Vec<Bytes> = Vec::new();
    while let Some(frame) = writer.next_frame().unwrap() {
        frames.push(frame);
    }
    assert_eq!(frames.len(), 5);
    for at in 0..frames.len() {
        let mut dropped = frames.clone();
        dropped.remove(at);
        refused(&dropped.concat(), &format!("frame {at} dropped"));
        let mut doubled = frames.clone();
        doubled.insert(at, frames[at].clone());
        refused(&doubled.concat(), &format!("frame {at} doubled"));
        for other in at + 1..frames.len() {
            let mut exchanged = frames.clone();
            exchanged.swap(at, other);
            refused(&exchanged.concat(), &format!("frames {at} and {other} exchanged"));
        }
    }
    refused(&[&frames.concat()[..], b"x"].concat(), "a byte behind the trailer");
    refused(b"", "nothing");
    refused(&[0; 4096], "zeros");
    refused(b"TSRSNAP2\xff\xff\xff\xff rest", "an absurd length");
}

#[test]
fn a_stream_of_another_range_is_refused() {
    let stream = write_bytes(&mut writer(&small())).unwrap();
    let narrow = KeyRange::from_wire("b", "m");
    let reader = SnapshotReader::new(&stream[..], narrow, "stream").unwrap();
    let words = verify(reader).unwrap_err().to_string();
    assert!(words.contains("outside of the region"), "{words}");
}

#[test]
fn a_stream_put_together_of_two_is_refused() {
    // The same region at the same index, with as many pairs and bytes; only one value differs.
    let frames = |value: u8| {
        let data = small();
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Lock, "c", vec![value; 3]);
        data.write(batch).unwrap();
        let mut writer = writer(&data);
        std::iter::from_fn(move || writer.next_frame().unwrap()).collect::<Vec<Bytes>>()
    };
    let (one, other) = (frames(1), frames(2));
    for at in 1..one.len() {
        let mixed = [&one[..at], &other[at..]].concat();
        let reader = SnapshotReader::new(&mixed.concat()[..], region(), "stream").map(verify);
        // The frames that differ are the one with the lock and the trailer.
        assert_eq!(matches!(reader, Ok(Ok(_))), mixed == one || mixed == other, "cut at {at}");
    }
}

#[test]
fn a_file_goes_with_its_last_holder() {
    let directory = tempfile::tempdir().unwrap();
    let file = SnapshotFile::own(directory.path().join("r2_7_3.snap"));
    assert!(matches!(open_file(file.path(), region()), Err(Fault::Missing { .. })));
    let data = small();
    let mut paced = 0;
    let totals = write_file(file.path(), &mut writer(&data), |bytes| paced += bytes);
    let totals = totals.unwrap().unwrap();
    assert_eq!(totals.keys(), 5);
    assert_eq!(verify(open_file(file.path(), region()).unwrap()).unwrap(), totals);
    let written = fs::read(file.path()).unwrap();
    assert_eq!(written, write_bytes(&mut writer(&data)).unwrap());
    assert_eq!(paced, written.len());
    let holder = file.clone();
    drop(file);
    assert!(holder.path().exists());
    drop(holder);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_cannot_be_written_is_no_fault_of_the_engine() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("no-such-folder").join("r2_7_3.snap");
    let outcome = write_file(&nowhere, &mut writer(&small()), |_| ()).unwrap();
    assert!(outcome.is_err());
}
