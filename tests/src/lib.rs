//! The cluster under observation: simulator, checkers, labs, end-to-end.
