//! Files and directories in memory: chunks with holes between them, lengths that lag.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

/// Linux calls the root 1; 3FS itself 0.
pub(crate) const ROOT: u64 = 1;

/// An inode of the ordinary tree.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) ino: u64,
    pub(crate) kind: Kind,
    about: Mutex<About>,
}

#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    /// References that the kernel has: rings reach only inodes with some.
    pub(crate) looked_up: u64,
    pub(crate) modified: SystemTime,
}

#[derive(Debug)]
pub(crate) enum Kind {
    File(RwLock<Data>),
    Directory(RwLock<BTreeMap<OsString, Arc<Node>>>),
    Link(PathBuf),
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Data {
    chunks: BTreeMap<u64, Vec<u8>>,
    /// What a stat shows.
    pub(crate) length: u64,
    /// How far writes through rings went; shown only after a sync or close.
    pub(crate) hint: u64,
}

impl Node {
    pub(crate) fn about(&self) -> MutexGuard<'_, About> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn data(&self) -> Option<RwLockReadGuard<'_, Data>> {
        match &self.kind {
            Kind::File(data) => Some(data.read().unwrap_or_else(PoisonError::into_inner)),
            _ => None,
        }
    }

    pub(crate) fn data_mut(&self) -> Option<RwLockWriteGuard<'_, Data>> {
        match &self.kind {
            Kind::File(data) => Some(data.write().unwrap_or_else(PoisonError::into_inner)),
            _ => None,
        }
    }

    pub(crate) fn entries(&self) -> Option<RwLockReadGuard<'_, BTreeMap<OsString, Arc<Self>>>> {
        match &self.kind {
            Kind::Directory(all) => Some(all.read().unwrap_or_else(PoisonError::into_inner)),
            _ => None,
        }
    }

    pub(crate) fn entries_mut(
        &self,
    ) -> Option<RwLockWriteGuard<'_, BTreeMap<OsString, Arc<Self>>>> {
        match &self.kind {
            Kind::Directory(all) => Some(all.write().unwrap_or_else(PoisonError::into_inner)),
            _ => None,
        }
    }

    pub(crate) fn touch(&self) {
        self.about().modified = SystemTime::now();
    }
}

impl Data {
    /// Shows the pieces of `length` bytes from `offset` that exist; no byte outside of chunks.
    pub(crate) fn read(
        &self,
        chunk_bytes: u64,
        offset: u64,
        length: u64,
        mut each: impl FnMut(u64, &[u8]),
    ) {
        let Some(last) = length.checked_sub(1) else { return };
        let end = offset.saturating_add(last);
        for (number, chunk) in self.chunks.range(offset / chunk_bytes..=end / chunk_bytes) {
            let first = number * chunk_bytes;
            let from = offset.saturating_sub(first).min(chunk.len() as u64);
            let to = (end - first + 1).min(chunk.len() as u64);
            if from < to {
                each(first + from, &chunk[from as usize..to as usize]);
            }
        }
    }

    pub(crate) fn write(&mut self, chunk_bytes: u64, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (number, from) = (offset / chunk_bytes, (offset % chunk_bytes) as usize);
            let count = bytes.len().min(chunk_bytes as usize - from);
            let chunk = self.chunks.entry(number).or_default();
            if chunk.len() < from + count {
                chunk.resize(from + count, 0);
            }
            chunk[from..from + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            offset += count as u64;
        }
        self.hint = self.hint.max(offset);
    }

    /// What a sync or close does.
    pub(crate) fn settle(&mut self) {
        self.length = self.length.max(self.hint);
    }

    pub(crate) fn truncate(&mut self, chunk_bytes: u64, length: u64) {
        self.chunks.retain(|number, _| number * chunk_bytes < length);
        if let Some(mut last) = self.chunks.last_entry() {
            let keep = length - last.key() * chunk_bytes;
            let shorter = last.get().len().min(keep as usize);
            last.get_mut().truncate(shorter);
        }
        (self.length, self.hint) = (length, length);
    }

    /// Frees whole chunks.
    pub(crate) fn punch(&mut self, chunk_bytes: u64, start: u64, end: u64) {
        self.chunks.retain(|number, _| !(start..end).contains(&(number * chunk_bytes)));
    }
}

