//! Requests of every kind, answered whatever they say.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kv::fuzzing::requests(input));
