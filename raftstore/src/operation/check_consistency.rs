//! Do all replicas of a region hold the same, and what becomes of one that does not?
//!
//! ```text
//!  leader                                          every replica
//!  ComputeHash ───── log, at index i ───────────►  apply: a view of the engine as of i, no more
//!                                                  background: the hash of all that is in the view
//!        ◄─────────────── "mine at i is …" ──────  Word::Hash, on an envelope of its own
//!  a quorum of voters says the same
//!  VerifyHash i, hash ── log ───────────────────►  apply: is mine at i another? then quarantine
//! ```
//!
//! **Begin.** A person asks (`CheckRegionConsistency`), or every `consistency_check_ticks`. One check at a time in
//! a region; one that has come to nothing after [`CHECK_TICKS_MAX`] is given up.
//!
//! **Hash.** Replicas apply the same entries, so at the same index they hold the same keys and values, and the
//! same description of the region. The view costs nothing to take; it is read in the background, where it delays
//! snapshots but no writes. A replica has one hash under way at most, and tells none for a check that comes
//! meanwhile.
//!
//! Old versions that nobody sees are no part of the hash: each replica removes them in its own time
//! (`region_hash.rs`). Replicas that go by different safe points are not compared.
//!
//! **Judge.** Not the leader's hash is right but that of a quorum, as with everything else in raft: the leader
//! collects hashes and proposes the one that a majority of the voters (of both halves, in a joint membership)
//! has told. So a leader that is itself the odd one proposes the others' hash, and goes by its own proposal. A
//! majority never goes. When no hash has a majority nobody is right and nobody goes: it is said loudly.
//!
//! **Quarantine.** A replica whose hash at that index is another stops *itself*: not the store, not the others.
//! A record of it joins its data ([`Quarantine`]). It answers everybody who waits, serves nothing ("region not
//! found"), takes part in nothing, applies nothing more than what was on its way, and keeps its data as they
//! are. A restart finds the record and keeps to it. Whoever speaks to it is told (`Word::Quarantined`), so the
//! leader reports it to the scheduler as down for good, and the scheduler removes it and makes up for it. Once
//! removed it learns so as every forgotten peer does (`stale_peer.rs`), and its data go.
//!
//! **When nothing follows.** Between the two entries a leader may change: its check is forgotten, and there will
//! be another. A replica may restart: what it has not applied it applies again, with its hash; what it has, it
//! knows no hash of, and no judgement without one. A snapshot replaces what was hashed. A split leaves part of
//! it to others, so a judgement of another version of the region is none. A hash may be lost on the way: a
//! quorum of the others is enough.
//!
//! **Sleep.** A leader with a check under way stays awake. A region that sleeps when the time comes is not woken
//! for it: it is checked when it is awake at its time.
//!
//! Left out: finding which keys differ; the data of a quarantined replica are there to be looked at. Ranges that
//! are destroyed below the replication (`UnsafeDestroyRange`) vanish from one store after the other: a check at
//! that moment may take the first or the last of them for the odd one. A region that sleeps is not compared by itself.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use proto::{PeerId, Refusal, RegionId, metapb, raft_serverpb::RaftMessage, region};

use crate::command::Command;
use crate::effects::{Effects, Report};
use crate::engine::{DataEngine, LogEngine};
use crate::msg::{ApplyTask, BackgroundTask, Now, ReplyId};
use crate::peer::sleep::Cause;
use crate::peer::{Peer, Phase, Role, Round};
use crate::storage::Quarantine;
use crate::storage::group_log::Position;
use crate::storage::region_hash::{HashJob, RegionHash};
use crate::store::Store;

/// A check that has not come to a judgement after so many ticks is given up.
const CHECK_TICKS_MAX: u64 = 2_400;

/// What a replica knows of the hashes of its own data.
#[derive(Debug, Default)]
pub(crate) struct Hashes {
    /// Being computed, for this index.
    under_way: Option<u64>,
    newest: Option<Hashed>,
}

/// The newest check that this replica takes part in.
#[derive(Debug)]
struct Hashed {
    index: u64,
    /// Of the region's epoch then.
    version: u64,
    own: Option<RegionHash>,
    /// A judgement that came before the own hash did.
    agreed: Option<RegionHash>,
}

