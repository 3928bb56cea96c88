//! What a 3FS needs of a machine, and what its clients left on it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::control::{cluster_id, mount_facts};
use super::mount::{Mount, mount_point};
use super::shared::SHM;
use super::{Iov, IovOptions};
use crate::fs::doctor::{Check, check};
use crate::{Error, Result};

/// Shared memory below this fills up with the buffers of one loader.
const ROOM_BYTES: u64 = 1 << 30;

/// Names this young may belong to a client that is about to register them.
const GRACE: Duration = Duration::from_secs(60);

/// Tries what rings need, if `path` lies on a 3FS; nothing elsewhere.
pub fn examine(path: &Path) -> Vec<Check> {
    let Some(root) = mount_point(path) else { return Vec::new() };
    let name = |what: &str| format!("3FS {what}");
    let mut checks = Vec::new();
    let shown = root.display();
    match File::open(&root).and_then(|file| Ok((cluster_id(&file)?, mount_facts(&file)?))) {
        Ok((cluster, (length, version))) => {
            let found = format!("{cluster} at {shown}, ioctl version {version}");
            let same = length as usize == root.as_os_str().len();
            let advice = "the daemon sees the mount under another path: mount it there too, so \
                          that paths mean the same on both sides";
            checks.push(check(&name("mount"), same, found, advice));
        }
        Err(error) => {
            let advice = "the daemon is older than these ioctls, or gone: look at its log";
            checks.push(check(&name("mount"), false, error.to_string(), advice));
        }
    }
    checks.push(room());
    let limit = getrlimit(Resource::Memlock).current;
    let told = limit.map_or("unlimited".to_owned(), |n| n.to_string());
    let advice = "raise `ulimit -l` of the daemon too: it pins the buffers for its network cards";
    checks.push(check(&name("memory to pin"), limit.is_none_or(|n| n >= 64 << 20), told, advice));
    let files = getrlimit(Resource::Nofile).maximum;
    let told = files.map_or("unlimited".to_owned(), |n| n.to_string());
    let advice = "libraries of others take memory for each descriptor that may be: lower the hard \
                  limit (`ulimit -Hn 1048576`), or use ours";
    checks.push(check(&name("open files"), files.is_some_and(|n| n <= 1 << 24), told, advice));
    match register(&root) {
        Ok(()) => {
            checks.push(check(&name("rings"), true, "semaphores open, a buffer registered", ""));
        }
        Err(error) => {
            let why = std::error::Error::source(&error).map_or(String::new(), |e| format!(": {e}"));
            let advice = "client and daemon must share /dev/shm: in containers mount that of the \
                          host (`-v /dev/shm:/dev/shm`, `hostIPC: true`)";
            checks.push(check(&name("rings"), false, format!("{error}{why}"), advice));
        }
    }
    checks
}

/// What every client does first: the semaphores, then a buffer that the daemon must find.
fn register(root: &Path) -> Result<()> {
    let mount = Mount::at(root)?;
    Iov::create(&mount, 4096, IovOptions::default()).map(drop)
}

fn room() -> Check {
    let found =
        rustix::fs::statvfs(SHM).map(|s| (s.f_bavail * s.f_frsize, s.f_blocks * s.f_frsize));
    let (is_fine, told) = match found {
        Ok((free, all)) => {
            (free >= ROOM_BYTES, format!("{} MiB of {} MiB free", free >> 20, all >> 20))
        }
        Err(error) => (false, error.to_string()),
    };
    let advice =
        "give /dev/shm more: `mount -o remount,size=16G /dev/shm`, `docker run --shm-size`";
    check("3FS /dev/shm", is_fine, told, advice)
}

/// A name in `/dev/shm` whose memory no process of this machine has mapped or open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Where.
    pub path: PathBuf,
    /// How much memory it holds.
    pub bytes: u64,
    inode: u64,
}

