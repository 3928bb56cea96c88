//! What works on this machine, and what to change.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::layout::layout;
use crate::{Arena, Engine, Options, Queue};

/// One thing that was tried.
#[derive(Debug, Clone)]
pub struct Check {
    /// What.
    pub name: String,
    /// It is as good as it gets.
    pub is_fine: bool,
    /// What was found.
    pub found: String,
    /// What to change; empty if nothing.
    pub advice: String,
}

pub(crate) fn check(name: &str, is_fine: bool, found: impl Into<String>, advice: &str) -> Check {
    let advice = if is_fine { String::new() } else { advice.into() };
    Check { name: name.into(), is_fine, found: found.into(), advice }
}

/// Tries everything; `paths` are places whose storage is looked at.
pub fn examine(paths: &[&Path]) -> Vec<Check> {
    let mut checks = vec![kernel()];
    checks.extend(rings());
    checks.extend(limits());
    checks.push(huge_pages());
    checks.extend(paths.iter().map(|path| storage(path)));
    checks.extend(paths.iter().flat_map(|path| crate::usrbio::examine(path)));
    checks.extend(devices());
    checks
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kernel() -> Check {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let advice = "6.1 and later have deferred task work and tell the alignment of direct I/O";
    check("kernel", version >= (6, 1), release, advice)
}

fn rings() -> Vec<Check> {
    let mut checks = Vec::new();
    let arena = Arena::new(1 << 20, 16).ok();
    match Queue::open(&Options { depth: 32, engine: Engine::Auto, arena }) {
        Err(error) => {
            checks.push(check(
                "queue",
                false,
                error.to_string(),
                "raise `ulimit -u` and `ulimit -v`",
            ));
        }
        Ok(queue) => {
            for step in &queue.ladder().steps {
                let advice = match step.what {
                    "io_uring" => {
                        "allow io_uring_setup, io_uring_enter and io_uring_register in the \
                         container's seccomp profile, and set kernel.io_uring_disabled=0; \
                         meanwhile threads are used"
                    }
                    "registered buffers" => "raise `ulimit -l` (LimitMEMLOCK of a service)",
                    _ => "nothing: it works without, a little slower",
                };
                checks.push(check(step.what, step.works, &step.detail, advice));
            }
            checks.push(check("queue", true, queue.ladder().summary(), ""));
        }
    }
    checks
}

fn limits() -> [Check; 2] {
    let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
    let pinned = getrlimit(Resource::Memlock).current;
    let files = getrlimit(Resource::Nofile).current;
    [
        check(
            "memory to pin",
            pinned.is_none_or(|bytes| bytes >= 64 << 20),
            shown(pinned),
            "raise `ulimit -l` to 64 MiB or more, else buffers are pinned at every transfer \
             (root may pin regardless)",
        ),
        check(
            "open files",
            files.is_none_or(|n| n >= 4096),
            shown(files),
            "raise it: `ulimit -n 1000000`",
        ),
    ]
}

fn huge_pages() -> Check {
    let transparent = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let reserved = read("/proc/sys/vm/nr_hugepages");
    let fine = reserved != "0" || !(transparent.is_empty() || transparent.contains("[never]"));
    let found = format!("{reserved} reserved, transparent: {transparent}");
    let advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    check("huge pages", fine, found, advice)
}

fn storage(path: &Path) -> Check {
    let name = format!("direct I/O in {}", path.display());
    match probe(path) {
        Err(error) => check(&name, false, error.to_string(), "give a directory to write in"),
        Ok((file_system, direct)) => match direct {
            Some(needs) if needs.reported => check(
                &name,
                true,
                format!("{file_system}, multiples of {} bytes", needs.offset),
                "",
            ),
            Some(_) => check(
                &name,
                false,
                format!("{file_system} takes the flag but does not say what it does with it"),
                "prove it: `forebay bench storage --direct --require-path`",
            ),
            None => check(
                &name,
                false,
                format!("{file_system} has none"),
                "everything goes through the page cache there: fine for small data",
            ),
        },
    }
}

/// Tries a file of its own, since what holds for a directory is not told.
fn probe(path: &Path) -> crate::Result<(String, Option<crate::Alignment>)> {
    if !path.is_dir() {
        let found = layout(path)?;
        return Ok((found.file_system, found.direct));
    }
    let place = path.join(format!(".forebay-doctor-{}", std::process::id()));
    crate::publish_bytes(&place, &[0; 4096])?;
    let found = layout(&place);
    let _ = fs::remove_file(&place);
    let found = found?;
    Ok((found.file_system, found.direct))
}

fn devices() -> Vec<Check> {
    let exists = |path: &str| Path::new(path).exists();
    let library = |name: &str| {
        let own = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let usual = "/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu:/usr/lib64:/usr/lib:\
                     /usr/local/cuda/lib64:/usr/local/nvidia/lib64";
        let mut places = own.split(':').chain(usual.split(':')).filter(|p| !p.is_empty());
        places.find(|place| Path::new(place).join(name).exists()).map(str::to_owned)
    };
    let mounts = read("/proc/self/mountinfo");
    let has_3fs = mounts.lines().any(|line| line.contains("hf3fs"));
    let mut checks = vec![check(
        "FUSE",
        exists("/dev/fuse"),
        if exists("/dev/fuse") { "/dev/fuse" } else { "no /dev/fuse" },
        "only needed to mount file systems in user space: `modprobe fuse`",
    )];
    for (name, file, advice) in [
        ("CUDA", "libcuda.so.1", "only needed to read into GPUs: install the NVIDIA driver"),
        (
            "cuFile",
            "libcufile.so.0",
            "only needed for GPUDirect Storage: install nvidia-fs and cuFile",
        ),
    ] {
        let found = library(file);
        let told = found.clone().unwrap_or_else(|| format!("no {file}"));
        checks.push(check(name, found.is_some(), told, advice));
    }
    let found = if has_3fs { "mounted" } else { "no mount" };
    checks.push(check("3FS", has_3fs, found, "only needed where a 3FS is: mount it"));
    checks
}
