//! A daemon that writes garbage into shared memory, against the ring of our client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_store::usrbio::hostile_daemon(data));
