//! A region's data as one stream of bytes: what a snapshot carries, and what is kept in its file.
//!
//! ```text
//!   stream  := magic frame(header) frame(pairs)* frame(trailer)          nothing after the trailer
//!   magic   := "TSRSNAP3"
//!
//!   frame    0        4        8      9
//!            | length | crc32  | kind | body …   |        length: of kind and body
//!                              └── covered by the crc, after the frame's number (0, 1, …)
//!
//!   header   kind 'H'  description: bytes that only the sender and the receiver understand
//!   pairs    kind 'P'  family (1), then up to the end:  key length, value length, key, value
//!   trailer  kind 'T'  pairs in default, lock, write (8 each), bytes of all keys and values (8),
//!                      safe point by which versions may be missing (8), crc32 of the crc32s of all frames before it
//! ```
//!
//! Numbers are big-endian, of four bytes where nothing else is said. Families come in the order of
//! their numbers, keys in each strictly ascending. The frame's number in the checksum makes a
//! dropped, doubled or exchanged frame as visible as a flipped bit; the trailer makes a stream that
//! ends early visible, and one put together of two. Reading refuses everything else with
//! [`Fault::Corrupt`], naming the frame.
//!
//! The writer gives one frame at a time, which is what goes over the network as one chunk; the
//! receiver needs only append them. Batches are given to the caller *before* the trailer was seen,
//! so a receiver first runs [`verify`] over the whole stream and installs afterwards.
//!
//! Left out: compression (the network may do it), resuming (a broken transfer starts again), and
//! deletions (a snapshot is installed into a cleared range).

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proto::KeyRange;

use super::{ColumnFamily, Cursor, Snapshot, WriteBatch};
use crate::error::Fault;

/// Bytes of keys and values after which a frame is closed. Small enough to be one message, large
/// enough that a checksum and a header cost nothing.
pub const FRAME_BYTES: usize = 512 << 10;
/// Bytes of the longest frame a reader accepts: room for one pair of the longest entry, twice over.
/// A longer length is taken for damage.
pub const FRAME_BYTES_MAX: usize = 32 << 20;

const MAGIC: &[u8; 8] = b"TSRSNAP3";
const FRAME_HEAD_BYTES: usize = 8;
const KIND_HEADER: u8 = b'H';
const KIND_PAIRS: u8 = b'P';
const KIND_TRAILER: u8 = b'T';
const TRAILER_BYTES: usize = 8 * (ColumnFamily::DATA.len() + 2) + 4;

/// What a stream carries in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pairs by family, in the order of [`ColumnFamily::DATA`].
    pub pairs: [u64; ColumnFamily::DATA.len()],
    /// Bytes of all keys and values.
    pub bytes: u64,
    /// Versions that nobody sees there or later may be missing: whoever installs the stream goes by it.
    pub safe_point: u64,
}

impl Totals {
    /// Pairs of all families.
    pub fn keys(&self) -> u64 {
        self.pairs.iter().sum()
    }

    fn count(&mut self, cf: ColumnFamily, key: &[u8], value: &[u8]) {
        self.pairs[cf as usize] += 1;
        self.bytes += (key.len() + value.len()) as u64;
    }
}

/// Turns a snapshot's range into frames.
pub struct SnapshotWriter<S: Snapshot> {
    snapshot: S,
    range: KeyRange,
    description: Bytes,
    frame: u32,
    totals: Totals,
    /// Over the checksums of all frames.
    whole: crc32fast::Hasher,
    /// The families not begun, last one first, and the one being read.
    families: Vec<ColumnFamily>,
    cursor: Option<(ColumnFamily, S::Cursor)>,
    finished: bool,
}

impl<S: Snapshot> SnapshotWriter<S> {
    /// A writer of everything in the range. The description travels in the header; it should say
    /// which region at which index this is, and the receiver should compare.
    pub fn new(snapshot: S, range: KeyRange, description: impl Into<Bytes>) -> Self {
        Self {
            snapshot,
            range,
            description: description.into(),
            frame: 0,
            totals: Totals::default(),
            whole: crc32fast::Hasher::new(),
            families: ColumnFamily::DATA.into_iter().rev().collect(),
            cursor: None,
            finished: false,
        }
    }

