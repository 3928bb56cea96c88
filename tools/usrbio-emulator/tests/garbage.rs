//! A client that writes anything into its shared memory harms itself alone.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use forebay_store::usrbio::{Id, Mount, Ring, RingKind, RingLayout, ring_key};
use usrbio_emulator::{Emulator, Options};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[test]
fn garbage_in_a_ring_stays_there() {
    if let Some(why) = usrbio_emulator::unavailable() {
        eprintln!("skipped: {why}");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let Ok(emulator) = Emulator::mount(home.path(), &Options::default()) else {
        eprintln!("skipped: the emulator cannot mount here");
        return;
    };
    let path = emulator.path().join("data");
    std::fs::write(&path, vec![7; 100_000]).unwrap();

    // A ring made by hand, so that its file can be written at will.
    let mut random = Random(8);
    let (id, layout) = (Id::random().unwrap(), RingLayout::of(8));
    let shm = Path::new("/dev/shm").join(format!("hf3fs-iov-{id}"));
    let mut options = OpenOptions::new();
    let memory = options.read(true).write(true).create_new(true).open(&shm).unwrap();
    memory.set_len(layout.file_bytes() as u64).unwrap();
    let kind = RingKind { for_read: true, io_depth: 0, priority: 0, timeout_ms: 0, flags: 0 };
    let registered = symlink(&shm, emulator.path().join("3fs-virt/iovs").join(ring_key(id, &kind)));
    std::fs::remove_file(&shm).unwrap();
    registered.unwrap();
    // The semaphore wakes the daemon for all rings.
    let mount = Mount::at(emulator.path()).unwrap();
    let bell = Ring::create(&mount, 1, kind, None).unwrap();
    for round in 0..600_u64 {
        let (at, value) = match round % 3 {
            // Indices in and out of range, slots, arguments, completions.
            0 => (4 * (random.next() % 4), random.next() % 12),
            1 => (4 * (random.next() % 4), random.next()),
            _ => (random.next() % (layout.file_bytes() as u64 - 4200), random.next()),
        };
        memory.write_all_at(&(value as u32).to_le_bytes(), at).unwrap();
        bell.submit();
        if round % 20 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // The daemon serves others as before.
    let start = Instant::now();
    let mut bytes = vec![0; 100_000];
    forebay_store::File::open(&path).unwrap().read_at(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&b| b == 7) && start.elapsed() < Duration::from_secs(20));
}
