//! Which path the bytes took: what the kernel counted against what was asked for.

use std::path::Path;

use forebay_store::{Ladder, Object, Step};
use serde::Serialize;

use crate::workload::{Engine, Workload};

/// `/proc/self/io`: bytes that this process caused the storage layer to move.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) read: u64,
    pub(crate) written: u64,
}

impl Counters {
    /// As they stand now, of all threads; `None` where the kernel does not count.
    pub(crate) fn now() -> Option<Self> {
        parse(&std::fs::read_to_string("/proc/self/io").ok()?)
    }
}

fn parse(text: &str) -> Option<Counters> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(Counters { read: of("read_bytes:")?, written: of("write_bytes:")? })
}

/// The path that the bytes of a benchmark took.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// What moved them: "uring", "threads", "mmap".
    pub engine: &'static str,
    /// With what registered: "uring, registered".
    pub set_up: String,
    /// Share of the bytes that went past the page cache, as far as the kernel counts it.
    pub direct_share: f64,
    /// Share of the bytes that the device moved, cached or not; of reads alone if any.
    pub device_share: f64,
    /// Share of the bytes that took the path asked for.
    pub asked_share: f64,
    /// Bytes asked for, warm-up included.
    pub requested_bytes: u64,
    /// Bytes that the kernel counted at the device.
    pub device_bytes: u64,
    /// What the target lies on.
    pub file_system: String,
    /// What direct I/O must be aligned to, if the file system says so.
    pub direct_alignment: Option<u64>,
    /// What limits this proof here.
    pub caveats: Vec<String>,
    /// Rungs of the ladder that were tried.
    #[serde(skip)]
    pub steps: Vec<Step>,
}

impl Proof {
    /// All bytes took the path asked for, and the kernel confirms it.
    pub fn is_as_asked(&self) -> bool {
        self.asked_share > 0.9999
    }
}

/// What was moved, and what the kernel counted meanwhile.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) counted: Option<Counters>,
}

impl Moved {
    pub(crate) fn add(&mut self, read: u64, written: u64, delta: Option<Counters>) {
        self.read += read;
        self.written += written;
        self.counted = match (self.counted, delta) {
            (Some(sum), Some(more)) => {
                Some(Counters { read: sum.read + more.read, written: sum.written + more.written })
            }
            (None, more) => more,
            (sum, None) => sum,
        };
    }
}

/// Judges a benchmark: a pure function of what was asked, opened, moved and counted.
pub(crate) fn judge(
    workload: &Workload,
    ladder: Option<&Ladder>,
    object: &Object,
    file_system: &str,
    moved: Moved,
) -> Proof {
    let alignment = object.direct();
    let counted = moved.counted.unwrap_or_default();
    let share = |part: u64, whole: u64| match whole {
        0 => 1.0,
        _ => (part as f64 / whole as f64).min(1.0),
    };
    let device = counted.read.min(moved.read) + counted.written.min(moved.written);
    let requested = moved.read + moved.written;
    // Writes into the page cache count as writes to the device, so only reads tell.
    let device_share = if moved.read > 0 {
        share(counted.read, moved.read)
    } else {
        share(counted.written, moved.written)
    };
    let direct_share = if alignment.is_some() { share(device, requested) } else { 0.0 };

    let engine = ladder.map_or("mmap", |ladder| ladder.won.name());
    let engine_as_asked = workload.engine == Engine::Auto || workload.engine.name() == engine;
    let path_share = if workload.direct { direct_share } else { 1.0 };
    let asked_share = if engine_as_asked { path_share } else { 0.0 };

    let mut caveats = Vec::new();
    if moved.counted.is_none() {
        caveats.push("this kernel does not count I/O of processes: nothing is proven".into());
    }
    if workload.direct && alignment.is_none() {
        caveats.push(format!("{file_system} has no direct I/O: the page cache was used"));
    }
    if let Some(alignment) = alignment
        && !alignment.reported
    {
        caveats.push(format!(
            "{file_system} takes O_DIRECT but does not report its alignment: it may cache all the same"
        ));
    }
    if counts_nothing(file_system) {
        caveats.push(format!(
            "the kernel counts no device bytes for {file_system}: a share of 0 is no proof of anything"
        ));
    }
    Proof {
        engine,
        set_up: ladder.map_or_else(|| "mmap".into(), Ladder::summary),
        direct_share,
        device_share,
        asked_share,
        requested_bytes: requested,
        device_bytes: device,
        file_system: file_system.into(),
        direct_alignment: alignment.filter(|a| a.reported).map(|a| a.offset),
        caveats,
        steps: ladder.map_or_else(Vec::new, |ladder| ladder.steps.clone()),
    }
}