    /// The next piece of the stream; `None` after the last one. Reads no further than one frame
    /// needs.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.finished {
            return Ok(None);
        }
        if self.frame == 0 {
            let mut start = BytesMut::from(&MAGIC[..]);
            let description = std::mem::take(&mut self.description);
            self.close(KIND_HEADER, &description, &mut start);
            return Ok(Some(start.freeze()));
        }
        let mut frame = BytesMut::new();
        match self.pairs()? {
            Some(body) => self.close(KIND_PAIRS, &body, &mut frame),
            None => {
                self.totals.safe_point = self.snapshot.safe_point();
                let mut body = Vec::with_capacity(TRAILER_BYTES);
                self.totals.pairs.iter().for_each(|pairs| body.put_u64(*pairs));
                body.put_u64(self.totals.bytes);
                body.put_u64(self.totals.safe_point);
                body.put_u32(self.whole.clone().finalize());
                self.close(KIND_TRAILER, &body, &mut frame);
                self.finished = true;
            }
        }
        Ok(Some(frame.freeze()))
    }

    /// What was written so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The body of the next frame of pairs; `None` when all families are done.
    fn pairs(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            if self.cursor.is_none() {
                let Some(cf) = self.families.pop() else { return Ok(None) };
                let mut cursor = self.snapshot.cursor(cf, &self.range);
                if !cursor.seek_to_first()? {
                    continue;
                }
                self.cursor = Some((cf, cursor));
            }
            let Some((cf, cursor)) = &mut self.cursor else { continue };
            let mut body = vec![*cf as u8];
            let mut more = true;
            while more && body.len() < FRAME_BYTES {
                let (key, value) = (cursor.key(), cursor.value());
                put_bytes_length(&mut body, key);
                put_bytes_length(&mut body, value);
                body.extend_from_slice(key);
                body.extend_from_slice(value);
                self.totals.count(*cf, key, value);
                more = cursor.next()?;
            }
            if !more {
                self.cursor = None;
            }
            return Ok(Some(body));
        }
    }

    fn close(&mut self, kind: u8, body: &[u8], to: &mut BytesMut) {
        let length = body.len() + 1;
        assert!(length <= FRAME_BYTES_MAX, "no key and value are as long as {length} bytes");
        to.reserve(FRAME_HEAD_BYTES + length);
        to.put_u32(length as u32);
        let crc = checksum(self.frame, kind, body);
        self.whole.update(&crc.to_be_bytes());
        to.put_u32(crc);
        to.put_u8(kind);
        to.put_slice(body);
        self.frame += 1;
    }
}

fn put_bytes_length(to: &mut Vec<u8>, bytes: &[u8]) {
    to.put_u32(u32::try_from(bytes.len()).expect("a key or value is far below 4 GiB"));
}

fn checksum(frame: u32, kind: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame.to_be_bytes());
    hasher.update(&[kind]);
    hasher.update(body);
    hasher.finalize()
}

/// A snapshot's file. It belongs to whoever holds this, and is deleted with the last holder: when it is
/// sent, installed, no longer wanted, or lost on the way.
#[derive(Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    path: PathBuf,
}

impl SnapshotFile {
    /// Takes over a file, which need not be there yet.
    pub fn own(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            // The next start empties the folder.
            tracing::warn!(%error, path = %self.path.display(), "a snapshot file stays behind");
        }
    }
}

/// Writes the whole stream to a file, telling `pace` of the bytes before it writes them. Not synced: the
/// file is of no use after a crash, and reading it verifies it.
///
/// The outer error is the engine's. The inner one is the file's: a full disk, which is no reason to stop.
pub fn write_file<S: Snapshot>(
    path: &Path,
    writer: &mut SnapshotWriter<S>,
    mut pace: impl FnMut(usize),
) -> Result<std::io::Result<Totals>, Fault> {
    let mut file = match File::create(path) {
        Ok(file) => BufWriter::new(file),
        Err(error) => return Ok(Err(error)),
    };
    while let Some(frame) = writer.next_frame()? {
        pace(frame.len());
        if let Err(error) = file.write_all(&frame) {
            return Ok(Err(error));
        }
    }
    Ok(file.flush().map(|()| writer.totals()))
}

/// Collects the whole stream in memory.
pub fn write_bytes<S: Snapshot>(writer: &mut SnapshotWriter<S>) -> Result<Bytes, Fault> {
    let mut stream = BytesMut::new();
    while let Some(frame) = writer.next_frame()? {
        stream.put_slice(&frame);
    }
    Ok(stream.freeze())
}

/// Opens a snapshot file for reading.
pub fn open_file(path: &Path, range: KeyRange) -> Result<SnapshotReader<BufReader<File>>, Fault> {
    let file = File::open(path).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            Fault::Missing { what: path.display().to_string() }
        } else {
            io_fault("open a snapshot file")(error)
        }
    })?;
    SnapshotReader::new(BufReader::new(file), range, &path.display().to_string())
}

/// Reads the stream to its end without keeping anything, and returns what it carries.
pub fn verify<R: Read>(mut reader: SnapshotReader<R>) -> Result<Totals, Fault> {
    while reader.next_batch()?.is_some() {}
    Ok(reader.totals)
}

/// Turns a stream back into batches of changes.
#[derive(Debug)]
pub struct SnapshotReader<R> {
    source: R,
    range: KeyRange,
    place: String,
    description: Bytes,
    frame: u32,
    totals: Totals,
    /// Over the checksums of all frames.
    whole: crc32fast::Hasher,
    /// The last pair's place, to see that the next one comes after it.
    last: Option<(ColumnFamily, Bytes)>,
    finished: bool,
}

