//! Transactions whose requests are lost, late, doubled and out of order, against a model.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kv::fuzzing::stories(input));
