//! What of one transfer is done, in a file that outlives a killed process.
//!
//! ```text
//! forebay-parts 1 s3://b/k "etag" 4294967296 8388608 …     what is transferred, in what parts
//! id 2~abc                                                 of an upload
//! 17 9f3c…                                                 part 17, and what tells it
//! ```
//!
//! A line is one write. The last may be torn, so it counts only with its end. One process has it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::client::lock;

const MAGIC: &str = "forebay-parts 1 ";

/// The parts of a transfer that are done.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    head: String,
    file: Mutex<File>,
    /// Of earlier processes.
    done: HashMap<String, String>,
    /// As `done`, but of something else under the same name.
    other: HashMap<String, String>,
}

impl Journal {
    /// Opens the journal of `what`, or begins it, also where it told of something else. `None`
    /// where another process has it or nothing can be written: then there is no resuming.
    pub(super) fn open(path: &Path, what: &str) -> Option<Self> {
        debug_assert!(!what.contains('\n'));
        let mut file = loop {
            let file = OpenOptions::new().read(true).append(true).create(true).open(path).ok()?;
            file.try_lock().ok()?;
            // Who had it may have removed it since it was opened.
            let is_there = fs::metadata(path).is_ok_and(|there| {
                file.metadata().is_ok_and(|m| (m.dev(), m.ino()) == (there.dev(), there.ino()))
            });
            if is_there {
                break file;
            }
        };
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0)).ok()?;
        file.read_to_end(&mut text).ok()?;
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let found = String::from_utf8_lossy(&text[..whole]).into_owned();
        let mut lines = found.lines();
        let head = format!("{MAGIC}{what}\n");
        let is_same = lines.next() == Some(head.trim_end());
        let mut done: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(' '))
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        let mut other = HashMap::new();
        if !is_same {
            (done, other) = (other, done);
            file.set_len(0).ok()?;
            file.write_all(head.as_bytes()).ok()?;
        } else if whole < text.len() {
            file.set_len(whole as u64).ok()?;
        }
        Some(Self { path: path.into(), head, file: Mutex::new(file), done, other })
    }

    /// What earlier processes noted about `key`.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.done.get(key).map(String::as_str)
    }

    /// What was noted about `key` of something else that had this name.
    pub(super) fn stale(&self, key: &str) -> Option<&str> {
        self.other.get(key).map(String::as_str)
    }

    /// Takes nothing for done, now and in later processes. False if that cannot be written down.
    pub(super) fn forget(&mut self) -> bool {
        self.done.clear();
        let mut file = lock(&self.file);
        file.set_len(0).and_then(|()| file.write_all(self.head.as_bytes())).is_ok()
    }

    /// Notes it, for a later process. One that cannot be noted will be done again.
    pub(super) fn note(&self, key: &str, value: &str) {
        let _ = lock(&self.file).write_all(format!("{key} {value}\n").as_bytes());
    }

    /// The transfer is over.
    pub(super) fn remove(self) {
        // Still locked: who waits for it finds it gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// Names this run of the kernel: what was written to a file but not synced is there as long as it
/// runs.
pub(super) fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_the_next_what_was_done_of_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = Journal::open(&path, "a 1").unwrap();
        journal.note("3", "x y");
        journal.note("id", "z");
        assert!(Journal::open(&path, "a 1").is_none(), "somebody has it");
        drop(journal);

        let journal = Journal::open(&path, "a 1").unwrap();
        assert_eq!(
            (journal.get("3"), journal.get("id"), journal.get("4")),
            (Some("x y"), Some("z"), None)
        );
        drop(journal);
        // Killed in the middle of a line.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"5 tor").unwrap();
        let journal = Journal::open(&path, "a 1").unwrap();
        assert_eq!(journal.get("5"), None);
        journal.note("6", "ok");
        drop(journal);
        let mut journal = Journal::open(&path, "a 1").unwrap();
        assert_eq!((journal.get("3"), journal.get("6")), (Some("x y"), Some("ok")));
        assert!(journal.forget());
        journal.note("id", "z");
        drop(journal);
        let journal = Journal::open(&path, "a 1").unwrap();
        assert_eq!((journal.get("3"), journal.get("id")), (None, Some("z")));
        drop(journal);

        let journal = Journal::open(&path, "a 2").unwrap();
        assert_eq!((journal.get("3"), journal.stale("id")), (None, Some("z")));
        drop(journal);
        let journal = Journal::open(&path, "a 2").unwrap();
        assert_eq!((journal.get("3"), journal.stale("id")), (None, None));
        journal.remove();
        assert!(!path.exists());
        assert!(Journal::open(&dir.path().join("no/such"), "a").is_none());
    }
}
