//! What a log entry carries, and its bytes.
//!
//! ```text
//! write     1 │ epoch │ changes to the end
//! cut       2 │ index │ term
//! split     3 │ epoch │ right-derive │ count │ count × ( key │ region id │ n │ n × peer id )
//! member    4 │ epoch │ peer id │ store id │ role           (the context of a ConfChange entry)
//! members   5 │ epoch │ count │ count × ( peer id │ store id │ role )     (of a ConfChangeV2 entry)
//! compute   6
//! verify    7 │ index │ crc │ keys │ bytes
//!
//! change    0x10+family │ key │ value      put
//!           0x20+family │ key              delete
//!           0x30+family │ start │ end      delete range; an empty end is +infinity
//! epoch     conf_ver │ version
//! ```
//!
//! Numbers are varints, keys and values are preceded by their length. The first byte of an entry is
//! the version in its high half and the kind in its low half. An entry without bytes (a new
//! leader's first) carries no command.
//!
//! Decoding shares the entry's buffer: a key in a [`Command`] is a slice of the entry.
//!
//! Waiting writes of a region are folded: they share one epoch, so one header, and their changes
//! stand one after the other (`operation/write.rs`).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use proto::{KeyRange, PeerId, RegionId, StoreId, metapb};

use crate::engine::{Change, ColumnFamily, WriteBatch};
use crate::storage::region_hash::RegionHash;

/// The encoding described above.
const VERSION: u8 = 1;

const KIND_WRITE: u8 = 1;
const KIND_CUT: u8 = 2;
const KIND_SPLIT: u8 = 3;
const KIND_MEMBER: u8 = 4;
const KIND_MEMBERS: u8 = 5;
const KIND_COMPUTE: u8 = 6;
const KIND_VERIFY: u8 = 7;

const CHANGE_PUT: u8 = 0x10;
const CHANGE_DELETE: u8 = 0x20;
const CHANGE_DELETE_RANGE: u8 = 0x30;

/// What a log entry carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Change data. Only the version of the epoch must match when applied.
    Write {
        /// The region's epoch when this was proposed.
        epoch: metapb::RegionEpoch,
        /// The changes of all folded writes, in order.
        batch: WriteBatch,
    },
    /// The log up to here is no longer needed by anybody.
    CutLog {
        /// The last entry that may go.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// Cut the region into several. The whole epoch must match when applied.
    Split(Split),
    /// Add, promote or remove one peer. The epoch's conf_ver must match when applied.
    Member(Member),
    /// Change several peers at once, or leave what such a change led into. The epoch's conf_ver must match
    /// when applied.
    Members(Members),
    /// Every replica shall compute the hash of its data as of this very entry.
    ComputeHash,
    /// A quorum of replicas has come to this hash at an earlier entry.
    VerifyHash {
        /// The entry.
        index: u64,
        /// What the data came to.
        hash: RegionHash,
    },
}

/// How to cut a region.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The region's epoch when this was proposed.
    pub epoch: metapb::RegionEpoch,
    /// The old id stays with the rightmost part, else with the leftmost.
    pub right_derive: bool,
    /// The cuts, in key order, with the ids of the new regions.
    pub parts: Vec<SplitPart>,
}

/// One cut, and the region that comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPart {
    /// The first key of the right side of the cut.
    pub key: Bytes,
    /// The new region.
    pub region_id: RegionId,
    /// Its peers, in the order of the old region's peers.
    pub peer_ids: Vec<PeerId>,
}

/// Whom a change of membership is about. What happens to it says the raft entry itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The region's epoch when this was proposed.
    pub epoch: metapb::RegionEpoch,
    /// The peer.
    pub peer: metapb::Peer,
}

/// Whom a joint change is about, in the order of the raft entry's changes; nobody when it leaves one.
#[derive(Clone, Debug, PartialEq)]
pub struct Members {
    /// The region's epoch when this was proposed.
    pub epoch: metapb::RegionEpoch,
    /// The peers.
    pub peers: Vec<metapb::Peer>,
}

