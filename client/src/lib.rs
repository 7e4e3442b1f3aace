//! One call, somewhere in the cluster: raw and transactional.