/// File systems whose transfers do not pass the block layer of this machine.
fn counts_nothing(file_system: &str) -> bool {
    let remote = ["tmpfs", "fuse", "nfs", "ceph", "lustre", "cifs", "smb2", "9p", "beegfs"];
    remote.iter().any(|name| file_system.starts_with(name))
}

/// Name of the file system that holds `path`, from the mount table: "ext4", "fuse.juicefs".
pub fn file_system(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let wanted = std::fs::metadata(path).map(|m| m.dev());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Ok(device) = wanted else { return "unknown".into() };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    find_mount(&table, &format!("{major}:{minor}")).unwrap_or("unknown").into()
}

/// Fields of a line: id parent major:minor root mount options… - type source options.
fn find_mount<'a>(table: &'a str, device: &str) -> Option<&'a str> {
    let line = table.lines().find(|line| line.split(' ').nth(2) == Some(device))?;
    line.split(" - ").nth(1)?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Pattern;
    use forebay_store::{Access, Direct};

    #[test]
    fn the_kernels_counters_are_read() {
        let text = "rchar: 10\nwchar: 20\nsyscr: 1\nsyscw: 2\nread_bytes: 4096\nwrite_bytes: 8192\n\
                    cancelled_write_bytes: 5\n";
        let counters = parse(text).unwrap();
        assert_eq!((counters.read, counters.written), (4096, 8192));
        assert!(parse("rchar: 1\n").is_none());
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        let table = "22 1 254:0 / / rw shared:1 - ext4 /dev/root rw\n\
                     30 22 0:26 / /mnt/j rw - fuse.juicefs JuiceFS:j rw\n";
        assert_eq!(find_mount(table, "0:26"), Some("fuse.juicefs"));
        assert_eq!(find_mount(table, "9:9"), None);
    }

    fn judged(direct: bool, opened: Direct, read: u64, counted: u64) -> Proof {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("target");
        std::fs::write(&path, [0; 4096]).unwrap();
        let object = Object::open(&path, Access::Read, opened).unwrap();
        let workload = Workload { direct, ..crate::workload::tests::workload(Pattern::Random, 1) };
        let counted = Some(Counters { read: counted, written: 0 });
        judge(&workload, None, &object, "ext4", Moved { read, written: 0, counted })
    }

    #[test]
    fn direct_was_asked_and_the_page_cache_answered() {
        let path = judged(true, Direct::Off, 1 << 20, 0);
        assert_eq!((path.direct_share, path.asked_share), (0.0, 0.0));
        assert!(!path.is_as_asked() && path.caveats[0].contains("page cache"), "{path:?}");
    }

    #[test]
    fn direct_was_asked_and_half_of_the_bytes_are_missing_at_the_device() {
        let path = judged(true, Direct::Try, 1 << 20, 1 << 19);
        if path.direct_alignment.is_none() {
            eprintln!("skipped: no direct I/O where the tests are");
            return;
        }
        assert!((path.direct_share - 0.5).abs() < 1e-9 && !path.is_as_asked(), "{path:?}");
        assert!(judged(true, Direct::Try, 1 << 20, 1 << 20).is_as_asked());
    }

    #[test]
    fn a_warm_cache_is_seen_and_is_what_was_asked_for() {
        let path = judged(false, Direct::Off, 1 << 20, 0);
        assert_eq!((path.device_share, path.direct_share, path.asked_share), (0.0, 0.0, 1.0));
    }
}