/// All inodes by number.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: RwLock<std::collections::HashMap<u64, Arc<Node>>>,
    next: Mutex<u64>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let tree = Self { nodes: RwLock::default(), next: Mutex::new(0x1000) };
        let root = Kind::Directory(RwLock::default());
        let node = tree.node(ROOT, root, 0o777, 0, 0);
        tree.nodes_mut().insert(ROOT, node);
        tree
    }

    fn nodes_mut(&self) -> RwLockWriteGuard<'_, std::collections::HashMap<u64, Arc<Node>>> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, ino: u64, kind: Kind, mode: u16, uid: u32, gid: u32) -> Arc<Node> {
        let modified = SystemTime::now();
        let about = About { mode, uid, gid, links: 1, looked_up: 0, modified };
        Arc::new(Node { ino, kind, about: Mutex::new(about) })
    }

    pub(crate) fn get(&self, ino: u64) -> Option<Arc<Node>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(&ino).cloned()
    }

    pub(crate) fn child(&self, parent: u64, name: &OsStr) -> Result<Arc<Node>, i32> {
        let parent = self.get(parent).ok_or(libc::ENOENT)?;
        parent.entries().ok_or(libc::ENOTDIR)?.get(name).cloned().ok_or(libc::ENOENT)
    }

    pub(crate) fn make(
        &self,
        parent: u64,
        name: &OsStr,
        kind: Kind,
        mode: u16,
        (uid, gid): (u32, u32),
    ) -> Result<Arc<Node>, i32> {
        let directory = self.get(parent).ok_or(libc::ENOENT)?;
        let mut entries = directory.entries_mut().ok_or(libc::ENOTDIR)?;
        if entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let ino = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let node = self.node(ino, kind, mode, uid, gid);
        entries.insert(name.into(), Arc::clone(&node));
        drop(entries);
        directory.touch();
        self.nodes_mut().insert(ino, Arc::clone(&node));
        Ok(node)
    }

    /// Copies what is below `from` into the directory `parent`.
    pub(crate) fn load(&self, from: &Path, parent: u64, chunk_bytes: u64) -> std::io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let about = path.metadata()?;
            let owner = (about.uid(), about.gid());
            let kind = match about.is_dir() {
                true => Kind::Directory(RwLock::default()),
                false => {
                    let mut data = Data::default();
                    data.write(chunk_bytes, 0, &std::fs::read(&path)?);
                    data.settle();
                    Kind::File(RwLock::new(data))
                }
            };
            let made = self.make(parent, &name, kind, about.mode() as u16 & 0o7777, owner);
            let node = made.map_err(std::io::Error::from_raw_os_error)?;
            if about.is_dir() {
                self.load(&path, node.ino, chunk_bytes)?;
            }
        }
        Ok(())
    }

    pub(crate) fn link(&self, ino: u64, parent: u64, name: &OsStr) -> Result<Arc<Node>, i32> {
        let node = self.get(ino).ok_or(libc::ENOENT)?;
        let directory = self.get(parent).ok_or(libc::ENOENT)?;
        let mut entries = directory.entries_mut().ok_or(libc::ENOTDIR)?;
        if entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        entries.insert(name.into(), Arc::clone(&node));
        node.about().links += 1;
        Ok(node)
    }

    /// Takes a name away; the inode goes when the kernel has forgotten it.
    pub(crate) fn unlink(&self, parent: u64, name: &OsStr, directory: bool) -> Result<(), i32> {
        let holder = self.get(parent).ok_or(libc::ENOENT)?;
        let mut entries = holder.entries_mut().ok_or(libc::ENOTDIR)?;
        let node = entries.get(name).cloned().ok_or(libc::ENOENT)?;
        match (node.entries(), directory) {
            (Some(_), false) => return Err(libc::EISDIR),
            (None, true) => return Err(libc::ENOTDIR),
            (Some(inside), true) if !inside.is_empty() => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        entries.remove(name);
        drop(entries);
        holder.touch();
        node.about().links -= 1;
        self.forget(node.ino, 0);
        Ok(())
    }

    /// Removes everything below a directory.
    pub(crate) fn clear(&self, ino: u64) -> Result<(), i32> {
        let node = self.get(ino).ok_or(libc::ENOENT)?;
        let inside: Vec<(OsString, Arc<Node>)> = node
            .entries()
            .ok_or(libc::ENOTDIR)?
            .iter()
            .map(|(n, c)| (n.clone(), Arc::clone(c)))
            .collect();
        for (name, child) in inside {
            let is_directory = matches!(child.kind, Kind::Directory(_));
            if is_directory {
                self.clear(child.ino)?;
            }
            self.unlink(ino, &name, is_directory)?;
        }
        Ok(())
    }

    pub(crate) fn rename(
        &self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        exclusive: bool,
    ) -> Result<(), i32> {
        let node = self.child(from.0, from.1)?;
        if let Ok(other) = self.child(to.0, to.1) {
            if exclusive {
                return Err(libc::EEXIST);
            }
            if Arc::ptr_eq(&node, &other) {
                return Ok(());
            }
            self.unlink(to.0, to.1, matches!(other.kind, Kind::Directory(_)))?;
        }
        let (old, new) =
            (self.get(from.0).ok_or(libc::ENOENT)?, self.get(to.0).ok_or(libc::ENOENT)?);
        old.entries_mut().ok_or(libc::ENOTDIR)?.remove(from.1);
        new.entries_mut().ok_or(libc::ENOTDIR)?.insert(to.1.into(), node);
        Ok(())
    }

    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let Some(node) = self.get(ino) else { return };
        let gone = {
            let mut about = node.about();
            about.looked_up = about.looked_up.saturating_sub(count);
            about.looked_up == 0 && about.links == 0
        };
        if gone && ino != ROOT {
            self.nodes_mut().remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn data_is_what_an_array_with_marks_would_hold(
            steps in proptest::collection::vec((0_u64..300, 0_usize..80, 0_u8..4), 1..20),
        ) {
            let chunk = 64;
            let (mut data, mut bytes, mut there) = (Data::default(), vec![0_u8; 400], vec![false; 400]);
            for (n, &(offset, length, what)) in steps.iter().enumerate() {
                match what {
                    0 => {
                        data.truncate(chunk, offset);
                        bytes[offset as usize..].fill(0);
                        there[offset as usize..].fill(false);
                    }
                    _ => {
                        data.write(chunk, offset, &vec![n as u8 + 1; length]);
                        for at in offset as usize..offset as usize + length {
                            (bytes[at], there[at]) = (n as u8 + 1, true);
                            // What lies before it in its chunk exists from now on, as zeros.
                            let first = at / 64 * 64;
                            there[first..at].fill(true);
                        }
                    }
                }
            }
            let (mut seen, mut marks) = (vec![0_u8; 400], vec![false; 400]);
            data.read(chunk, 0, 400, |at, piece| {
                seen[at as usize..][..piece.len()].copy_from_slice(piece);
                marks[at as usize..][..piece.len()].fill(true);
            });
            prop_assert_eq!(seen, bytes);
            prop_assert_eq!(marks, there);
        }
    }
}