impl Orphan {
    /// Removes the name, if it still is the one that was found.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be.
    pub fn remove(&self) -> Result<bool> {
        if !fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            return Ok(false);
        }
        fs::remove_file(&self.path).map_err(|e| Error::io("remove", &self.path, e))?;
        Ok(true)
    }
}

/// What killed clients and daemons left: buffers and semaphores that nobody has any more.
///
/// Only as good as the view of `/proc`: run it as root and outside of containers, or processes of
/// others are missed. Names younger than a minute are left alone. Cost: the maps of every process.
///
/// # Errors
/// [`Error::Io`] if `/dev/shm` or `/proc` cannot be read, or processes of others cannot.
pub fn orphans() -> Result<Vec<Orphan>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(SHM).map_err(|e| Error::io("list", Path::new(SHM), e))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with("hf3fs-iov-") || name.starts_with("sem.hf3fs-submit-ios.");
        let Ok(about) = entry.metadata() else { continue };
        let age = about.modified().ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if ours && about.is_file() && age.is_some_and(|age| age >= GRACE) {
            let (path, bytes) = (entry.path(), about.blocks() * 512);
            found.push((about.dev(), Orphan { path, bytes, inode: about.ino() }));
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let used = inodes_in_use()?;
    found.retain(|(device, orphan)| !used.contains(&(*device, orphan.inode)));
    let mut orphans: Vec<Orphan> = found.into_iter().map(|(_, orphan)| orphan).collect();
    orphans.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(orphans)
}

/// Device and inode of everything mapped or open.
fn inodes_in_use() -> Result<HashSet<(u64, u64)>> {
    let proc = Path::new("/proc");
    let mut used = HashSet::new();
    for entry in fs::read_dir(proc).map_err(|e| Error::io("list", proc, e))?.flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let maps = entry.path().join("maps");
        match fs::read_to_string(&maps) {
            Ok(text) => used.extend(text.lines().filter_map(mapped)),
            // It ended meanwhile.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound) => continue,
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => continue,
            // Who cannot be looked into may hold anything: rather no answer than a wrong one.
            Err(e) => return Err(Error::io("read", &maps, e)),
        }
        for fd in fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
            if let Ok(about) = fs::metadata(fd.path()) {
                used.insert((about.dev(), about.ino()));
            }
        }
    }
    Ok(used)
}

/// Device and inode of a line of `maps`: range, rights, offset, major:minor, inode, path.
fn mapped(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let inode = fields.next()?.parse().ok().filter(|&inode: &u64| inode > 0)?;
    Some((rustix::fs::makedev(number(major)?, number(minor)?), inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_or_open_is_in_use_and_what_is_left_is_found() {
        let path = Path::new(SHM).join(format!("hf3fs-iov-test-{}", std::process::id()));
        let old = SystemTime::now() - 2 * GRACE;
        let mine = |all: Vec<Orphan>| all.into_iter().find(|o| o.path == path);
        let file = File::create_new(&path).unwrap();
        file.set_len(4096).unwrap();
        file.set_modified(old).unwrap();
        if let Err(error) = orphans() {
            eprintln!("skipped: not all processes can be looked into: {error}");
            return fs::remove_file(&path).unwrap();
        }
        assert_eq!(mine(orphans().unwrap()), None, "open");
        let map = super::super::shared::Shared::open(&path, 4096).unwrap();
        drop(file);
        assert_eq!(mine(orphans().unwrap()), None, "mapped");
        drop(map);
        let orphan = mine(orphans().unwrap()).expect("nobody has it");
        assert!(orphan.remove().unwrap() && !path.exists());
        assert!(!orphan.remove().unwrap(), "it is gone");
    }

    #[test]
    fn a_line_of_maps_names_its_inode() {
        let line = "7f0000000000-7f0000001000 rw-s 00000000 00:1c 77   /dev/shm/a (deleted)";
        assert_eq!(mapped(line), Some((rustix::fs::makedev(0, 0x1c), 77)));
        assert_eq!(mapped("7f00-7f01 rw-p 00000000 00:00 0 [heap]"), None);
    }
}
