//! The framework by itself.
