//! Bytes of locks, commit records and raw values.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kv::fuzzing::records(input));
