//! Reads through rings, with watchers that do jobs themselves and with workers that do.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use usrbio_emulator::{Emulator, Options};

#[test]
fn jobs_are_done_with_and_without_workers() {
    if let Some(why) = usrbio_emulator::unavailable() {
        eprintln!("skipped: {why}");
        return;
    }
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 1000) as u8).collect();
    for workers in [0, 1, 3] {
        let home = tempfile::tempdir().unwrap();
        let options = Options { workers, ..Options::default() };
        let Ok(emulator) = Emulator::mount(home.path(), &options) else {
            eprintln!("skipped: the emulator cannot mount here");
            return;
        };
        let path = emulator.path().join("data");
        std::fs::write(&path, &bytes).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (path, bytes) = (&path, &bytes);
                scope.spawn(move || {
                    let file = forebay_store::File::open(path).unwrap();
                    for n in 0..20 {
                        let at = (thread * 911 + n * 7919 * 17) % 2_000_000;
                        let found = file.read(at as u64, 700_000).unwrap();
                        assert!(found == bytes[at..at + 700_000], "{workers} workers, at {at}");
                    }
                });
            }
        });
        // Each thread has rings of its own: it was not FUSE that answered.
        assert!(emulator.transfers() > 60, "{} transfers", emulator.transfers());
    }
}

#[test]
fn a_daemon_without_room_for_rings_is_not_asked_at_every_read() {
    if let Some(why) = usrbio_emulator::unavailable() {
        eprintln!("skipped: {why}");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let options = Options { iov_limit: 0, ..Options::default() };
    let Ok(emulator) = Emulator::mount(home.path(), &options) else {
        eprintln!("skipped: the emulator cannot mount here");
        return;
    };
    let path = emulator.path().join("data");
    std::fs::write(&path, vec![7; 1_000_000]).unwrap();
    let file = forebay_store::File::open(&path).unwrap();
    for at in 0..200 {
        assert_eq!(file.read(at * 4000, 4000).unwrap(), vec![7; 4000]);
    }
    assert_eq!(emulator.transfers(), 0, "it was FUSE that answered");
    let refused = emulator.refused();
    assert!((1..20).contains(&refused), "{refused} times asked for a buffer");
}
