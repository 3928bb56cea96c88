//! An object into a file: ranges in parallel, whole or not at all, resumed part by part.
//!
//! A large one lands under a name of its own beside its target, with a journal of the parts that
//! are there. The journal pins the version of the object, and the run of the kernel: after a power
//! cut nobody knows what of a file that was not synced is left.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::client::{Entry, Remote};
use super::journal::{Journal, boot};
use super::transfer::{PART, PIECE, in_parts};
use crate::{Error, NewFile, Result};

/// Smaller ones begin anew: what could be saved is less than it costs to know.
const RESUMED: u64 = 4 * PART;

/// A file on its way.
struct Landing {
    file: NewFile,
    journal: Option<Journal>,
}

impl Landing {
    fn at(remote: &Remote, entry: &Entry, target: &Path) -> Result<Self> {
        let has_version = entry.etag.is_some() || entry.modified != SystemTime::UNIX_EPOCH;
        if entry.size >= RESUMED && has_version {
            let uri = remote.inner.uri(&entry.key);
            let version = format!("{:?} {:?}", entry.etag, entry.modified);
            let what = format!("{uri:?} {version} {} {PART} {}", entry.size, boot());
            let name = &blake3::hash(uri.as_bytes()).to_hex()[..16];
            let beside = |end: &str| {
                let mut path = target.as_os_str().to_owned();
                path.push(format!(".{name}.{end}.tmp"));
                PathBuf::from(path)
            };
            if let Some(mut journal) = Journal::open(&beside("parts"), &what)
                && let temporary = beside("bytes")
                && (fs::metadata(&temporary).is_ok() || journal.forget())
            {
                let file = NewFile::resume(target, &temporary)?;
                return Ok(Self { file, journal: Some(journal) });
            }
        }
        Ok(Self { file: NewFile::create(target)?, journal: None })
    }

    /// After an error: kept if a part of it can be used.
    fn give_up(self, has_parts: bool) {
        match self.journal {
            Some(journal) if has_parts => {
                self.file.keep();
                drop(journal);
            }
            Some(journal) => {
                drop(self.file);
                journal.remove();
            }
            None => {}
        }
    }

    fn publish(self) -> Result<()> {
        self.file.publish()?;
        if let Some(journal) = self.journal {
            journal.remove();
        }
        Ok(())
    }
}

impl Remote {
    /// Fetches an object into a file, which appears under its name when it is whole and durable;
    /// its time of change is that of the object. With `verify` the disk is read back and compared,
    /// by blake3, with what came from the network.
    ///
    /// A large one that a killed process began is gone on with, if it is still the same version.
    ///
    /// # Errors
    /// [`Error::Transfer`] of the storage, [`Error::Io`] of the disk, [`Error::Differs`].
    pub fn download(&self, entry: &Entry, target: &Path, verify: bool) -> Result<()> {
        let landing = Landing::at(self, entry, target)?;
        let parts = entry.size.div_ceil(PART) as usize;
        let hashes = Mutex::new(vec![None; parts]);
        match self.land(entry, &landing, verify, &hashes) {
            Ok(()) => landing.publish(),
            Err(error) => {
                // What differs on the disk is not to be gone on with.
                let is_sound = !matches!(error, Error::Differs { .. });
                let hashes = hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
                landing.give_up(is_sound && hashes.iter().any(Option::is_some));
                Err(error)
            }
        }
    }

    /// Fetches the parts that are missing. Of each in `done`: its hash with `verify`.
    fn land(
        &self,
        entry: &Entry,
        landing: &Landing,
        verify: bool,
        done: &Mutex<Vec<Option<Option<blake3::Hash>>>>,
    ) -> Result<()> {
        let (file, target) = (&landing.file, landing.file.target());
        let disk = file.handle()?;
        let failed = |action, offset, source| {
            let (path, offset) = (target.to_path_buf(), Some(offset));
            Error::Io { action, path, offset, source }
        };
        let journal = landing.journal.as_ref();
        in_parts(entry.size, PART, |n, range| {
            let noted = journal.and_then(|journal| journal.get(&n.to_string()));
            let noted = noted.map(|hash| blake3::Hash::from_hex(hash).ok());
            let hash = match noted {
                // What was not hashed on its way cannot be verified.
                Some(hash) if hash.is_some() || !verify => {
                    self.inner.count_kept(range.end - range.start);
                    hash
                }
                _ => {
                    let mut buf = vec![0; PIECE.min((range.end - range.start) as usize)];
                    let mut hasher = verify.then(blake3::Hasher::new);
                    self.inner.fetch(entry, range, &mut buf, |offset, bytes| {
                        if let Some(hasher) = &mut hasher {
                            hasher.update(bytes);
                        }
                        disk.write_all_at(bytes, offset)
                            .map_err(|source| failed("write", offset, source))
                    })?;
                    let hash = hasher.map(|hasher| hasher.finalize());
                    if let Some(journal) = journal {
                        let value = hash.map_or("-".into(), |hash| hash.to_hex().to_string());
                        journal.note(&n.to_string(), &value);
                    }
                    hash
                }
            };
            done.lock().unwrap_or_else(PoisonError::into_inner)[n] = Some(hash);
            Ok(())
        })?;
        // An earlier version may have been longer.
        disk.set_len(entry.size).map_err(|e| Error::io("cut", target, e))?;
        if verify {
            disk.sync_all().map_err(|e| Error::io("sync", target, e))?;
            // Durable already, so the kernel can forget it and the disk must answer.
            let _ = rustix::fs::fadvise(&disk, 0, None, rustix::fs::Advice::DontNeed);
            let written =
                fs::File::open(file.temporary()).map_err(|e| Error::io("open", target, e))?;
            let expected = done.lock().unwrap_or_else(PoisonError::into_inner).clone();
            in_parts(entry.size, PART, |n, range| {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let read = written.read_exact_at(&mut bytes, range.start);
                read.map_err(|source| failed("read", range.start, source))?;
                if expected[n].flatten() != Some(blake3::hash(&bytes)) {
                    return Err(Error::Differs { path: target.into(), offset: range.start });
                }
                Ok(())
            })?;
        }
        disk.set_modified(entry.modified).map_err(|e| Error::io("set the time of", target, e))
    }
}