impl Hashes {
    /// What was hashed has been replaced.
    pub(crate) fn forget(&mut self) {
        self.newest = None;
    }
}

/// A leader's check under way.
#[derive(Debug)]
pub(crate) struct Check {
    index: u64,
    since_tick: u64,
    told: BTreeMap<PeerId, RegionHash>,
}

/// What replicas tell each other about checks, in the envelope's `extra_ctx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// To the leader: what the sender's data came to at this index.
    Hash(u64, RegionHash),
    /// To whoever speaks to it: the sender is in quarantine.
    Quarantined,
}

impl Word {
    const HASH: u8 = 1;
    const QUARANTINED: u8 = 2;

    fn encode(self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Hash(index, hash) => {
                out.put_u8(Self::HASH);
                out.put_u64(index);
                out.extend(hash.encode());
            }
            Self::Quarantined => out.put_u8(Self::QUARANTINED),
        }
        out.into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&Self::HASH, rest) => {
                let (index, hash) = rest.split_first_chunk::<8>()?;
                Some(Self::Hash(u64::from_be_bytes(*index), RegionHash::decode(hash)?))
            }
            (&Self::QUARANTINED, []) => Some(Self::Quarantined),
            _ => None,
        }
    }
}

impl<L: LogEngine> Peer<L> {
    /// Somebody, or the time, asks whether all replicas are the same. Who waits is answered once the hash is
    /// being computed here.
    pub(crate) fn check_consistency(&mut self, reply: Option<ReplyId>, round: &mut Round<'_>) {
        let proposed = self.propose_check();
        match (proposed, reply) {
            (Ok(at), reply) => self.proposals.push(at, reply.into_iter().collect()),
            (Err(refusal), Some(reply)) => round.reply(reply, Err(refusal)),
            (Err(_), None) => {}
        }
    }

    fn propose_check(&mut self) -> Result<Position, Refusal> {
        let Some(leader) = self.leader() else { return Err(self.not_leader()) };
        if leader.check.is_some() {
            let reason = "the replicas are being compared".into();
            return Err(Refusal::ServerIsBusy { reason, backoff_ms: 0 });
        }
        let proposed = self.group.propose(Command::ComputeHash.encode());
        let at = proposed.map_err(|_| Refusal::proposal_dropped())?;
        let since_tick = self.ticker.ticks();
        if let Some(leader) = self.leader_mut() {
            leader.check = Some(Check { index: at.index, since_tick, told: BTreeMap::new() });
        }
        Ok(at)
    }

    /// Begins a check when one is due, and gives up one that has come to nothing.
    pub(crate) fn tick_check(&mut self, round: &mut Round<'_>) {
        let tick = self.ticker.ticks();
        let region_id = self.region_id();
        let Some(leader) = self.leader_mut() else { return };
        if let Some(check) =
            leader.check.take_if(|check| tick - check.since_tick >= CHECK_TICKS_MAX)
        {
            tracing::warn!(region = %region_id, at = check.index, told = ?check.told,
                "a consistency check came to nothing: too few replicas told their hash");
        }
        let is_under_way = leader.check.is_some();
        let period = round.config.consistency_check_ticks;
        if is_under_way {
            self.judge(round);
        } else if period > 0 && tick.wrapping_add(region_id.0).is_multiple_of(period) {
            self.check_consistency(None, round);
        }
    }

    /// `ComputeHash` was applied here, and the view of that moment is there.
    pub(crate) fn begin_hash(&mut self, job: HashJob, round: &mut Round<'_>) {
        if self.hashes.under_way.is_some() || self.phase == Phase::Quarantined {
            return;
        }
        let (index, version) = (job.index(), region::epoch(job.region()).version);
        self.hashes.under_way = Some(index);
        self.hashes.newest = Some(Hashed { index, version, own: None, agreed: None });
        let (region_id, peer_id) = (self.region_id(), self.id());
        round.effects.background.push(BackgroundTask::ComputeHash { region_id, peer_id, job });
    }

