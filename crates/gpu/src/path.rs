//! Which way bytes take to a device: chosen by trying, told with its reason, never assumed.
//!
//! ```text
//! gds     storage ─▶ device            libcufile, and its own count says that nothing stopped over
//! pinned  storage ─▶ page-locked slot ─▶ device
//! host    storage ─▶ pageable slot ─▶ device
//! ```
//! libcufile spins for ever where `/proc/modules` is missing and may crash where a driver is half
//! there, so a child tries it first, with a deadline.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forebay_store::{Access, Direct, Object};
use serde::{Deserialize, Serialize};

use crate::cufile::{self, CuFile, Proof};
use crate::{Device, Error, Result};

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By cuFile, without a stop in memory of the host.
    Gds,
    /// Over slots that are page-locked and registered with the ring.
    Pinned,
    /// Over pageable memory.
    Host,
}

impl Way {
    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gds => "gds",
            Self::Pinned => "pinned",
            Self::Host => "host",
        }
    }
}

/// The way that was chosen, and why no better one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IoPath {
    /// Which.
    pub way: Way,
    /// One sentence.
    pub reason: String,
    /// What libcufile counted in the self-test.
    pub proof: Option<Proof>,
}

impl std::fmt::Display for IoPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.way.name(), self.reason)
    }
}

/// How to start a child that runs [`self_test`] with a file and the number of a device as its last
/// two arguments. Empty: there is none, and gds is never chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prober {
    /// Program and first arguments.
    pub command: Vec<OsString>,
}

/// How long a self-test may take: starting CUDA takes a second where there are many devices.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a self-test found, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Version of libcufile.
    pub version: i32,
    /// How far it came.
    pub stage: String,
    /// Its count.
    pub proof: Proof,
    /// Were the bytes those of the file?
    pub equal: bool,
}

/// Bytes of a self-test.
const TEST_BYTES: u64 = 1 << 20;

/// Chooses a way for the files of the file system that `file` lies on.
///
/// * `wish` — a way that must be, or `None` for the best that works.
///
/// Cost: asking libcufile takes a child and about a second, once for each call; where a look at the
/// machine already says no, nothing.
///
/// # Errors
/// [`Error::Wrong`] if gds is wished for and the self-test says no.
pub fn choose(wish: Option<Way>, device: &Device, file: &Path, prober: &Prober) -> Result<IoPath> {
    let asked = match wish {
        Some(Way::Pinned | Way::Host) => Err("asked for".to_owned()),
        Some(Way::Gds) => ask(prober, file, device.ordinal(), DEADLINE),
        None => match veto(file) {
            Some(why) => Err(why),
            None => ask(prober, file, device.ordinal(), DEADLINE),
        },
    };
    match (asked, wish) {
        (Ok(proof), _) => {
            let (way, reason) = (Way::Gds, proof.verdict());
            Ok(IoPath { way, reason, proof: Some(proof) })
        }
        (Err(why), Some(Way::Gds)) => Err(Error::wrong("path", "gds", format!("none: {why}"))),
        (Err(why), Some(Way::Host)) => Ok(IoPath { way: Way::Host, reason: why, proof: None }),
        (Err(why), _) => match device.pinned(4096, 1) {
            Ok(_) => Ok(IoPath { way: Way::Pinned, reason: why, proof: None }),
            Err(error) => {
                let reason = format!("{why}; {error}");
                Ok(IoPath { way: Way::Host, reason, proof: None })
            }
        },
    }
}

/// Why libcufile need not be asked, seen from outside.
fn veto(file: &Path) -> Option<String> {
    if !Path::new("/proc/modules").exists() {
        return Some("not asked for gds: libcufile hangs without /proc/modules".into());
    }
    if let Some(disk) = disk_of(file)
        && (disk.starts_with("vd") || disk.starts_with("xvd") || disk.starts_with("loop"))
    {
        return Some(format!("no gds: the disk {disk} is no PCI device beside the GPU"));
    }
    if !cufile::is_here() {
        return Some("no gds: libcufile.so.0 is not here".into());
    }
    None
}

/// Name of the block device under a file: "nvme0n1p1".
fn disk_of(file: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(file).ok()?.dev();
    // As the C library splits it.
    let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
    let minor = device & 0xff | (device >> 12) & !0xff;
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Has a child try; says why it did not work.
fn ask(
    prober: &Prober,
    file: &Path,
    ordinal: i32,
    deadline: Duration,
) -> std::result::Result<Proof, String> {
    let Some((program, arguments)) = prober.command.split_first() else {
        return Err("no gds: there is no way to start a self-test".into());
    };
    let mut command = Command::new(program);
    command.args(arguments).arg(file).arg(ordinal.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("no gds: the self-test: {e}"))?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if start.elapsed() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => break None,
        }
    };
    if status.is_none() {
        // Spinning in libcufile, it takes no other signal.
        let _ = child.kill();
        let _ = child.wait();
    }
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        let _ = out.read_to_string(&mut text);
    }
    let told = text.lines().rev().find_map(|line| serde_json::from_str::<SelfTest>(line).ok());
    let stage = told.as_ref().map_or("before its start", |told| &told.stage);
    match (status, &told) {
        (None, _) => {
            let seconds = deadline.as_secs_f64();
            Err(format!("no gds: libcufile hung for {seconds:.1} s ({stage})"))
        }
        (Some(status), _) if !status.success() => {
            Err(format!("no gds: the self-test ended with {status} ({stage})"))
        }
        (_, Some(told)) if told.proof.is_direct() && told.equal => Ok(told.proof),
        (_, Some(told)) if told.proof.is_direct() => {
            Err("no gds: its bytes are not those of the file".into())
        }
        (_, Some(told)) => Err(format!("no gds: {}", told.proof.verdict())),
        (_, None) => Err("no gds: the self-test said nothing".into()),
    }
}

