//! Cutting a region into several.
//!
//! **Notice.** A leader counts what is written; past `split_check_written_bytes`, or a part of
//! `region_split_keys`, the background worker looks how large the region is and where to cut (`split_keys`).
//! Callers and the scheduler may ask for a split at keys of their choice; the scheduler also for one in the
//! middle.
//!
//! **Ask.** New regions and peers need ids, which the scheduler gives (`Report::AskSplit`).
//!
//! **Propose.** [`Command::Split`], unless the epoch has moved meanwhile. From here until it is applied
//! writes wait, and the lease is off: another store may apply the split first, elect a leader for a new
//! region there and take writes, while this one still reads by the old range.
//!
//! **Apply**, on every replica at the same index: [`cut_region`], a pure function, gives the parts. All
//! descriptions and the applied index are one batch; the data does not move. All parts have the old
//! version plus the number of new regions. The old id stays with the rightmost part, or the leftmost.
//!
//! **After.** The store creates the new peers. One may be there already: a message of its group came
//! first, and an empty peer was made. It is replaced, and what it promised is kept. (If it belongs to a
//! later generation, removed and added again, the split leaves it alone.) Votes that came too early are
//! delivered now. Where the old leader is, the new peers campaign at once; they speak once the data engine
//! is synced (`store/lifecycle.rs`).
//!
//! Left out: splitting by load, by table, and buckets.

use bytes::Bytes;
use proto::{KeyRange, PeerId, Refusal, RegionId, metapb, pdpb, region};

use crate::applier::Delegate;
use crate::command::{Command, Split, SplitPart};
use crate::effects::Report;
use crate::engine::{LogEngine, RangeSize, WriteBatch};
use crate::msg::{Answer, BackgroundTask, Reply, ReplyId};
use crate::operation::split_keys::{SplitLimits, SplitSearch};
use crate::peer::{Peer, Round};
use crate::plant::Bug;
use crate::storage::{FIRST_POSITION, put_applied, put_region};

/// One split makes no more new regions; a caller with more keys is refused.
pub(crate) const PARTS_MAX: usize = 1024;

/// A leader that was given no ids for so long gives up; the caller is told to come back.
const ASK_TICKS_MAX: u64 = 100;

/// A look for split keys that was not answered for so long is begun again.
const CHECK_TICKS_MAX: u64 = 2400;

/// A look is also due when this part of the keys that a region may hold was written.
const UNCHECKED_KEYS_PART: u64 = 16;

/// Ids asked for, and what they are for.
#[derive(Debug)]
pub(crate) struct SplitAsk {
    ask: u64,
    keys: Vec<Bytes>,
    epoch: metapb::RegionEpoch,
    since_tick: u64,
    pub(crate) reply: Option<ReplyId>,
}

impl<L: LogEngine> Peer<L> {
    /// Somebody wants the region cut at these keys.
    pub(crate) fn ask_split(
        &mut self,
        mut keys: Vec<Bytes>,
        reply: Option<ReplyId>,
        ask: u64,
        round: &mut Round<'_>,
    ) {
        keys.sort_unstable();
        keys.dedup();
        // A region that begins at the key was cut there already.
        keys.retain(|key| *key != self.region.start_key);
        let refused = self.may_ask(&keys);
        if let (Err(answer), Some(reply)) = (&refused, reply) {
            round.reply(reply, answer.clone());
        }
        if refused.is_err() {
            return;
        }
        let epoch = region::epoch(&self.region);
        let count = keys.len() as u32;
        let since_tick = self.ticker.ticks();
        if let Some(leader) = self.leader_mut() {
            leader.split_ask = Some(SplitAsk { ask, keys, epoch, since_tick, reply });
        }
        let region = self.region.clone();
        round.effects.reports.push(Report::AskSplit { region, ask, count });
    }