/// Bytes that are no command of ours. Every replica finds the same, so it is not a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a command: {0}")]
pub struct NotACommand(&'static str);

impl Command {
    /// The bytes of this command.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Write { epoch, batch } => {
                let mut fold = Fold::new(*epoch);
                fold.push(batch);
                fold.finish()
            }
            Self::CutLog { index, term } => {
                let mut out = head(KIND_CUT);
                put_number(&mut out, *index);
                put_number(&mut out, *term);
                out.to_vec()
            }
            Self::Split(split) => {
                let mut out = head(KIND_SPLIT);
                put_epoch(&mut out, &split.epoch);
                out.put_u8(split.right_derive.into());
                put_number(&mut out, split.parts.len() as u64);
                for part in &split.parts {
                    put_bytes(&mut out, &part.key);
                    put_number(&mut out, part.region_id.0);
                    put_number(&mut out, part.peer_ids.len() as u64);
                    part.peer_ids.iter().for_each(|id| put_number(&mut out, id.0));
                }
                out.to_vec()
            }
            Self::Member(member) => {
                let mut out = head(KIND_MEMBER);
                put_epoch(&mut out, &member.epoch);
                put_peer(&mut out, &member.peer);
                out.to_vec()
            }
            Self::Members(members) => {
                let mut out = head(KIND_MEMBERS);
                put_epoch(&mut out, &members.epoch);
                put_number(&mut out, members.peers.len() as u64);
                members.peers.iter().for_each(|peer| put_peer(&mut out, peer));
                out.to_vec()
            }
            Self::ComputeHash => head(KIND_COMPUTE).to_vec(),
            Self::VerifyHash { index, hash } => {
                let mut out = head(KIND_VERIFY);
                put_number(&mut out, *index);
                put_number(&mut out, hash.crc.into());
                put_number(&mut out, hash.keys);
                put_number(&mut out, hash.bytes);
                put_number(&mut out, hash.safe_point);
                out.to_vec()
            }
        }
    }

    /// The command in these bytes. Keys and values share them.
    pub fn decode(bytes: Bytes) -> Result<Self, NotACommand> {
        let mut rest = Rest(bytes);
        let first = rest.byte()?;
        if first >> 4 != VERSION {
            return Err(NotACommand("unknown version"));
        }
        let command = match first & 0x0f {
            KIND_WRITE => {
                let epoch = rest.epoch()?;
                let mut batch = WriteBatch::new();
                while !rest.0.is_empty() {
                    batch.push(rest.change()?);
                }
                Self::Write { epoch, batch }
            }
            KIND_CUT => Self::CutLog { index: rest.number()?, term: rest.number()? },
            KIND_SPLIT => Self::Split(rest.split()?),
            KIND_MEMBER => Self::Member(Member { epoch: rest.epoch()?, peer: rest.peer()? }),
            KIND_MEMBERS => {
                let epoch = rest.epoch()?;
                let mut peers = Vec::new();
                for _ in 0..rest.number()? {
                    peers.push(rest.peer()?);
                }
                Self::Members(Members { epoch, peers })
            }
            KIND_COMPUTE => Self::ComputeHash,
            KIND_VERIFY => Self::VerifyHash { index: rest.number()?, hash: rest.hash()? },
            _ => return Err(NotACommand("unknown kind")),
        };
        if rest.0.is_empty() { Ok(command) } else { Err(NotACommand("bytes left over")) }
    }

    /// Whether these bytes are a split, without decoding them.
    pub fn is_split(bytes: &[u8]) -> bool {
        bytes.first() == Some(&(VERSION << 4 | KIND_SPLIT))
    }
}

/// Writes gathered into the bytes of one entry, behind one epoch.
#[derive(Debug)]
pub struct Fold {
    out: BytesMut,
    head_bytes: usize,
}

impl Fold {
    /// No writes yet.
    pub fn new(epoch: metapb::RegionEpoch) -> Self {
        let mut out = head(KIND_WRITE);
        put_epoch(&mut out, &epoch);
        Self { head_bytes: out.len(), out }
    }

    /// Adds the changes of one more write.
    pub fn push(&mut self, batch: &WriteBatch) {
        self.out.reserve(Self::bytes_of(batch));
        for change in batch.changes() {
            match change {
                Change::Put { cf, key, value } => {
                    self.out.put_u8(CHANGE_PUT + *cf as u8);
                    put_bytes(&mut self.out, key);
                    put_bytes(&mut self.out, value);
                }
                Change::Delete { cf, key } => {
                    self.out.put_u8(CHANGE_DELETE + *cf as u8);
                    put_bytes(&mut self.out, key);
                }
                Change::DeleteRange { cf, range } => {
                    self.out.put_u8(CHANGE_DELETE_RANGE + *cf as u8);
                    put_bytes(&mut self.out, &range.start);
                    put_bytes(&mut self.out, range.end.as_deref().unwrap_or_default());
                }
            }
        }
    }

