//! A region's data on its way to another store.
//!
//! ```text
//! chunk 1   message (raft's, with the region inside)   data = size of all the bytes, 8 bytes
//! chunk 2…  data = crc32 of the payload, 4 bytes ‖ payload, up to 1 MiB
//! end       the sizes must add up
//! ```
//!
//! The size is said first and held to, so a sender cannot fill the disk of a receiver. Names of
//! files are the receiver's own. Nothing is handed on before all of it is there and every checksum
//! holds; what is left of a broken transfer is deleted.
//!
//! Each transfer has a connection of its own: a large snapshot must not stand before heartbeats. How many
//! go out and come in at once is limited, and so is how fast they go out. Who finds the other side busy, or
//! loses the connection, tries again after a while with the same data, and gives up after a few times; then
//! raft asks for a new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proto::raft_serverpb::{RaftMessage, SnapshotChunk};
use raftstore::driver::Pace;
use raftstore::effects::OutgoingSnapshot;
use raftstore::engine::snapshot_file::SnapshotFile;
use raftstore::msg::SnapshotSource;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use crate::net::outbound::open_channel;

/// Bytes of data in one chunk.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The largest snapshot taken: far above any region, far below a disk. A larger one is refused.
const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;

/// Times that one snapshot is tried; after the last, raft asks for another.
pub(crate) const TRIES_MAX: u32 = 5;

/// Between two tries, times the number of tries so far.
pub(crate) const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The next chunk must come within this time.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// A transfer may take this long …
const SEND_TIMEOUT_BASE: Duration = Duration::from_secs(60);
/// … and a second more for so many bytes.
const SEND_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// Where snapshots are put while they are here.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// As files in this folder.
    Folder(PathBuf),
    /// In memory.
    Memory,
}

/// Sends a snapshot and waits until the other side has taken it.
pub(crate) async fn send(
    address: &str,
    snapshot: &OutgoingSnapshot,
    pace: &Pace,
) -> Result<(), String> {
    let text = |error: std::io::Error| format!("read the snapshot: {error}");
    let mut source = Source::open(&snapshot.source).await.map_err(text)?;
    let size = source.size;
    let mut client = open_channel(address).await?;
    // Two chunks ready, one being read: disk and network work at once.
    let (chunks, receiver) = mpsc::channel(2);
    let message = Some(snapshot.message.clone());
    let first = SnapshotChunk { message, data: Bytes::copy_from_slice(&size.to_be_bytes()) };
    let feed = async move {
        let mut next = Some(first);
        while let Some(chunk) = next {
            tokio::time::sleep(pace.wait_for(chunk.data.len())).await;
            if chunks.send(chunk).await.is_err() {
                // The call says why.
                return Ok(());
            }
            next = source.next_chunk().await?;
        }
        Ok::<(), std::io::Error>(())
    };
    let call = client.snapshot(ReceiverStream::new(receiver));
    let timeout = SEND_TIMEOUT_BASE + Duration::from_secs(size / SEND_BYTES_PER_SECOND_MIN);
    let both = async { tokio::join!(feed, call) };
    let (fed, taken) = tokio::time::timeout(timeout, both)
        .await
        .map_err(|_| format!("{size} bytes did not get through in {} s", timeout.as_secs()))?;
    fed.map_err(text)?;
    taken.map(drop).map_err(|status| status.message().to_owned())
}

/// What is sent, from disk or memory.
struct Source {
    bytes: SourceBytes,
    size: u64,
}

enum SourceBytes {
    File(File),
    Memory(Bytes),
}

impl Source {
    async fn open(source: &SnapshotSource) -> std::io::Result<Self> {
        match source {
            SnapshotSource::File(file) => {
                let file = File::open(file.path()).await?;
                let size = file.metadata().await?.len();
                Ok(Self { bytes: SourceBytes::File(file), size })
            }
            SnapshotSource::Bytes(bytes) => {
                let size = bytes.len() as u64;
                Ok(Self { bytes: SourceBytes::Memory(bytes.clone()), size })
            }
        }
    }

    async fn next_chunk(&mut self) -> std::io::Result<Option<SnapshotChunk>> {
        let mut data = BytesMut::with_capacity(4 + CHUNK_BYTES_MAX);
        data.put_u32(0);
        match &mut self.bytes {
            SourceBytes::File(file) => {
                let mut limited = file.take(CHUNK_BYTES_MAX as u64);
                while limited.read_buf(&mut data).await? > 0 {}
            }
            SourceBytes::Memory(bytes) => {
                data.put(bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX)));
            }
        }
        if data.len() == 4 {
            return Ok(None);
        }
        let checksum = crc32fast::hash(&data[4..]);
        data[..4].copy_from_slice(&checksum.to_be_bytes());
        Ok(Some(SnapshotChunk { message: None, data: data.freeze() }))
    }
}

/// Takes a snapshot in; what is returned is whole and sound. `check` looks at the first message
/// before anything is stored.
pub(crate) async fn receive(
    mut chunks: impl Stream<Item = Result<SnapshotChunk, Status>> + Unpin,
    place: &Place,
    check: impl Fn(&RaftMessage) -> Result<(), Status>,
) -> Result<(RaftMessage, SnapshotSource), Status> {
    let missing = || Status::invalid_argument("the stream ends before its first chunk");
    let mut first = next(&mut chunks).await?.ok_or_else(missing)?;
    let message = first
        .message
        .take()
        .ok_or_else(|| Status::invalid_argument("the first chunk carries no message"))?;
    check(&message)?;
    let size = first
        .data
        .try_get_u64()
        .map_err(|_| Status::invalid_argument("the first chunk does not say the size"))?;
    if size > SNAPSHOT_BYTES_MAX {
        return Err(Status::out_of_range(format!(
            "a snapshot of {size} bytes is above the limit of {SNAPSHOT_BYTES_MAX}"
        )));
    }
    let mut sink = Sink::create(place).await?;
    let mut received = 0;
    while let Some(chunk) = next(&mut chunks).await? {
        let data = verified(chunk)?;
        received += data.len() as u64;
        if received > size {
            return Err(Status::invalid_argument("the snapshot is larger than it said"));
        }
        sink.put(data).await?;
    }
    if received != size {
        return Err(Status::data_loss(format!("{received} of {size} bytes arrived")));
    }
    Ok((message, sink.finish().await?))
}

