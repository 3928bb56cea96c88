//! The bytes that client and daemon share: files of rings, names of entries, numbers of ioctls.
//!
//! ```text
//! 0   sqHead i32   client: next submission to write      8   cqHead i32   daemon: next completion
//! 4   sqTail i32   daemon: submissions done with        12   cqTail i32   client: completions taken
//! 16          args[E]  56 B  iov id 16 | iov offset | inode | file offset | length | user data
//! 16 + 56 E   cqe[E]   24 B  index i32 | 0 | result i64 | user data
//! 16 + 80 E   sqe[E]   16 B  index i32 | 0 | user data
//! 16 + 96 E   sem      32 B  posted by the daemon once a finished job; then 4 KiB of nothing
//! ```
//!
//! E is one more than the usable entries; an index that meets the other is empty, one before it full.

use std::fmt::Write as _;

const HEADER_BYTES: usize = 16;
const ARGS_BYTES: usize = 56;
const CQE_BYTES: usize = 24;
const SQE_BYTES: usize = 16;
const SEMAPHORE_BYTES: usize = 32;
const SLACK_BYTES: usize = 4096;

/// Offsets of the four indices.
pub(crate) const SQ_HEAD: usize = 0;
pub(crate) const SQ_TAIL: usize = 4;
pub(crate) const CQ_HEAD: usize = 8;
pub(crate) const CQ_TAIL: usize = 12;

/// Where everything of a ring lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    /// One more than the usable entries.
    slots: usize,
}

impl RingLayout {
    /// A ring of `entries` usable entries.
    pub fn of(entries: usize) -> Self {
        Self { slots: entries + 1 }
    }

    /// The ring in a file of `bytes`, as its reader counts; `None` if it holds no entry.
    pub fn in_file(bytes: usize) -> Option<Self> {
        let rest = bytes.checked_sub(SLACK_BYTES + HEADER_BYTES + SEMAPHORE_BYTES)?;
        let slots = rest / (ARGS_BYTES + CQE_BYTES + SQE_BYTES);
        (slots >= 2).then_some(Self { slots })
    }

    /// Size of the file.
    pub fn file_bytes(self) -> usize {
        self.semaphore() + SEMAPHORE_BYTES + SLACK_BYTES
    }

    /// Usable entries.
    pub fn entries(self) -> usize {
        self.slots - 1
    }

    /// Length of the circles that the indices run on.
    pub fn slots(self) -> usize {
        self.slots
    }

    pub(crate) fn args(self, index: usize) -> usize {
        HEADER_BYTES + ARGS_BYTES * index
    }

    pub(crate) fn cqe(self, index: usize) -> usize {
        self.args(self.slots) + CQE_BYTES * index
    }

    pub(crate) fn sqe(self, index: usize) -> usize {
        self.cqe(self.slots) + SQE_BYTES * index
    }

    pub(crate) fn semaphore(self) -> usize {
        self.sqe(self.slots)
    }

    /// The place after `index`.
    pub(crate) fn after(self, index: usize) -> usize {
        if index + 1 == self.slots { 0 } else { index + 1 }
    }
}

