//! Who the members are: answered by every one of them, leader or not.

use proto::{etcdserverpb, pdpb, schedulerpb};

use super::{Service, VERSION, answer};
use crate::server::node::Node;

/// A member in PD's words.
pub(crate) fn member_of(member: schedulerpb::Member) -> pdpb::Member {
    pdpb::Member {
        name: member.name,
        member_id: member.member_id,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        binary_version: VERSION.into(),
        leader_priority: member.leader_priority,
        ..Default::default()
    }
}

/// The members and their leader. No leader: none is known, or it does not serve yet; ask again.
pub(crate) fn members(node: &Node) -> pdpb::GetMembersResponse {
    let leader = node.leader().map(member_of);
    pdpb::GetMembersResponse {
        header: None,
        members: node.members().into_iter().map(member_of).collect(),
        leader: leader.clone(),
        etcd_leader: leader,
        ..Default::default()
    }
}

impl Service {
    /// Never checks the caller's cluster id: this is how the caller learns it.
    pub(super) fn get_members(&self) -> pdpb::GetMembersResponse {
        answer(self.node.cluster_id(), Ok(members(&self.node)))
    }

    /// Everything is served by this process.
    pub(super) fn get_cluster_info(&self) -> pdpb::GetClusterInfoResponse {
        let modes = pdpb::GetClusterInfoResponse {
            service_modes: vec![pdpb::ServiceMode::PdSvcMode.into()],
            ..Default::default()
        };
        answer(self.node.cluster_id(), Ok(modes))
    }

    /// The member list as etcd's clients expect it. They replace their endpoints by it, so members
    /// that have not said yet where clients reach them are left out.
    pub(super) fn member_list(&self) -> etcdserverpb::MemberListResponse {
        let members =
            self.node.members().into_iter().filter(|member| !member.client_urls.is_empty());
        etcdserverpb::MemberListResponse {
            header: Some(self.etcd_header()),
            members: members
                .map(|member| etcdserverpb::Member {
                    id: member.member_id,
                    name: member.name,
                    peer_ur_ls: member.peer_urls,
                    client_ur_ls: member.client_urls,
                    is_learner: member.is_learner,
                })
                .collect(),
        }
    }

    /// The header of every answer in etcd's words.
    pub(super) fn etcd_header(&self) -> etcdserverpb::ResponseHeader {
        let revision = self.node.state.read().index();
        self.etcd_header_at(revision)
    }

    /// The header of an answer that is true of this revision: whoever watches from the next one on
    /// misses nothing.
    pub(super) fn etcd_header_at(&self, revision: u64) -> etcdserverpb::ResponseHeader {
        let state = self.node.state.read();
        etcdserverpb::ResponseHeader {
            cluster_id: state.cluster_id(),
            member_id: self.node.member_id,
            revision: i64::try_from(revision).unwrap_or(i64::MAX),
            raft_term: state.term(),
        }
    }
}
