//! Parts of tools/compare/usrbio.py that want no queue.
//!
//! `usrbio_probe prepare FILE ROUNDS`: what it costs to prepare an operation, nanoseconds, one a
//! line. `usrbio_probe pread FILE BYTES SECONDS`: a loop of `pread` at random blocks past the page
//! cache; reads a second, and microseconds of CPU a read. `usrbio_probe compare FILE`: all of it
//! through rings against all of it through FUSE. FILE lies on a 3FS and has 4 MiB or more.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use forebay_store::Arena;
use forebay_store::usrbio::{Entry, Iov, IovOptions, Mount, Ring, RingKind};

const BATCH: usize = 1024;
const BYTES: u64 = 4096;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["prepare", file, rounds] => prepare(Path::new(file), rounds.parse().expect("a number")),
        ["pread", file, bytes, seconds] => {
            let seconds = Duration::from_secs_f64(seconds.parse().expect("seconds"));
            pread(Path::new(file), bytes.parse().expect("bytes"), seconds);
        }
        ["compare", file] => compare(Path::new(file)),
        _ => panic!(
            "usage: usrbio_probe prepare FILE ROUNDS | pread FILE BYTES SECONDS | compare FILE"
        ),
    }
}

#[expect(unsafe_code, reason = "entries of a ring are")]
fn prepare(path: &Path, rounds: usize) {
    let mount = Mount::of(path).expect("a mount that answers").expect("a path on a 3FS");
    let iov = Iov::create(&mount, BATCH * BYTES as usize, IovOptions::default()).expect("an iov");
    let kind = RingKind { for_read: true, io_depth: 0, priority: 0, timeout_ms: 0, flags: 0 };
    let ring = Ring::create(&mount, BATCH, kind, None).expect("a ring");
    let file = std::fs::File::open(path).expect("a file");
    let (inode, iov_id) = (file.metadata().expect("its inode").ino(), iov.id());
    for _ in 0..rounds {
        let start = Instant::now();
        for n in 0..BATCH as u64 {
            let (iov_offset, offset, user_data) = (n * BYTES, n * BYTES, n);
            let entry = Entry { iov: iov_id, iov_offset, inode, offset, length: BYTES, user_data };
            // SAFETY: nobody looks at the bytes of this iov, which lives until the end.
            let slot = unsafe { ring.prepare(&entry) };
            assert!(matches!(slot, Ok(Some(_))), "{slot:?}");
        }
        let took = start.elapsed();
        ring.submit();
        let deadline = Some(Instant::now() + Duration::from_secs(20));
        let mut moved = 0;
        let count = ring.wait(BATCH, BATCH, deadline, |done| moved += done.result);
        assert_eq!((count.expect("a daemon"), moved), (BATCH, (BATCH as u64 * BYTES) as i64));
        println!("{:.2}", took.as_nanos() as f64 / BATCH as f64);
    }
}

fn pread(path: &Path, bytes: usize, time: Duration) {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(direct).open(path).expect("a file");
    let blocks = file.metadata().expect("its length").len() / bytes as u64;
    let arena = Arena::new(bytes, 1).expect("memory");
    let mut buffer = arena.lend().expect("the one there is");
    let cpu = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let (start, before, mut count, mut state) = (Instant::now(), cpu(), 0_u64, 1_u64);
    while start.elapsed() < time {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = (state >> 33) % blocks * bytes as u64;
        file.read_exact_at(&mut buffer[..bytes], offset).expect("bytes");
        count += 1;
    }
    let took = start.elapsed().as_secs_f64();
    println!("{:.1} {:.4}", count as f64 / took, (cpu() - before) * 1e6 / count as f64);
}

fn compare(path: &Path) {
    assert!(Mount::of(path).expect("a mount that answers").is_some(), "no 3FS");
    let file = forebay_store::File::open(path).expect("a file");
    let found = file.read(0, file.size() as usize).expect("bytes");
    assert!(found == std::fs::read(path).expect("bytes"), "the rings and FUSE differ");
    println!("{} bytes, the same through rings and FUSE", found.len());
}
