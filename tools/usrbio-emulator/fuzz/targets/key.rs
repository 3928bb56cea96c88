//! Names of entries, as any client may write them: read, or refused with an errno of two.
#![no_main]

use usrbio_emulator::parse;

libfuzzer_sys::fuzz_target!(|name: &str| {
    match parse(name) {
        Ok(key) => {
            // What was understood, written down as clients do, is understood the same.
            let hex: String = key.id.iter().map(|byte| format!("{byte:02x}")).collect();
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            let mut text = parts.join("-");
            if let Some(bytes) = key.block_bytes {
                text += &format!(".b{bytes}");
            }
            if let Some(ring) = &key.ring {
                text += if ring.for_read { ".r" } else { ".w" };
                text += &format!("{}{}", ring.io_depth, [".ph", "", ".pl"][ring.lane]);
                text += &format!(".t{}.f{:b}", ring.timeout_ms, ring.flags);
            }
            assert_eq!(parse(&text), Ok(key), "{text}");
        }
        // EIO for the id, EINVAL for the rest.
        Err(code) => assert!(code == 5 || code == 22, "{code}"),
    }
});