    /// Whether ids may be asked for; if not, the answer.
    fn may_ask(&self, keys: &[Bytes]) -> Result<(), Reply> {
        let Some(leader) = self.leader() else { return Err(Err(self.not_leader())) };
        if keys.is_empty() {
            return Err(Ok(Answer::Regions(vec![self.region.clone()])));
        }
        let range = &self.view().range;
        if let Some(key) = keys.iter().find(|key| !range.contains(key)) {
            return Err(Err(Refusal::KeyNotInRegion {
                key: key.clone(),
                region_id: self.region.id,
                start_key: self.region.start_key.clone(),
                end_key: self.region.end_key.clone(),
            }));
        }
        if keys.len() > PARTS_MAX {
            let message = format!("at most {PARTS_MAX} keys at once");
            return Err(Err(Refusal::Other { message }));
        }
        if leader.pending_split.is_some() || leader.split_ask.is_some() {
            let reason = "the region is being split".into();
            return Err(Err(Refusal::ServerIsBusy { reason, backoff_ms: 0 }));
        }
        Ok(())
    }

    /// The scheduler gave ids, or gave none.
    pub(crate) fn on_split_ids(
        &mut self,
        ask: u64,
        ids: Option<Vec<pdpb::SplitId>>,
        round: &mut Round<'_>,
    ) {
        let is_asked = |split: &mut SplitAsk| split.ask == ask;
        let Some(asked) = self.leader_mut().and_then(|leader| leader.split_ask.take_if(is_asked))
        else {
            return;
        };
        let reply = asked.reply;
        if let Err(refusal) = self.propose_split(asked, ids, round)
            && let Some(reply) = reply
        {
            round.reply(reply, Err(refusal));
        }
    }

    fn propose_split(
        &mut self,
        asked: SplitAsk,
        ids: Option<Vec<pdpb::SplitId>>,
        round: &Round<'_>,
    ) -> Result<(), Refusal> {
        let busy = |reason: &str| Refusal::ServerIsBusy { reason: reason.into(), backoff_ms: 0 };
        let ids = ids.ok_or_else(|| busy("the scheduler gave no ids for the split"))?;
        if asked.epoch != region::epoch(&self.region) {
            return Err(Refusal::EpochNotMatch { current_regions: vec![self.region.clone()] });
        }
        if self.group.raft().has_pending_conf() {
            return Err(busy("a change of membership is pending"));
        }
        if region::is_joint(&self.region) {
            return Err(busy("the membership is joint"));
        }
        if ids.len() != asked.keys.len() {
            return Err(Refusal::Other {
                message: "the scheduler miscounted the new regions".into(),
            });
        }
        let part = |(key, id): (Bytes, pdpb::SplitId)| SplitPart {
            key,
            region_id: RegionId(id.new_region_id),
            peer_ids: id.new_peer_ids.into_iter().map(PeerId).collect(),
        };
        let split = Split {
            epoch: asked.epoch,
            right_derive: round.config.right_derive_when_split,
            parts: asked.keys.into_iter().zip(ids).map(part).collect(),
        };
        cut_region(&self.region, &split)?;
        let at = self
            .group
            .propose(Command::Split(split).encode())
            .map_err(|_| Refusal::proposal_dropped())?;
        self.group.set_broadcast_commits(true);
        if let Some(leader) = self.leader_mut() {
            leader.pending_split = Some(at.index);
        }
        self.proposals.push(at, asked.reply.into_iter().collect());
        Ok(())
    }

    /// Applied up to here: a split on its way may be over, for better or worse.
    pub(crate) fn settle_split(&mut self) {
        let applied = self.applied.index;
        if let Some(leader) = self.leader_mut()
            && leader.pending_split.take_if(|index| *index <= applied).is_some()
        {
            self.group.set_broadcast_commits(false);
        }
    }

