#![doc = include_str!("../README.md")]

/// The wire types and services, generated from `protos/`.
#[allow(missing_docs, unreachable_pub, clippy::all, non_camel_case_types)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub mod id;
pub mod key;
pub mod memcomparable;
pub mod refusal;
pub mod region;
pub mod timestamp;

pub use id::{Index, PeerId, RegionId, StoreId, Term};
pub use key::KeyRange;
pub use refusal::Refusal;
pub use timestamp::Timestamp;
pub use wire::{
    coprocessor, deadlock, debugpb, disk_usage, eraftpb, errorpb, etcdserverpb, keyspacepb,
    kvrpcpb, meta_storagepb, metapb, mvccpb, pdpb, raft_serverpb, replication_modepb, schedulerpb,
    tikvpb,
};

/// The serialised `FileDescriptorSet` of everything declared in `protos/`, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
