//! Keys keep their order in every encoding.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kv::fuzzing::keys(input));