    /// Looks whether enough was written to look for split keys, and gives up on ids that do not come.
    pub(crate) fn tick_split(&mut self, check_is_due: bool, round: &mut Round<'_>) {
        let tick = self.ticker.ticks();
        let Some(leader) = self.leader_mut() else { return };
        let is_late = |ask: &mut SplitAsk| tick - ask.since_tick > ASK_TICKS_MAX;
        if let Some(reply) = leader.split_ask.take_if(is_late).and_then(|ask| ask.reply) {
            let reason = "the scheduler gave no ids for the split".into();
            round.reply(reply, Err(Refusal::ServerIsBusy { reason, backoff_ms: 0 }));
        }
        let limits = SplitLimits::of(round.config);
        let bytes_are_due = limits.split.bytes > 0
            && self.traffic.unchecked.bytes >= round.config.split_check_written_bytes;
        let keys_are_due = limits.split.keys > 0
            && self.traffic.unchecked.keys >= limits.split.keys.div_ceil(UNCHECKED_KEYS_PART);
        if check_is_due && (bytes_are_due || keys_are_due) {
            self.look_for_keys(SplitSearch::TooLarge(limits), round);
        }
    }

    /// Has the background worker look where to cut, unless it is at it.
    pub(crate) fn look_for_keys(&mut self, search: SplitSearch, round: &mut Round<'_>) {
        if self.is_looking_for_keys() {
            return;
        }
        let tick = self.ticker.ticks();
        let Some(leader) = self.leader_mut() else { return };
        leader.split_check_since = Some(tick);
        let region = self.region.clone();
        round.effects.background.push(BackgroundTask::FindSplitKeys { region, search });
    }

    /// Whether the background worker is at it.
    pub(crate) fn is_looking_for_keys(&self) -> bool {
        let since = self.leader().and_then(|leader| leader.split_check_since);
        since.is_some_and(|since| self.ticker.ticks() - since < CHECK_TICKS_MAX)
    }

    /// A look for split keys is done.
    pub(crate) fn on_split_keys(&mut self, epoch: &metapb::RegionEpoch, size: RangeSize) -> bool {
        if let Some(leader) = self.leader_mut() {
            leader.split_check_since = None;
        }
        if *epoch != region::epoch(&self.region) {
            return false;
        }
        self.traffic.unchecked = RangeSize::default();
        self.traffic.size_bytes = size.bytes;
        self.traffic.size_keys = size.keys;
        true
    }
}

impl Delegate {
    /// Applies a split: adds the descriptions of all parts to the round's batch, or refuses it.
    pub(crate) fn apply_split(
        &mut self,
        split: &Split,
        skip: &[RegionId],
        batch: &mut WriteBatch,
    ) -> Result<Vec<metapb::Region>, Refusal> {
        let mut parts = cut_region(&self.region, split)?;
        if self.planted.has(Bug::SplitKeepsVersion) {
            parts.iter_mut().for_each(|part| part.region_epoch = self.region.region_epoch);
        }
        for part in &parts {
            if part.id == self.region.id {
                put_region(batch, part);
            } else if !skip.contains(&RegionId(part.id)) && !self.planted.has(Bug::SplitHalfWritten)
            {
                put_region(batch, part);
                put_applied(batch, RegionId(part.id), FIRST_POSITION);
            }
        }
        if let Some(own) = parts.iter().find(|part| part.id == self.region.id) {
            self.region = own.clone();
        }
        Ok(parts)
    }
}