    /// The hash is computed: tells the leader, or compares it with a judgement that was quicker.
    pub(crate) fn on_hash_computed(
        &mut self,
        index: u64,
        hash: Option<RegionHash>,
        round: &mut Round<'_>,
    ) -> Option<Quarantine> {
        self.hashes.under_way.take_if(|under_way| *under_way == index);
        let hash = hash?;
        let newest = self.hashes.newest.as_mut().filter(|newest| newest.index == index)?;
        newest.own = Some(hash);
        if let Some(agreed) = newest.agreed {
            return self.compare(index, agreed);
        }
        if self.leader().is_some() {
            self.on_hash(self.id(), index, hash, round);
        } else if let Some(leader) = self.group.leader()
            && let Some(to) = self.member(leader).copied()
        {
            let mut envelope = self.empty_envelope(to);
            envelope.extra_ctx = Word::Hash(index, hash).encode();
            round.effects.send_now.push(envelope);
        }
        None
    }

    fn on_word(&mut self, from: PeerId, word: Word, round: &mut Round<'_>) {
        match word {
            Word::Hash(index, hash) => self.on_hash(from, index, hash, round),
            Word::Quarantined => {
                if let Some(leader) = self.leader_mut()
                    && leader.quarantined.insert(from)
                {
                    leader.heartbeat_due = true;
                }
            }
        }
    }

    /// A replica has told its hash.
    fn on_hash(&mut self, from: PeerId, index: u64, hash: RegionHash, round: &mut Round<'_>) {
        let is_member = region::peer_by_id(&self.region, from).is_some();
        if let Some(leader) = self.leader_mut()
            && let Some(check) = &mut leader.check
            && check.index == index
            && is_member
        {
            check.told.insert(from, hash);
            self.judge(round);
        }
    }

    /// Proposes the hash that a quorum has told, if one has.
    fn judge(&mut self, _round: &mut Round<'_>) {
        let Some(check) = self.leader().and_then(|leader| leader.check.as_ref()) else { return };
        let says = |voter: PeerId, hash: &RegionHash| check.told.get(&voter) == Some(hash);
        let agreed = check
            .told
            .values()
            .find(|hash| self.voters.is_quorum(|voter| says(voter, hash)))
            .copied();
        let have_all_told = self.voters.all().all(|voter| check.told.contains_key(&voter));
        let first = check.told.values().next();
        let are_comparable =
            check.told.values().all(|hash| first.is_some_and(|first| hash.is_comparable(first)));
        let index = check.index;
        match agreed {
            // Refused while leadership moves: then this check is over soon.
            Some(hash) => {
                let verify = Command::VerifyHash { index, hash };
                if self.group.propose(verify.encode()).is_err() {
                    return;
                }
            }
            // Some have heard of a new safe point, and some have not: nothing can be compared.
            None if have_all_told && !are_comparable => {
                tracing::debug!(region = %self.region_id(), at = index, told = ?check.told,
                    "the replicas' safe points differ: the check comes to nothing");
            }
            None if have_all_told => {
                tracing::error!(region = %self.region_id(), at = index, told = ?check.told,
                    "the replicas differ, and no majority of them is the same");
            }
            None => return,
        }
        if let Some(leader) = self.leader_mut() {
            leader.check = None;
        }
    }

    /// `VerifyHash` was applied. Returns what is to be recorded when this replica is the odd one.
    pub(crate) fn on_hash_agreed(&mut self, index: u64, agreed: RegionHash) -> Option<Quarantine> {
        let newest = self.hashes.newest.as_mut().filter(|newest| newest.index == index)?;
        newest.agreed = Some(agreed);
        self.compare(index, agreed)
    }

    fn compare(&mut self, index: u64, agreed: RegionHash) -> Option<Quarantine> {
        let own = self.hashes.newest.as_ref()?.own?;
        let hashed = self.hashes.newest.take()?;
        let is_of_this_region = hashed.version == region::epoch(&self.region).version;
        let peer_id = self.id();
        let is_odd = own != agreed && own.is_comparable(&agreed);
        (is_odd && is_of_this_region).then_some(Quarantine { peer_id, index, own, agreed })
    }

