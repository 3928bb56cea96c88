//! What clients registered: buffers, rings, and who made them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::key::{Key, parse};
use crate::ring::Ring;
use crate::shared::Shared;

/// A buffer of a client.
#[derive(Debug)]
pub(crate) struct Iov {
    pub(crate) memory: Shared,
    pub(crate) block_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Of the thread that made it: that is what FUSE tells.
    pub(crate) pid: u32,
    pub(crate) target: PathBuf,
    key: Key,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: BTreeMap<String, Entry>,
    iovs: HashMap<[u8; 16], Arc<Iov>>,
    rings: HashMap<[u8; 16], Arc<Ring>>,
    /// By priority, for the watchers, which look at each post.
    lanes: [Arc<Vec<Arc<Ring>>>; 3],
}

impl Table {
    /// Maps what a symlink names; both are known when this returns.
    pub(crate) fn register(
        &mut self,
        name: &str,
        target: &Path,
        (uid, gid, pid): (u32, u32, u32),
        limit: usize,
    ) -> Result<&Entry, i32> {
        let key = parse(name)?;
        if self.entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        if target.parent() != Some(Path::new("/dev/shm")) {
            return Err(libc::EINVAL);
        }
        let found = target.metadata().map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
        if !found.is_file() || key.block_bytes.is_some_and(|block| block > found.len()) {
            return Err(libc::EINVAL);
        }
        if self.entries.len() >= limit {
            return Err(libc::EMFILE);
        }
        let memory = Shared::open(target).map_err(|_| libc::EACCES)?;
        match &key.ring {
            Some(about) => {
                let ring = Ring::new(memory, about.clone()).ok_or(libc::EINVAL)?;
                self.rings.insert(key.id, Arc::new(ring));
                self.sort_lanes();
            }
            None => {
                let block_bytes = key.block_bytes.unwrap_or(0);
                self.iovs.insert(key.id, Arc::new(Iov { memory, block_bytes }));
            }
        }
        let used: std::collections::BTreeSet<u64> =
            self.entries.values().map(|entry| entry.number).collect();
        let number = (0..).find(|n| !used.contains(n)).unwrap_or(0);
        let entry = Entry { number, uid, gid, pid, target: target.into(), key };
        Ok(self.entries.entry(name.into()).or_insert(entry))
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Entry> {
        let entry = self.entries.remove(name)?;
        match entry.key.ring {
            Some(_) => {
                self.rings.remove(&entry.key.id);
                self.sort_lanes();
            }
            None => drop(self.iovs.remove(&entry.key.id)),
        }
        Some(entry)
    }

    /// Forgets all that this thread registered; jobs at work keep their memory until they end.
    pub(crate) fn reap(&mut self, pid: u32) -> usize {
        let names: Vec<String> =
            self.entries.iter().filter(|(_, e)| e.pid == pid).map(|(n, _)| n.clone()).collect();
        for name in &names {
            self.remove(name);
        }
        names.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn numbered(&self, number: u64) -> Option<&Entry> {
        self.entries.values().find(|entry| entry.number == number)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    pub(crate) fn iov(&self, id: &[u8; 16]) -> Option<Arc<Iov>> {
        self.iovs.get(id).cloned()
    }

    pub(crate) fn rings(&self, lane: usize) -> Arc<Vec<Arc<Ring>>> {
        Arc::clone(&self.lanes[lane])
    }

    fn sort_lanes(&mut self) {
        self.lanes = [0, 1, 2].map(|lane| {
            let rings = self.rings.values().filter(|ring| ring.key.lane == lane);
            Arc::new(rings.cloned().collect())
        });
    }
}
