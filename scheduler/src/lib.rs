//! The cluster's eye and hand: placement, timestamps, ids.