/// Identity of an iov or ring: 16 bytes in the order of their text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// A random one (version 4).
    ///
    /// # Errors
    /// If the kernel gives no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }

    /// From 36 characters with hyphens; `None` if they are no such thing.
    pub fn parse(text: &str) -> Option<Self> {
        let hyphens = [8, 13, 18, 23];
        let fits = text.len() == 36
            && text.bytes().enumerate().all(|(n, b)| match hyphens.contains(&n) {
                true => b == b'-',
                false => b.is_ascii_hexdigit(),
            });
        if !fits {
            return None;
        }
        let digits: String = text.chars().filter(|&c| c != '-').collect();
        let mut bytes = [0; 16];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            if matches!(n, 4 | 6 | 8 | 10) {
                f.write_char('-')?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// What the daemon is told about a ring, in the name of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingKind {
    /// Reads only, or writes only.
    pub for_read: bool,
    /// 0: all that is there is one job; n: jobs of exactly n; -n: jobs of at most n.
    pub io_depth: i32,
    /// Below zero served first, above zero last.
    pub priority: i32,
    /// How long the daemon may wait for a job to fill, in milliseconds.
    pub timeout_ms: u32,
    /// 1: reads may see what is not committed; 2: a hole in a read is `ENODATA`.
    pub flags: u64,
}

/// A hole in a read is an error.
pub const FORBID_READ_HOLES: u64 = 2;
/// Reads may see what storage has not committed.
pub const ALLOW_READ_UNCOMMITTED: u64 = 1;

/// Name of the entry of a buffer.
pub fn iov_key(id: Id, block_bytes: usize) -> String {
    match block_bytes {
        0 => id.to_string(),
        bytes => format!("{id}.b{bytes}"),
    }
}

/// Name of the entry of a ring. The timeout is always there: a daemon falls over without it.
pub fn ring_key(id: Id, kind: &RingKind) -> String {
    let mut key = format!("{id}.{}{}", if kind.for_read { 'r' } else { 'w' }, kind.io_depth);
    match kind.priority {
        0 => {}
        p if p < 0 => key.push_str(".ph"),
        _ => key.push_str(".pl"),
    }
    let _ = write!(key, ".t{}", kind.timeout_ms);
    if kind.flags != 0 {
        // In binary digits, as a daemon reads them.
        let _ = write!(key, ".f{:b}", kind.flags);
    }
    key
}

/// Name of the link to the semaphore that wakes the daemon, by priority: high, normal, low.
pub(crate) const SUBMIT_LINKS: [&str; 3] = ["submit-ios.ph", "submit-ios", "submit-ios.pl"];

/// Which of [`SUBMIT_LINKS`].
pub(crate) fn lane(priority: i32) -> usize {
    (priority.signum() + 1) as usize
}

/// What the ioctl [`Ioctl::MAGIC`] answers on a 3FS.
pub const MAGIC: u32 = 0x8f3f_5fff;

/// Numbers of the ioctls that every file and directory of the mount answers.
#[derive(Debug)]
pub enum Ioctl {}

impl Ioctl {
    /// Cluster id, 32 bytes.
    pub const MOUNT_NAME: u32 = request(READ, 0, 32);
    /// Length of the path of the mount point.
    pub const PATH_OFFSET: u32 = request(READ, 1, 4);
    /// [`MAGIC`].
    pub const MAGIC: u32 = request(READ, 2, 4);
    /// 1.
    pub const VERSION: u32 = request(READ, 3, 4);
    /// Removes this directory with all below it.
    pub const REMOVE_ALL: u32 = request(READ, 10, 4);
    /// Makes the visible length exact and forgets what the kernel has cached.
    pub const FSYNC: u32 = request(READ, 11, 4);
    /// Parent inode and name of another link to this file.
    pub const HARDLINK: u32 = request(WRITE, 12, 264);
    /// Ranges to free.
    pub const PUNCH_HOLE: u32 = request(WRITE, 13, 16_016);
    /// Rename by inodes.
    pub const MOVE: u32 = request(WRITE, 14, 536);
    /// Remove by inode and name.
    pub const REMOVE: u32 = request(WRITE, 15, 272);
}

const WRITE: u32 = 1;
const READ: u32 = 2;

const fn request(direction: u32, number: u32, bytes: u32) -> u32 {
    direction << 30 | bytes << 16 | (b'h' as u32) << 8 | number
}

/// Cuts a transfer where it may not run on: at the ends of blocks in the buffer (`EINVAL`
/// otherwise) and of chunks in the file (so that a large one is several jobs).
/// Returns lengths. `block` and `chunk` of zero do not cut.
pub(crate) fn pieces(
    mut in_iov: u64,
    mut in_file: u64,
    mut length: u64,
    block: u64,
    chunk: u64,
) -> impl Iterator<Item = u64> {
    let until = |at: u64, grain: u64| if grain == 0 { u64::MAX } else { grain - at % grain };
    std::iter::from_fn(move || {
        if length == 0 {
            return None;
        }
        let piece = length.min(until(in_iov, block)).min(until(in_file, chunk));
        (in_iov, in_file, length) = (in_iov + piece, in_file + piece, length - piece);
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_of_rings_have_the_sizes_of_the_contract() {
        for (entries, bytes) in
            [(1, 4336), (2, 4432), (8, 5008), (64, 10_384), (100, 13_840), (1024, 102_544)]
        {
            let layout = RingLayout::of(entries);
            assert_eq!(layout.file_bytes(), bytes, "{entries} entries");
            assert_eq!(RingLayout::in_file(bytes), Some(layout));
            assert_eq!(RingLayout::in_file(bytes + 95), Some(layout), "a larger file");
        }
        assert_eq!(RingLayout::in_file(4335), None);
    }

    #[test]
    fn a_ring_of_two_lies_as_the_contract_says() {
        let ring = RingLayout::of(2);
        assert_eq!([ring.args(0), ring.args(1), ring.args(2)], [16, 72, 128]);
        assert_eq!([ring.cqe(0), ring.cqe(2)], [16 + 56 * 3, 16 + 56 * 3 + 48]);
        assert_eq!([ring.sqe(0), ring.sqe(1)], [16 + 80 * 3, 16 + 80 * 3 + 16]);
        assert_eq!(ring.semaphore(), 16 + 96 * 3);
        assert_eq!([ring.after(0), ring.after(1), ring.after(2)], [1, 2, 0]);
    }

    #[test]
    fn names_of_entries_are_those_that_daemons_know() {
        let id = Id([0x0f; 16]);
        let text = "0f0f0f0f-0f0f-0f0f-0f0f-0f0f0f0f0f0f";
        assert_eq!((id.to_string().as_str(), Id::parse(text)), (text, Some(id)));
        assert_eq!(iov_key(id, 0), text);
        assert_eq!(iov_key(id, 1 << 20), format!("{text}.b1048576"));
        let kind = RingKind { for_read: true, io_depth: 0, priority: 0, timeout_ms: 0, flags: 0 };
        let key = |kind: RingKind| ring_key(id, &kind).strip_prefix(text).unwrap().to_owned();
        assert_eq!(key(kind), ".r0.t0");
        assert_eq!(
            key(RingKind { for_read: false, priority: 1, timeout_ms: 5, ..kind }),
            ".w0.pl.t5"
        );
        assert_eq!(
            key(RingKind { io_depth: -4, timeout_ms: 100, flags: 2, ..kind }),
            ".r-4.t100.f10"
        );
        assert_eq!(key(RingKind { priority: -3, ..kind }), ".r0.ph.t0");
    }

    #[test]
    fn ioctls_have_the_numbers_of_the_contract() {
        let numbers = [
            (Ioctl::MOUNT_NAME, 0x8020_6800),
            (Ioctl::PATH_OFFSET, 0x8004_6801),
            (Ioctl::MAGIC, 0x8004_6802),
            (Ioctl::VERSION, 0x8004_6803),
            (Ioctl::REMOVE_ALL, 0x8004_680a),
            (Ioctl::FSYNC, 0x8004_680b),
            (Ioctl::HARDLINK, 0x4108_680c),
            (Ioctl::PUNCH_HOLE, 0x7e90_680d),
            (Ioctl::MOVE, 0x4218_680e),
            (Ioctl::REMOVE, 0x4110_680f),
        ];
        for (ours, theirs) in numbers {
            assert_eq!(ours, theirs, "{ours:#x} against {theirs:#x}");
        }
    }

    proptest! {
        #[test]
        fn an_id_is_read_back_and_is_the_only_form(bytes: [u8; 16], noise in "\\PC{0,40}") {
            prop_assert_eq!(Id::parse(&Id(bytes).to_string()), Some(Id(bytes)));
            if let Some(id) = Id::parse(&noise) {
                prop_assert_eq!(id.to_string(), noise.to_lowercase());
            }
        }

        #[test]
        fn pieces_cover_a_transfer_and_cross_nothing(
            iov in 0_u64..10_000, file in 0_u64..10_000, length in 0_u64..5000,
            block in prop_oneof![Just(0), 1_u64..700], chunk in prop_oneof![Just(0), 1_u64..700],
        ) {
            let mut done = 0;
            for piece in pieces(iov, file, length, block, chunk) {
                prop_assert!(piece > 0);
                for (at, grain) in [(iov + done, block), (file + done, chunk)] {
                    let same = grain == 0 || at / grain == (at + piece - 1) / grain;
                    prop_assert!(same, "{at} + {piece} crosses {grain}");
                }
                done += piece;
            }
            prop_assert_eq!(done, length);
        }
    }
}
