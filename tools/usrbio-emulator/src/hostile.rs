//! A client that writes anything into the memory that it shares: for tests and for `fuzz`.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use crate::faults::Faults;
use crate::key::RingKey;
use crate::ring::Ring;
use crate::shared::{Shared, Submits};
use crate::tree::{Data, Kind, ROOT};
use crate::watch::Daemon;

const CHUNK_BYTES: u64 = 256;
const IOV_BYTES: u64 = 4096;
const SLOTS: usize = 5;
const RING_BYTES: usize = 16 + 96 * SLOTS + 32 + 4096;
const NAME: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// A daemon with a file and a buffer, and memory for a ring that its client has too.
struct Stage {
    daemon: Daemon,
    inode: u64,
    ring: File,
    iov: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.iov);
    }
}

fn shm(bytes: u64) -> io::Result<(File, PathBuf)> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let path = Path::new("/dev/shm").join(format!("hf3fs-iov-{}", uuid.trim()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(bytes)?;
    Ok((file, path))
}

impl Stage {
    fn set() -> io::Result<Self> {
        let daemon = Daemon::new(Submits::create()?, CHUNK_BYTES, 0, Faults::default());
        let refuse = io::Error::from_raw_os_error;
        let data = Kind::File(RwLock::new(Data::default()));
        let node = daemon.tree.make(ROOT, OsStr::new("data"), data, 0o644, (0, 0));
        let node = node.map_err(refuse)?;
        node.about().looked_up = 1;
        let (_, iov) = shm(IOV_BYTES)?;
        let registered = daemon.table().register(NAME, &iov, (0, 0, 1), 10).map(|_| ());
        let (ring, name) = shm(RING_BYTES as u64)?;
        std::fs::remove_file(name)?;
        registered.map_err(refuse)?;
        Ok(Self { daemon, inode: node.ino, ring, iov })
    }

    /// The ring's memory once more, as another process would map it.
    fn ring(&self) -> io::Result<Shared> {
        Shared::open(Path::new(&format!("/proc/self/fd/{}", self.ring.as_raw_fd())))
    }
}

thread_local! {
    static STAGE: io::Result<Stage> = Stage::set();
}

/// Plays what `data` tells. No panic, no job larger than the ring, no answer but one a submission.
///
/// # Panics
/// If the daemon did something that it must not.
#[cfg_attr(test, expect(unreachable_pub, reason = "public where it is fuzzed"))]
pub fn hostile_client(data: &[u8]) {
    STAGE.with(|stage| {
        let stage = stage.as_ref().expect("memory in /dev/shm");
        play(stage, data).expect("the ring can be mapped");
    });
}

fn play(stage: &Stage, data: &[u8]) -> io::Result<()> {
    let mut data = data.iter().copied();
    let mut number = |bytes: u32| {
        let mut next = || data.next().map(u64::from);
        (0..bytes).try_fold(0, |all, _| Some(all << 8 | next()?))
    };
    let client = stage.ring()?;
    client.clear(0, RING_BYTES);
    let Some(kind) = number(1) else { return Ok(()) };
    let key = RingKey {
        for_read: kind % 4 != 0,
        io_depth: (kind / 4 % 9) as i32 - 4,
        lane: 1,
        timeout_ms: kind / 128,
        flags: kind / 64 % 2 * 2,
    };
    let ring = Arc::new(Ring::new(stage.ring()?, key).expect("the depth fits"));
    if let Some(mut data) = stage.daemon.tree.get(stage.inode).as_ref().and_then(|n| n.data_mut()) {
        data.truncate(CHUNK_BYTES, 0);
        data.write(CHUNK_BYTES, 100, &[7; 1000]);
    }
    let mut answered = 0;
    while let Some(what) = number(1) {
        match what % 8 {
            0 => {
                let (Some(at), Some(value)) = (number(2), number(4)) else { break };
                let word = client.word32(at as usize % (RING_BYTES / 4) * 4);
                word.store(value as i32, Ordering::Release);
            }
            1 => {
                let (Some(at), Some(value)) = (number(1), number(1)) else { break };
                client.word32(at as usize % 4 * 4).store(value as i32 % 8, Ordering::Release);
            }
            2 | 3 => {
                // What a client may ask, with numbers near the borders.
                let (Some(slot), Some(at), Some(offset), Some(length)) =
                    (number(1), number(2), number(2), number(2))
                else {
                    break;
                };
                let slot = slot as usize % SLOTS;
                let mut id = [0; 16];
                id.copy_from_slice(&crate::parse(NAME).map(|key| key.id).unwrap_or_default());
                let words = [
                    u64::from_le_bytes(id[..8].try_into().unwrap_or_default()),
                    u64::from_le_bytes(id[8..].try_into().unwrap_or_default()),
                    at % (IOV_BYTES + 2),
                    stage.inode,
                    if offset < 0xff00 {
                        offset % 3000
                    } else {
                        (i64::MAX as u64) - (offset & 0xff)
                    },
                    length % (IOV_BYTES + 2),
                    what,
                ];
                for (n, word) in words.into_iter().enumerate() {
                    client.word64(16 + 56 * slot + 8 * n).store(word, Ordering::Relaxed);
                }
                let head = client.word32(0).load(Ordering::Relaxed) as usize % SLOTS;
                let sqe = 16 + 80 * SLOTS + 16 * head;
                client.word64(sqe).store(slot as u64, Ordering::Relaxed);
                client.word32(0).store(((head + 1) % SLOTS) as i32, Ordering::Release);
            }
            4 => {
                // All answers are taken.
                let head = client.word32(8).load(Ordering::Acquire);
                client.word32(12).store(head, Ordering::Release);
            }
            _ => {
                for job in ring.take() {
                    assert!(!job.slots.is_empty() && job.slots.len() < SLOTS, "{job:?}");
                    answered += job.slots.len();
                    stage.daemon.run(&job);
                    let head = client.word32(8).load(Ordering::Acquire) as usize;
                    // Only the daemon's own count moves it, whatever the client wrote there.
                    assert_eq!(head, answered % SLOTS);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_stage_reads_and_writes_what_it_is_told() {
    // Kind 21: a read ring of depth 1 - enough to see that the walk below reaches transfers.
    hostile_client(&[0x15, 2, 1, 0, 0, 0, 100, 0, 50, 5]);
    STAGE.with(|stage| {
        let client = stage.as_ref().unwrap().ring().unwrap();
        let cqe = 16 + 56 * SLOTS;
        assert_eq!(client.word64(cqe).load(Ordering::Relaxed), 1, "slot");
        assert_eq!(client.word64(cqe + 8).load(Ordering::Relaxed), 50, "bytes");
        assert_eq!(client.word64(cqe + 16).load(Ordering::Relaxed), 2, "user data");
    });
}

#[cfg(test)]
proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_hostile_client_harms_itself_alone(
        data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
    ) {
        hostile_client(&data);
    }
}
