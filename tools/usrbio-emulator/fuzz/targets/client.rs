//! A client that writes garbage into shared memory, against the emulator.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| usrbio_emulator::hostile_client(data));