async fn next(
    chunks: &mut (impl Stream<Item = Result<SnapshotChunk, Status>> + Unpin),
) -> Result<Option<SnapshotChunk>, Status> {
    tokio::time::timeout(CHUNK_TIMEOUT, chunks.next())
        .await
        .map_err(|_| Status::deadline_exceeded("the next chunk did not come in time"))?
        .transpose()
}

/// The payload of a chunk, if its checksum holds.
fn verified(chunk: SnapshotChunk) -> Result<Bytes, Status> {
    let mut data = chunk.data;
    let checksum =
        data.try_get_u32().map_err(|_| Status::invalid_argument("a chunk without a checksum"))?;
    if crc32fast::hash(&data) != checksum {
        return Err(Status::data_loss("the checksum of a chunk does not hold"));
    }
    Ok(data)
}

/// Where received bytes go. Dropped unfinished, it leaves nothing.
enum Sink {
    File { file: File, owned: Arc<SnapshotFile> },
    Memory(BytesMut),
}

impl Sink {
    async fn create(place: &Place) -> Result<Self, Status> {
        /// Numbers files of this process; what an earlier one left was deleted at the start.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        match place {
            Place::Memory => Ok(Self::Memory(BytesMut::new())),
            Place::Folder(folder) => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let owned = SnapshotFile::own(folder.join(format!("received-{number}")));
                let file = File::create(owned.path()).await.map_err(|error| disk(&error))?;
                Ok(Self::File { file, owned })
            }
        }
    }

    async fn put(&mut self, data: Bytes) -> Result<(), Status> {
        match self {
            Self::File { file, .. } => file.write_all(&data).await.map_err(|error| disk(&error)),
            Self::Memory(bytes) => {
                bytes.extend_from_slice(&data);
                Ok(())
            }
        }
    }

    async fn finish(self) -> Result<SnapshotSource, Status> {
        match self {
            Self::File { mut file, owned } => {
                file.flush().await.map_err(|error| disk(&error))?;
                Ok(SnapshotSource::File(owned))
            }
            Self::Memory(bytes) => Ok(SnapshotSource::Bytes(bytes.freeze())),
        }
    }
}

fn disk(error: &std::io::Error) -> Status {
    Status::resource_exhausted(format!("write the snapshot: {error}"))
}

/// Makes the folder, and empties it of what an earlier process left there.
pub(crate) fn prepare_folder(folder: &Path) -> std::io::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chunks that `source` would be sent in.
    async fn chunks_of(source: &SnapshotSource) -> Vec<SnapshotChunk> {
        let mut source = Source::open(source).await.unwrap();
        let message = Some(RaftMessage { region_id: 7, ..Default::default() });
        let size = Bytes::copy_from_slice(&source.size.to_be_bytes());
        let mut chunks = vec![SnapshotChunk { message, data: size }];
        while let Some(chunk) = source.next_chunk().await.unwrap() {
            chunks.push(chunk);
        }
        chunks
    }

    async fn receive_all(
        chunks: Vec<SnapshotChunk>,
        place: &Place,
    ) -> Result<(RaftMessage, SnapshotSource), Status> {
        receive(tokio_stream::iter(chunks.into_iter().map(Ok)), place, |_| Ok(())).await
    }

    fn some_bytes() -> Bytes {
        (0..CHUNK_BYTES_MAX * 2 + 5).map(|i| (i % 251) as u8).collect()
    }

    #[tokio::test]
    async fn a_snapshot_arrives_as_it_was_sent() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::Folder(folder.path().to_owned());
        let bytes = some_bytes();
        let chunks = chunks_of(&SnapshotSource::Bytes(bytes.clone())).await;
        assert_eq!(chunks.len(), 4);
        let (message, source) = receive_all(chunks, &place).await.unwrap();
        assert_eq!(message.region_id, 7);
        let SnapshotSource::File(file) = &source else { panic!("{source:?} is no file") };
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
        let again = receive_all(chunks_of(&source).await, &Place::Memory).await.unwrap();
        assert_eq!(again.1, SnapshotSource::Bytes(bytes));
        // A snapshot that nobody wants any more leaves no file.
        drop(source);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn damage_is_noticed_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::Folder(folder.path().to_owned());
        let sound = chunks_of(&SnapshotSource::Bytes(some_bytes())).await;
        let mut flipped = sound.clone();
        let mut data = flipped[2].data.to_vec();
        data[100] ^= 1;
        flipped[2].data = data.into();
        let mut short = sound.clone();
        short.pop();
        let mut long = sound.clone();
        long.push(sound[1].clone());
        let mut huge = sound.clone();
        huge[0].data = Bytes::copy_from_slice(&u64::MAX.to_be_bytes());
        for damaged in [flipped, short, long, huge, sound[1..].to_vec(), Vec::new()] {
            receive_all(damaged, &place).await.unwrap_err();
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