/// Reads a MiB of `file` by libcufile, compares it, and prints what was counted after each stage.
/// To be called in a child of its own: it may hang or crash.
///
/// # Errors
/// Whatever does not work, told on stdout before as the stage.
pub fn self_test(file: &Path, ordinal: u32) -> Result<()> {
    let mut told = SelfTest {
        version: 0,
        stage: "starting CUDA".into(),
        proof: Proof::default(),
        equal: false,
    };
    let tell = |told: &SelfTest| {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        if let Ok(line) = serde_json::to_string(told) {
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    };
    tell(&told);
    let device = Device::open(ordinal)?;
    let bound = device.bind()?;
    let stage = |told: &mut SelfTest, stage: &str| {
        told.stage = stage.into();
        tell(told);
    };
    stage(&mut told, "opening libcufile");
    let library = CuFile::open()?;
    told.version = library.version();
    stage(&mut told, "registering the file");
    let object = Object::open(file, Access::Read, Direct::Try)?;
    let bytes = object.size().min(TEST_BYTES) / 4096 * 4096;
    if bytes == 0 {
        return Err(Error::wrong("bytes of a self-test", 4096, object.size()));
    }
    let descriptor = object.file().and_then(|file| file.try_clone().ok());
    let descriptor = descriptor.ok_or_else(|| Error::absent("a descriptor", "too many files"))?;
    let handle = library.file(descriptor)?;
    stage(&mut told, "registering device memory");
    let memory = device.alloc(bytes as usize)?;
    // SAFETY: `memory` outlives the registration, which is declared after it.
    let registered = unsafe { library.memory(memory.whole())? };
    stage(&mut told, "reading");
    let before = library.proof()?;
    // SAFETY: the memory is ours alone.
    unsafe { handle.read(0, memory.whole())? };
    told.proof = library.proof()?.since(&before);
    let stream = device.stream()?;
    let found = device.fetch(memory.whole(), &stream)?;
    told.equal = found == forebay_store::File::open(file)?.read(0, bytes as usize)?;
    drop((registered, handle, bound));
    stage(&mut told, "done");
    Ok(())
}

/// A file to test with: the largest of those that are to be read.
pub fn largest(files: &[PathBuf]) -> Option<&PathBuf> {
    files.iter().max_by_key(|file| std::fs::metadata(file).map_or(0, |m| m.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Prober {
        Prober { command: ["sh", "-c", script, "probe"].map(OsString::from).to_vec() }
    }

    fn told(proof: &str, equal: bool) -> String {
        format!(
            "echo '{{\"version\":1140,\"stage\":\"done\",\"proof\":{proof},\"equal\":{equal}}}'"
        )
    }

    #[test]
    fn only_a_proven_path_is_direct() {
        let ask = |script: &str| {
            super::ask(&shell(script), Path::new("/"), 0, Duration::from_millis(300))
        };
        let direct = "{\"total\":1,\"p2p\":1,\"nvfs\":0,\"posix\":0,\"unaligned\":0}";
        let compat = "{\"total\":1,\"p2p\":0,\"nvfs\":0,\"posix\":1,\"unaligned\":0}";
        assert!(ask(&told(direct, true)).unwrap().is_direct());
        assert!(ask(&told(direct, false)).unwrap_err().contains("not those of the file"));
        assert_eq!(ask(&told(compat, true)).unwrap_err(), "no gds: GPU-direct: no (posix 1/1)");
        assert!(ask("exit 3").unwrap_err().contains("ended with"));
        assert!(ask("kill -SEGV $$").unwrap_err().contains("ended with"));
        assert!(ask("true").unwrap_err().contains("said nothing"));
        let none = super::ask(&Prober::default(), Path::new("/"), 0, DEADLINE);
        assert!(none.unwrap_err().contains("no way to start"));
    }

    #[test]
    fn a_hang_ends_at_the_deadline_and_says_where() {
        let start = Instant::now();
        let script = format!(
            "{}; while :; do :; done",
            told("{\"total\":0,\"p2p\":0,\"nvfs\":0,\"posix\":0,\"unaligned\":0}", false)
        );
        let why = super::ask(&shell(&script), Path::new("/"), 0, Duration::from_millis(400));
        let why = why.unwrap_err();
        assert!(why.contains("hung for 0.4 s (done)"), "{why}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
