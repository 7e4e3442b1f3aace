//! A store full of replicas.
