//! A file system in user space whose disk is going: bytes that cannot be read, a file that shrinks.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request,
};

use super::Tally;
use super::copy::{Options, copy};
use crate::{Access, Arena, Direct, Engine, Error, Object, Op, Queue};

const MIB: u64 = 1 << 20;

/// Of the byte that cannot be read, and where the file ends that claims to be longer.
const BREAK: u64 = 5 * MIB;

/// Name, claimed length.
const FILES: [(&str, u64); 4] =
    [("bad", 9 * MIB), ("good", 9 * MIB), ("shrinks", 9 * MIB), ("small and bad", 10_000)];

/// A directory that cannot be listed.
const UNLISTED: (&str, u64) = ("unlisted", 6);

const NOW: Duration = Duration::ZERO;

#[derive(Default)]
struct Broken {
    /// It is seen only by reading.
    has_shrunk: AtomicBool,
    failed_reads: Arc<AtomicU64>,
}

impl Broken {
    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let size = match ino {
            1 | 6 => 0,
            n => FILES.get(n as usize - 2)?.1,
        };
        let has_shrunk = ino == 4 && self.has_shrunk.load(Ordering::Relaxed);
        let size = if has_shrunk { BREAK } else { size };
        let (kind, perm) =
            if size == 0 { (FileType::Directory, 0o755) } else { (FileType::RegularFile, 0o644) };
        let (atime, mtime, ctime, crtime) = (UNIX_EPOCH, UNIX_EPOCH, UNIX_EPOCH, UNIX_EPOCH);
        let (nlink, uid, gid, rdev, blksize, flags) = (1, 0, 0, 0, 4096, 0);
        let (ino, blocks) = (INodeNo(ino), size.div_ceil(512));
        #[rustfmt::skip]
        let attr = FileAttr {
            ino, size, blocks, atime, mtime, ctime, crtime, kind, perm, nlink, uid, gid, rdev, blksize, flags,
        };
        Some(attr)
    }
}

/// What every readable byte is.
fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Filesystem for Broken {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut names = FILES.iter().chain([&UNLISTED]);
        let place = names.position(|(known, _)| name == *known);
        match place.and_then(|place| self.attr(place as u64 + 2)) {
            Some(attr) => reply.entry(&NOW, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Some(attr) => reply.attr(&NOW, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if ino.0 == UNLISTED.1 {
            return reply.error(Errno::EIO);
        }
        let names = FILES.iter().chain([&UNLISTED]).enumerate();
        for (n, (name, _)) in names.skip(offset as usize) {
            let kind = match *name {
                name if name == UNLISTED.0 => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(n as u64 + 2), n as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (name, length) = FILES[ino.0 as usize - 2];
        let mut end = (offset + u64::from(size)).min(length);
        let broken = (name == "bad" && (offset..end).contains(&BREAK)) || name == "small and bad";
        if broken {
            self.failed_reads.fetch_add(1, Ordering::Relaxed);
            return reply.error(Errno::EIO);
        }
        if name == "shrinks" && end > BREAK {
            self.has_shrunk.store(true, Ordering::Relaxed);
            end = BREAK;
        }
        let bytes: Vec<u8> = (offset.min(end)..end).map(byte).collect();
        reply.data(&bytes);
    }
}

struct Mounted {
    dir: tempfile::TempDir,
    session: Option<BackgroundSession>,
    failed_reads: Arc<AtomicU64>,
}

impl Mounted {
    fn new() -> Option<Self> {
        if let Some(why) = usrbio_emulator::unavailable() {
            eprintln!("skipped: {why}");
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let broken = Broken::default();
        let failed_reads = Arc::clone(&broken.failed_reads);
        match fuser::spawn_mount(broken, dir.path(), &fuser::Config::default()) {
            Ok(session) => Some(Self { dir, session: Some(session), failed_reads }),
            Err(e) => {
                eprintln!("skipped: cannot mount: {e}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("fusermount3");
        let _ = unmount.arg("-uz").arg(self.dir.path()).output();
        drop(self.session.take());
    }
}

#[test]
fn a_byte_that_cannot_be_read_is_told_with_its_place_on_every_engine() {
    let Some(mounted) = Mounted::new() else { return };
    let block = 64 << 10;
    for engine in [Engine::Uring, Engine::Threads] {
        for direct in [Direct::Off, Direct::Try] {
            let arena = Arena::new(block, 2).unwrap();
            let options = crate::Options { depth: 2, engine, arena: Some(arena.clone()) };
            let Ok(mut queue) = Queue::open(&options) else { continue };
            let path = mounted.path().join("bad");
            let object = queue.add(Arc::new(Object::open(&path, Access::Read, direct).unwrap()));
            for offset in [BREAK - block as u64, BREAK] {
                let (length, buffer) = (block, arena.lend().unwrap());
                let op = Op::Read;
                let request = crate::Request { tag: offset, op, object, offset, length, buffer };
                queue.prepare(request).unwrap();
            }
            let deadline = Some(Instant::now() + Duration::from_secs(30));
            let mut done = Vec::new();
            queue.wait(2, deadline, &mut done).unwrap();
            done.sort_by_key(|done| done.offset);
            assert_eq!(*done[0].result.as_ref().unwrap(), block);
            assert!(done[0].buffer.iter().zip(done[0].offset..).all(|(b, at)| *b == byte(at)));
            let error = done.pop().unwrap().result.unwrap_err();
            let Error::Transfer { object, offset: BREAK, source, .. } = &error else {
                panic!("{engine:?} {direct:?}: {error:?}");
            };
            assert!(object.ends_with("bad"), "{object}");
            assert_eq!(source.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        }
    }
    assert!(mounted.failed_reads.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_copy_names_what_a_bad_disk_does_not_give_and_publishes_none_of_it() {
    let Some(mounted) = Mounted::new() else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let to = dir.path().join("to");
    // What is in the target of a directory that cannot be listed is no left-over.
    std::fs::create_dir_all(to.join("unlisted")).unwrap();
    std::fs::write(to.join("unlisted/stays"), b"1").unwrap();
    std::fs::write(to.join("goes"), b"1").unwrap();
    let options = Options { threads: 4, verify: true, delete: true, checksum: false };
    let (tally, stop, start) = (Tally::default(), AtomicBool::new(false), Instant::now());
    let summary = copy(mounted.path(), &to, options, &tally, &stop).unwrap();
    assert_eq!((summary.copied, summary.verified, summary.deleted), (1, 1, 1));
    assert!(to.join("unlisted/stays").exists() && !to.join("goes").exists());
    let copied = std::fs::read(to.join("good")).unwrap();
    assert_eq!(copied.len() as u64, 9 * MIB);
    assert!(copied.iter().zip(0..).all(|(b, at)| *b == byte(at)));
    let failures = tally.take_failures();
    let told: Vec<String> = failures.iter().map(|f| f.error.to_string()).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    // The byte, or the start of the part that it lies in.
    let places = ["/bad at byte 5242880", "/bad at byte 4194304"];
    assert!(places.iter().any(|place| told[0].contains(place)), "{told:?}");
    // It ends there, or nothing came from there on, whichever the kernel told.
    assert!(told[1].contains("/shrinks") && told[1].contains("5242880"), "{told:?}");
    assert!(told[2].contains("small and bad at byte 0"), "{told:?}");
    assert!(told[3].contains("unlisted"), "{told:?}");
    for name in ["bad", "shrinks", "small and bad"] {
        assert!(!to.join(name).exists(), "{name} looks whole");
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}