impl<R: Read> SnapshotReader<R> {
    /// Begins to read: the magic and the header. `range` is where every key must lie; `place` names
    /// the stream in faults.
    pub fn new(source: R, range: KeyRange, place: &str) -> Result<Self, Fault> {
        let mut reader = Self {
            source,
            range,
            place: place.to_owned(),
            description: Bytes::new(),
            frame: 0,
            totals: Totals::default(),
            whole: crc32fast::Hasher::new(),
            last: None,
            finished: false,
        };
        if reader.read(MAGIC.len())? != MAGIC[..] {
            return Err(reader.corrupt("it does not begin like a snapshot"));
        }
        match reader.read_frame()? {
            (KIND_HEADER, description) => reader.description = description,
            _ => return Err(reader.corrupt("the header is missing")),
        }
        Ok(reader)
    }

    /// What the writer was given to say about the snapshot.
    pub fn description(&self) -> &Bytes {
        &self.description
    }

    /// What was read so far; with the safe point once the trailer was read.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The next changes, about [`FRAME_BYTES`] of them; `None` once the trailer was read and agrees.
    pub fn next_batch(&mut self) -> Result<Option<WriteBatch>, Fault> {
        if self.finished {
            return Ok(None);
        }
        let whole = self.whole.clone().finalize();
        match self.read_frame()? {
            (KIND_PAIRS, body) => self.batch(body).map(Some),
            (KIND_TRAILER, body) => self.finish(body, whole).map(|()| None),
            (kind, _) => {
                Err(self.corrupt(&format!("frames of kind {kind:#04x} do not belong here")))
            }
        }
    }

    fn batch(&mut self, mut body: Bytes) -> Result<WriteBatch, Fault> {
        let number = body.try_get_u8().ok();
        let cf = number.and_then(ColumnFamily::from_number);
        let Some(cf) = cf.filter(|cf| ColumnFamily::DATA.contains(cf)) else {
            return Err(self.corrupt("it is for a family that holds no data"));
        };
        let mut batch = WriteBatch::new();
        while !body.is_empty() {
            let Some((key, value)) = split_pair(&mut body) else {
                return Err(self.corrupt("a pair is longer than its frame"));
            };
            if !self.range.contains(&key) {
                return Err(self.corrupt("a key lies outside of the region"));
            }
            let here = (cf, key.clone());
            if self.last.as_ref().is_some_and(|last| *last >= here) {
                return Err(self.corrupt("keys do not ascend"));
            }
            self.last = Some(here);
            self.totals.count(cf, &key, &value);
            batch.put(cf, key, value);
        }
        Ok(batch)
    }

    fn finish(&mut self, mut body: Bytes, whole: u32) -> Result<(), Fault> {
        if body.len() != TRAILER_BYTES {
            return Err(self.corrupt("the trailer has another length"));
        }
        let told = Totals {
            pairs: std::array::from_fn(|_| body.get_u64()),
            bytes: body.get_u64(),
            safe_point: body.get_u64(),
        };
        self.totals.safe_point = told.safe_point;
        if told != self.totals {
            let detail = format!("the trailer tells of {told:?}, but it was {:?}", self.totals);
            return Err(self.corrupt(&detail));
        }
        if body.get_u32() != whole {
            return Err(self.corrupt("its frames belong to different snapshots"));
        }
        let mut beyond = [0];
        match self.source.read(&mut beyond) {
            Ok(0) => {}
            Ok(_) => return Err(self.corrupt("there are bytes after the trailer")),
            Err(error) => return Err(io_fault("read a snapshot")(error)),
        }
        self.finished = true;
        Ok(())
    }

    fn read_frame(&mut self) -> Result<(u8, Bytes), Fault> {
        let mut head = self.read(FRAME_HEAD_BYTES)?;
        let (length, crc) = (head.get_u32() as usize, head.get_u32());
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(self.corrupt(&format!("no frame has {length} bytes")));
        }
        let mut body = self.read(length)?;
        let kind = body.get_u8();
        if checksum(self.frame, kind, &body) != crc {
            return Err(self.corrupt("its checksum does not hold"));
        }
        self.whole.update(&crc.to_be_bytes());
        self.frame += 1;
        Ok((kind, body))
    }

    /// Exactly so many bytes. Memory grows with what arrives, not with what was promised.
    fn read(&mut self, length: usize) -> Result<Bytes, Fault> {
        let mut bytes = Vec::new();
        let read = self.source.by_ref().take(length as u64).read_to_end(&mut bytes);
        match read {
            Ok(read) if read == length => Ok(bytes.into()),
            Ok(_) => Err(self.corrupt("it ends early")),
            Err(error) => Err(io_fault("read a snapshot")(error)),
        }
    }

    fn corrupt(&self, detail: &str) -> Fault {
        Fault::Corrupt {
            place: format!("frame {} of {}", self.frame, self.place),
            detail: detail.into(),
        }
    }
}

fn split_pair(body: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let key = body.try_get_u32().ok()? as usize;
    let value = body.try_get_u32().ok()? as usize;
    (body.len() >= key.checked_add(value)?).then(|| (body.split_to(key), body.split_to(value)))
}

fn io_fault(attempt: &'static str) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::Engine { attempt, cause: error.to_string() }
}