    /// In quarantine: asks now and then whether it was removed meanwhile.
    pub(crate) fn tick_quarantined(&mut self, round: &mut Round<'_>) {
        self.leaderless_ticks += 1;
        if self.leaderless_ticks.is_multiple_of(round.config.leader_missing_ticks) {
            self.ask_whether_stale(round);
            let (region, peer) = (self.region.clone(), self.meta);
            round.effects.reports.push(Report::ValidatePeer { region, peer });
        }
    }
}

impl<D: DataEngine, L: LogEngine> Store<D, L> {
    /// Somebody asks whether all replicas of a region are the same.
    pub(crate) fn on_check_consistency(
        &mut self,
        region_id: RegionId,
        reply: ReplyId,
        now: Now,
        effects: &mut Effects,
    ) {
        self.wake(region_id, Cause::Wanted, now);
        let is_there =
            |peer: &&mut Box<Peer<L>>| peer.phase == Phase::Serving && peer.is_initialized();
        if let Some(peer) = self.peers.get_mut(&region_id).filter(is_there) {
            let mut round = Round { config: &self.config, now, effects };
            peer.check_consistency(Some(reply), &mut round);
            self.touched.insert(region_id);
        } else {
            let refusal = Refusal::RegionNotFound { region_id: region_id.0 };
            effects.replies.push((reply, Err(refusal)));
        }
    }

    /// A hash that was due is computed.
    pub(crate) fn on_hash_computed(
        &mut self,
        (region_id, peer_id): (RegionId, PeerId),
        index: u64,
        hash: Option<RegionHash>,
        now: Now,
        effects: &mut Effects,
    ) {
        self.wake(region_id, Cause::Wanted, now);
        let is_its =
            |peer: &&mut Box<Peer<L>>| peer.id() == peer_id && peer.phase != Phase::Quarantined;
        let Some(peer) = self.peers.get_mut(&region_id).filter(is_its) else { return };
        let mut round = Round { config: &self.config, now, effects };
        let odd = peer.on_hash_computed(index, hash, &mut round);
        self.touched.insert(region_id);
        if let Some(odd) = odd {
            self.quarantine(region_id, odd, now, effects);
        }
    }

    /// Takes a message about checks, and all that comes to a peer in quarantine. Returns whether it was one.
    pub(crate) fn on_check_message(
        &mut self,
        message: &RaftMessage,
        from: &metapb::Peer,
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        let region_id = RegionId(message.region_id);
        let Some(peer) = self.peers.get_mut(&region_id) else { return false };
        if peer.phase == Phase::Quarantined {
            if message.message.is_some() {
                let mut envelope = peer.empty_envelope(*from);
                envelope.extra_ctx = Word::Quarantined.encode();
                effects.send_now.push(envelope);
            }
            return true;
        }
        let Some(word) = Word::decode(&message.extra_ctx) else { return false };
        let mut round = Round { config: &self.config, now, effects };
        peer.on_word(PeerId(from.id), word, &mut round);
        self.touched.insert(region_id);
        true
    }

    /// The replica here is the odd one: it stops.
    pub(crate) fn quarantine(
        &mut self,
        region_id: RegionId,
        odd: Quarantine,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        if peer.phase != Phase::Serving {
            return;
        }
        tracing::error!(
            store = %self.id, region = %region::Readable(&peer.region), peer = %peer.id(),
            at = odd.index, own = %odd.own, agreed = %odd.agreed,
            "the data of a replica differ from those of a majority: it is put into quarantine"
        );
        if let Some(term) = peer.leader().map(|leader| leader.term) {
            let region = peer.region.clone();
            effects.reports.push(Report::LeaderChanged { region, term, is_leader: false });
        }
        let mut round = Round { config: &self.config, now, effects };
        peer.refuse_everybody(&mut round);
        peer.role = Role::Follower;
        effects.apply.push(ApplyTask::Quarantine { region_id, odd });
        self.set_aside(region_id);
        self.want_sync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: RegionHash = RegionHash { crc: 7, keys: 8, bytes: 9, safe_point: 10 };

    #[test]
    fn words_come_back_as_they_were_said() {
        for word in [Word::Hash(12, HASH), Word::Quarantined] {
            assert_eq!(Word::decode(&word.encode()), Some(word));
        }
        for noise in [&b""[..], b"\x01short", b"\x02more", b"\x03"] {
            assert_eq!(Word::decode(noise), None);
        }
    }
}