    /// How many bytes a write takes in an entry, at most.
    pub fn bytes_of(batch: &WriteBatch) -> usize {
        // A kind and two lengths of at most five bytes each.
        batch.bytes() + batch.len() * 11
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no change was added.
    pub fn is_empty(&self) -> bool {
        self.out.len() == self.head_bytes
    }

    /// The entry.
    pub fn finish(self) -> Vec<u8> {
        self.out.into()
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { epoch, batch } => {
                write!(f, "Write v{} {} changes", epoch.version, batch.len())
            }
            Self::CutLog { index, term } => write!(f, "CutLog {index}@{term}"),
            Self::ComputeHash => f.write_str("ComputeHash"),
            Self::VerifyHash { index, hash } => write!(f, "VerifyHash {index}: {hash}"),
            Self::Split(split) => {
                write!(f, "Split v{}.c{}", split.epoch.version, split.epoch.conf_ver)?;
                split.parts.iter().try_for_each(|part| {
                    write!(f, " {} at {}", part.region_id, proto::key::Readable(&part.key))
                })
            }
            Self::Member(Member { epoch, peer }) => {
                write!(
                    f,
                    "Member c{} {}@{}",
                    epoch.conf_ver,
                    PeerId(peer.id),
                    StoreId(peer.store_id)
                )
            }
            Self::Members(Members { epoch, peers }) => {
                write!(f, "Members c{}", epoch.conf_ver)?;
                peers.iter().try_for_each(|peer| {
                    write!(f, " {}@{}", PeerId(peer.id), StoreId(peer.store_id))
                })
            }
        }
    }
}

fn head(kind: u8) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(VERSION << 4 | kind);
    out
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_peer(out: &mut BytesMut, peer: &metapb::Peer) {
    put_number(out, peer.id);
    put_number(out, peer.store_id);
    put_number(out, peer.role as u64);
}

fn put_epoch(out: &mut BytesMut, epoch: &metapb::RegionEpoch) {
    put_number(out, epoch.conf_ver);
    put_number(out, epoch.version);
}

/// What is still to be decoded.
struct Rest(Bytes);

impl Rest {
    fn byte(&mut self) -> Result<u8, NotACommand> {
        let byte = *self.0.first().ok_or(NotACommand("cut short"))?;
        let _ = self.0.split_to(1);
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, NotACommand> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(NotACommand("number too long"))
    }

    fn bytes(&mut self) -> Result<Bytes, NotACommand> {
        let length =
            usize::try_from(self.number()?).map_err(|_| NotACommand("length too large"))?;
        if length > self.0.len() {
            return Err(NotACommand("cut short"));
        }
        Ok(self.0.split_to(length))
    }

    fn epoch(&mut self) -> Result<metapb::RegionEpoch, NotACommand> {
        Ok(metapb::RegionEpoch { conf_ver: self.number()?, version: self.number()? })
    }

    fn peer(&mut self) -> Result<metapb::Peer, NotACommand> {
        Ok(metapb::Peer {
            id: self.number()?,
            store_id: self.number()?,
            role: i32::try_from(self.number()?).map_err(|_| NotACommand("role"))?,
            ..Default::default()
        })
    }

    fn hash(&mut self) -> Result<RegionHash, NotACommand> {
        Ok(RegionHash {
            crc: u32::try_from(self.number()?).map_err(|_| NotACommand("checksum"))?,
            keys: self.number()?,
            bytes: self.number()?,
            safe_point: self.number()?,
        })
    }