/// The parts of a region in key order, or why it cannot be cut so. The whole epoch must match: with
/// another membership the peer ids would not belong to the peers.
pub fn cut_region(before: &metapb::Region, split: &Split) -> Result<Vec<metapb::Region>, Refusal> {
    let refuse = |message: &str| Refusal::Other { message: message.into() };
    if split.epoch != region::epoch(before) {
        return Err(Refusal::EpochNotMatch { current_regions: vec![before.clone()] });
    }
    let mut ids: Vec<u64> = vec![before.id];
    let mut ranges = Vec::new();
    let mut rest = KeyRange::of(before);
    for part in &split.parts {
        let Some((left, right)) = rest.split_at(&part.key) else {
            return Err(Refusal::KeyNotInRegion {
                key: part.key.clone(),
                region_id: before.id,
                start_key: before.start_key.clone(),
                end_key: before.end_key.clone(),
            });
        };
        if part.peer_ids.len() != before.peers.len() {
            return Err(refuse("as many peer ids as peers are needed"));
        }
        if part.region_id.0 == 0 || ids.contains(&part.region_id.0) {
            return Err(refuse("the id of a new region is used twice"));
        }
        ids.push(part.region_id.0);
        ranges.push(left);
        rest = right;
    }
    if split.parts.is_empty() {
        return Err(refuse("a split without keys"));
    }
    ranges.push(rest);
    let version = split.epoch.version + split.parts.len() as u64;
    let epoch = metapb::RegionEpoch { version, conf_ver: split.epoch.conf_ver };
    let cut = |range: &KeyRange, new: Option<&SplitPart>| {
        let mut part = metapb::Region {
            start_key: range.start.clone(),
            end_key: range.wire_end(),
            region_epoch: Some(epoch),
            ..before.clone()
        };
        if let Some(new) = new {
            part.id = new.region_id.0;
            for (peer, id) in part.peers.iter_mut().zip(&new.peer_ids) {
                peer.id = id.0;
            }
        }
        part
    };
    let new = split.parts.iter().map(Some);
    let owners: Vec<Option<&SplitPart>> = if split.right_derive {
        new.chain([None]).collect()
    } else {
        [None].into_iter().chain(new).collect()
    };
    Ok(ranges.iter().zip(owners).map(|(range, new)| cut(range, new)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> metapb::Region {
        let peer = |id, store_id| metapb::Peer { id, store_id, ..Default::default() };
        metapb::Region {
            id: 1,
            end_key: "z".into(),
            region_epoch: Some(region::FIRST_EPOCH),
            peers: vec![peer(1, 1), peer(2, 2)],
            ..Default::default()
        }
    }

    fn part(key: &'static str, region_id: u64, peer_ids: &[u64]) -> SplitPart {
        SplitPart {
            key: key.into(),
            region_id: RegionId(region_id),
            peer_ids: peer_ids.iter().copied().map(PeerId).collect(),
        }
    }

    fn cut(right_derive: bool, parts: Vec<SplitPart>) -> Result<Vec<String>, Refusal> {
        let split = Split { epoch: region::FIRST_EPOCH, right_derive, parts };
        let parts = cut_region(&region(), &split)?;
        Ok(parts.iter().map(|part| region::Readable(part).to_string()).collect())
    }

    /// S0.30, S0.39: one part keeps the id, the others are new; the version of all counts the cuts.
    #[test]
    fn the_old_id_stays_with_the_right_or_with_the_left() {
        let parts = || vec![part("g", 10, &[11, 12]), part("m", 20, &[21, 22])];
        assert_eq!(
            cut(true, parts()).unwrap(),
            [
                "r10 [-inf,g) v3.c1 p11@s1 p12@s2",
                "r20 [g,m) v3.c1 p21@s1 p22@s2",
                "r1 [m,z) v3.c1 p1@s1 p2@s2",
            ]
        );
        assert_eq!(
            cut(false, parts()).unwrap(),
            [
                "r1 [-inf,g) v3.c1 p1@s1 p2@s2",
                "r10 [g,m) v3.c1 p11@s1 p12@s2",
                "r20 [m,z) v3.c1 p21@s1 p22@s2",
            ]
        );
    }

    /// S4.10: the keys, the number of ids, their newness and the epoch must fit.
    #[test]
    fn a_region_cannot_be_cut_just_so() {
        let wrong = [
            vec![],
            vec![part("z", 10, &[11, 12])],
            vec![part("", 10, &[11, 12])],
            vec![part("m", 10, &[11, 12]), part("g", 20, &[21, 22])],
            vec![part("m", 10, &[11])],
            vec![part("m", 1, &[11, 12])],
            vec![part("g", 10, &[11, 12]), part("m", 10, &[21, 22])],
        ];
        for parts in wrong {
            assert!(cut(true, parts.clone()).is_err(), "{parts:?}");
        }
        let epoch = metapb::RegionEpoch { conf_ver: 2, version: 1 };
        let parts = vec![part("m", 10, &[11, 12])];
        let split = Split { epoch, right_derive: true, parts };
        let refused = cut_region(&region(), &split);
        assert!(matches!(refused, Err(Refusal::EpochNotMatch { .. })));
    }
}
