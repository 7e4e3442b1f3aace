//! The regions as they are: tiles of a small key space that split, merge, change their peers and leaders.
//!
//! Each change is told by a heartbeat. What is told may arrive late, twice, or after something newer, and
//! now and then somebody repeats what was true long ago: a store that slept, a packet that was lost on its
//! way for a minute.

use std::collections::VecDeque;

use proto::{metapb, pdpb};

use crate::sim::dice::Dice;

/// Keys are one byte below this.
pub const KEYS: u8 = 64;
/// Regions are not split beyond this many.
const TILES_MAX: usize = 12;
/// Stores that the peers are on.
pub const STORES: u64 = 4;
/// Heartbeats that may be said once more.
const PAST_MAX: usize = 200;

/// One region.
#[derive(Clone, Debug)]
struct Tile {
    id: u64,
    start: u8,
    end: u8,
    version: u64,
    conf_ver: u64,
    term: u64,
    stores: Vec<u64>,
}

impl Tile {
    fn heartbeat(&self) -> pdpb::RegionHeartbeatRequest {
        let bound = |key: u8| match key {
            0 | KEYS => Vec::new(),
            key => vec![key],
        };
        let peer = |store_id: &u64| metapb::Peer {
            id: self.id * 10 + store_id,
            store_id: *store_id,
            ..Default::default()
        };
        let region = metapb::Region {
            id: self.id,
            start_key: bound(self.start).into(),
            end_key: bound(self.end).into(),
            region_epoch: Some(metapb::RegionEpoch {
                version: self.version,
                conf_ver: self.conf_ver,
            }),
            peers: self.stores.iter().map(peer).collect(),
            ..Default::default()
        };
        pdpb::RegionHeartbeatRequest {
            leader: region.peers.first().copied(),
            region: Some(region),
            term: self.term,
            approximate_size: 10 << 20,
            ..Default::default()
        }
    }
}

/// All regions.
#[derive(Debug)]
pub struct Tiles {
    tiles: Vec<Tile>,
    next_id: u64,
    dice: Dice,
    past: VecDeque<pdpb::RegionHeartbeatRequest>,
}

impl Tiles {
    /// One region that holds every key.
    pub fn new(dice: Dice) -> Self {
        let whole = Tile {
            id: 1,
            start: 0,
            end: KEYS,
            version: 1,
            conf_ver: 1,
            term: 6,
            stores: vec![1, 2, 3],
        };
        Self { tiles: vec![whole], next_id: 2, dice, past: VecDeque::new() }
    }

    /// Something changes; what the leaders concerned say of it.
    pub fn change(&mut self) -> Vec<pdpb::RegionHeartbeatRequest> {
        let at = self.dice.within(0..self.tiles.len() as u64) as usize;
        let said = match self.dice.within(0..10) {
            0..3 => self.split(at),
            3..5 => self.merge(at),
            5..8 => self.change_peers(at),
            _ => self.change_leader(at),
        };
        for heartbeat in &said {
            if self.past.len() == PAST_MAX {
                self.past.pop_front();
            }
            self.past.push_back(heartbeat.clone());
        }
        said
    }

    fn split(&mut self, at: usize) -> Vec<pdpb::RegionHeartbeatRequest> {
        let tile = self.tiles[at].clone();
        if tile.end - tile.start < 2 || self.tiles.len() == TILES_MAX {
            return Vec::new();
        }
        let key = self.dice.within(u64::from(tile.start) + 1..u64::from(tile.end)) as u8;
        let version = tile.version + 1;
        let left = Tile { id: self.next_id, end: key, version, ..tile.clone() };
        let right = Tile { start: key, version, ..tile };
        self.next_id += 1;
        let mut said = vec![left.heartbeat(), right.heartbeat()];
        self.dice.shuffle(&mut said);
        self.tiles.splice(at..=at, [left, right]);
        said
    }

    /// The left neighbour takes the right one up.
    fn merge(&mut self, at: usize) -> Vec<pdpb::RegionHeartbeatRequest> {
        if at + 1 >= self.tiles.len() {
            return Vec::new();
        }
        let right = self.tiles.remove(at + 1);
        let left = &mut self.tiles[at];
        left.end = right.end;
        left.version = left.version.max(right.version) + 1;
        left.conf_ver += 1;
        vec![left.heartbeat()]
    }

    fn change_peers(&mut self, at: usize) -> Vec<pdpb::RegionHeartbeatRequest> {
        let tile = &mut self.tiles[at];
        let free: Vec<u64> = (1..=STORES).filter(|store| !tile.stores.contains(store)).collect();
        match self.dice.one_of(&free) {
            Some(store) => tile.stores.push(*store),
            None => {
                tile.stores.pop();
            }
        }
        tile.conf_ver += 1;
        vec![tile.heartbeat()]
    }

    fn change_leader(&mut self, at: usize) -> Vec<pdpb::RegionHeartbeatRequest> {
        let tile = &mut self.tiles[at];
        tile.stores.rotate_left(1);
        tile.term += 1;
        vec![tile.heartbeat()]
    }

    /// What some leader says that has no news.
    pub fn say_again(&mut self) -> pdpb::RegionHeartbeatRequest {
        self.dice.one_of(&self.tiles).expect("there is always a region").heartbeat()
    }

    /// What some leader said long ago.
    pub fn say_past(&mut self) -> Option<pdpb::RegionHeartbeatRequest> {
        let past: Vec<_> = self.past.iter().cloned().collect();
        self.dice.one_of(&past).cloned()
    }

    /// What all leaders say now.
    pub fn say_all(&self) -> Vec<pdpb::RegionHeartbeatRequest> {
        self.tiles.iter().map(Tile::heartbeat).collect()
    }
}