    fn change(&mut self) -> Result<Change, NotACommand> {
        let kind = self.byte()?;
        let cf = ColumnFamily::from_number(kind & 0x0f)
            .filter(|cf| ColumnFamily::DATA.contains(cf))
            .ok_or(NotACommand("unknown family"))?;
        Ok(match kind & 0xf0 {
            CHANGE_PUT => Change::Put { cf, key: self.bytes()?, value: self.bytes()? },
            CHANGE_DELETE => Change::Delete { cf, key: self.bytes()? },
            CHANGE_DELETE_RANGE => {
                let (start, end) = (self.bytes()?, self.bytes()?);
                Change::DeleteRange { cf, range: KeyRange::from_wire(start, end) }
            }
            _ => return Err(NotACommand("unknown change")),
        })
    }

    fn split(&mut self) -> Result<Split, NotACommand> {
        let epoch = self.epoch()?;
        let right_derive = self.byte()? != 0;
        let mut parts = Vec::new();
        for _ in 0..self.number()? {
            let key = self.bytes()?;
            let region_id = RegionId(self.number()?);
            let mut peer_ids = Vec::new();
            for _ in 0..self.number()? {
                peer_ids.push(PeerId(self.number()?));
            }
            parts.push(SplitPart { key, region_id, peer_ids });
        }
        Ok(Split { epoch, right_derive, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: metapb::RegionEpoch = metapb::RegionEpoch { conf_ver: 3, version: 200 };

    fn check(command: &Command) {
        let bytes = command.encode();
        assert_eq!(Command::decode(bytes.clone().into()).as_ref(), Ok(command));
        for length in 0..bytes.len() {
            // A write cut between two changes is a shorter write; all else is refused.
            if let Ok(shorter) = Command::decode(Bytes::copy_from_slice(&bytes[..length])) {
                assert!(matches!(shorter, Command::Write { .. }), "{length} bytes: {shorter}");
            }
        }
    }

    #[test]
    fn every_command_comes_back_as_it_was_written() {
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, "k", vec![7; 300]);
        batch.put(ColumnFamily::Write, "", "");
        batch.delete(ColumnFamily::Lock, "k");
        batch.delete_range(ColumnFamily::Default, KeyRange::from_wire("a", ""));
        check(&Command::Write { epoch: EPOCH, batch });
        check(&Command::CutLog { index: u64::MAX, term: 1 });
        let parts = vec![SplitPart {
            key: "m".into(),
            region_id: RegionId(9),
            peer_ids: vec![PeerId(10), PeerId(11)],
        }];
        check(&Command::Split(Split { epoch: EPOCH, right_derive: true, parts }));
        let peer = metapb::Peer { id: 4, store_id: 2, role: 1, ..Default::default() };
        check(&Command::Member(Member { epoch: EPOCH, peer }));
        check(&Command::Members(Members { epoch: EPOCH, peers: vec![peer, peer] }));
        check(&Command::Members(Members { epoch: EPOCH, peers: vec![] }));
        check(&Command::ComputeHash);
        let hash = RegionHash { crc: u32::MAX, keys: 3, bytes: u64::MAX, safe_point: 7 };
        check(&Command::VerifyHash { index: 300, hash });
    }

    #[test]
    fn folded_writes_read_as_one() {
        let mut one = WriteBatch::new();
        one.put(ColumnFamily::Default, "a", "1");
        let mut two = WriteBatch::new();
        two.delete(ColumnFamily::Default, "b");
        let mut fold = Fold::new(EPOCH);
        assert!(fold.is_empty());
        fold.push(&one);
        fold.push(&two);
        one.append(two);
        let decoded = Command::decode(fold.finish().into());
        assert_eq!(decoded, Ok(Command::Write { epoch: EPOCH, batch: one }));
    }

    #[test]
    fn what_a_store_keeps_of_itself_cannot_be_written_by_a_command() {
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Meta, "k", "v");
        let bytes = Command::Write { epoch: EPOCH, batch }.encode();
        assert!(Command::decode(bytes.into()).is_err());
    }

    #[test]
    fn a_split_is_known_by_its_first_byte() {
        let split = Command::Split(Split { epoch: EPOCH, right_derive: false, parts: vec![] });
        assert!(Command::is_split(&split.encode()));
        assert!(!Command::is_split(&Command::CutLog { index: 1, term: 1 }.encode()));
        assert!(!Command::is_split(b""));
    }

    #[test]
    fn commands_print_in_one_line() {
        let cut = Command::CutLog { index: 12, term: 5 };
        assert_eq!(cut.to_string(), "CutLog 12@5");
    }
}
