//! The embeddable cluster.
