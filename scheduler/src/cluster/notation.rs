//! The house's notation for regions, read back: what test scripts are written in.
//!
//! `r1 "[a,m)" v2.c3 s1 s2 s3-learner leader=s1 term=5 pending=s3 down=s2 lost=s3 mib=10`
//!
//! Unless a peer is named (`s2@p7`), it has the id `100 * region + store`.

use std::error::Error;

use goldenscript::{Argument, Command};
use proto::{KeyRange, StoreId, metapb, pdpb};

use super::RegionRecord;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Reads a number behind its letter: `s1`, `r2`, `p3`.
pub(crate) fn number(letter: char, text: &str) -> Result<u64> {
    let digits = text.strip_prefix(letter).ok_or_else(|| format!("{text} is no {letter}…"))?;
    Ok(digits.parse()?)
}

/// Reads `[a,m)`, `[-inf,m)`, `[a,+inf)`.
pub(crate) fn range(text: &str) -> Result<KeyRange> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(')'));
    let (start, end) = inner.and_then(|text| text.split_once(',')).ok_or("a range is [a,m)")?;
    let start = if start == "-inf" { "" } else { start };
    let end = if end == "+inf" { "" } else { end };
    Ok(KeyRange::from_wire(start.to_owned(), end.to_owned()))
}

fn epoch(text: &str) -> Result<metapb::RegionEpoch> {
    let (version, conf_ver) = text.split_once('.').ok_or("an epoch is v1.c1")?;
    Ok(metapb::RegionEpoch { version: number('v', version)?, conf_ver: number('c', conf_ver)? })
}

fn peer(region: u64, text: &str) -> Result<metapb::Peer> {
    let (text, role) = match text.split_once('-') {
        Some((text, "learner")) => (text, metapb::PeerRole::Learner),
        Some((text, "incoming")) => (text, metapb::PeerRole::IncomingVoter),
        Some((text, "demoting")) => (text, metapb::PeerRole::DemotingVoter),
        Some((_, other)) => return Err(format!("{other} is no role").into()),
        None => (text, metapb::PeerRole::Voter),
    };
    let (store, id) = text.split_once('@').unwrap_or((text, ""));
    let store_id = number('s', store)?;
    let id = if id.is_empty() { 100 * region + store_id } else { number('p', id)? };
    Ok(metapb::Peer { id, store_id, role: role.into(), ..Default::default() })
}

/// Reads a region and all that its leader may say of it from a command's arguments; without an
/// epoch it is the first.
pub(crate) fn record(command: &Command) -> Result<RegionRecord> {
    let mut record = RegionRecord::default();
    record.region.region_epoch = Some(proto::region::FIRST_EPOCH);
    for argument in &command.args {
        if let Argument::Positional(text) = argument {
            match text.chars().next() {
                Some('r') => record.region.id = number('r', text)?,
                Some('v') => record.region.region_epoch = Some(epoch(text)?),
                Some('[') => {
                    let range = range(text)?;
                    record.region.start_key = range.start.clone();
                    record.region.end_key = range.wire_end();
                }
                _ => {
                    let peer = peer(record.region.id, text)?;
                    record.region.peers.push(peer);
                }
            }
        }
    }
    for argument in &command.args {
        if let Argument::KeyValue(key, value) = argument {
            match key.as_str() {
                "leader" => record.leader = Some(there(&record, value)?),
                "term" => record.term = value.parse()?,
                "mib" => record.approximate_bytes = value.parse::<u64>()? << 20,
                "pending" => {
                    for store in value.split('/') {
                        let peer = there(&record, store)?;
                        record.pending_peers.push(peer);
                    }
                }
                "down" => {
                    let peer = Some(there(&record, value)?);
                    record.down_peers.push(pdpb::PeerStats { peer, down_seconds: 60 });
                }
                "lost" => {
                    let peer = Some(there(&record, value)?);
                    let down_seconds = proto::region::DOWN_FOR_GOOD_SECONDS;
                    record.down_peers.push(pdpb::PeerStats { peer, down_seconds });
                }
                other => return Err(format!("{other}= means nothing here").into()),
            }
        }
    }
    Ok(record)
}

fn there(record: &RegionRecord, store: &str) -> Result<metapb::Peer> {
    let store = StoreId(number('s', store)?);
    Ok(*record.peer_on(store).ok_or_else(|| format!("no peer on {store}"))?)
}

/// Writes a region the same way, in one line.
pub(crate) fn describe(record: &RegionRecord) -> String {
    let epoch = record.epoch();
    let mut text =
        format!("{} {} v{}.c{}", record.id(), record.range(), epoch.version, epoch.conf_ver);
    for peer in &record.region.peers {
        text += &format!(" s{}", peer.store_id);
        if record.leader.is_some_and(|leader| leader.id == peer.id) {
            text += "*";
        }
        text += match peer.role() {
            metapb::PeerRole::Voter => "",
            metapb::PeerRole::Learner => "-learner",
            metapb::PeerRole::IncomingVoter => "-incoming",
            metapb::PeerRole::DemotingVoter => "-demoting",
        };
        if record.is_pending(peer.id) {
            text += "-pending";
        }
        if record.is_down(peer.id) {
            text += "-down";
        }
    }
    text
}

/// What a leader says of such a region.
pub(crate) fn heartbeat(record: &RegionRecord) -> pdpb::RegionHeartbeatRequest {
    pdpb::RegionHeartbeatRequest {
        region: Some(record.region.clone()),
        leader: record.leader,
        down_peers: record.down_peers.clone(),
        pending_peers: record.pending_peers.clone(),
        term: record.term,
        approximate_size: record.approximate_bytes,
        ..Default::default()
    }
}
