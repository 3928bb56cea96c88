//! Trees from disk to bucket, from bucket to disk, from bucket to bucket: many objects at once, on
//! past single failures, resumed by looking at what is there already.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::client::{Entry, Remote, Settings, Stats};
use super::{Unfinished, scheme};
use crate::fs::copy::{Options, Summary};
use crate::fs::walk::{Entry as File, Kind, walk};
use crate::fs::{Tally, in_parallel};
use crate::{Error, Result};

/// Makes `to` like `from`, of which at least one is a URI; what is there already is left alone.
///
/// An object is there if a file has its length and its time, or the other way round if it was
/// written no earlier than the file. What fails is listed in `tally`; when `stop` is set, objects
/// in hand are finished.
///
/// # Errors
/// [`Error::Io`] or [`Error::Transfer`] if nothing can be done at all.
pub fn copy(
    from: &str,
    to: &str,
    settings: &Settings,
    options: Options,
    tally: &Tally,
    stop: &AtomicBool,
) -> Result<(Summary, Stats)> {
    go(from, to, settings, &Run::new(options, tally, stop))
}

/// As [`copy`], and nothing replaces a manifest that somebody else put there meanwhile.
pub(super) fn publish(
    from: &str,
    to: &str,
    settings: &Settings,
    options: Options,
    tally: &Tally,
    stop: &AtomicBool,
) -> Result<(Summary, Stats)> {
    go(from, to, settings, &Run { claims: true, ..Run::new(options, tally, stop) })
}

fn go(from: &str, to: &str, settings: &Settings, run: &Run<'_>) -> Result<(Summary, Stats)> {
    let (options, stop) = (&run.options, run.stop);
    let stats = match (scheme(from), scheme(to)) {
        (Some(_), Some(_)) => run.across(&open(from, settings)?, &open(to, settings)?)?,
        (Some(_), None) => {
            let from = open(from, settings)?;
            run.down(&from.remote, from.entries()?, Path::new(to))?
        }
        _ => run.up(Path::new(from), &open(to, settings)?)?,
    };
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let verified = if options.verify { count(&run.copied) } else { 0 };
    let summary = Summary {
        copied: count(&run.copied),
        skipped: count(&run.skipped),
        deleted: count(&run.deleted),
        verified,
        stopped: stop.load(Ordering::Relaxed),
    };
    Ok((summary, stats))
}

/// Removes objects; what fails is listed in `tally`. Returns how many are gone.
pub fn remove(remote: &Remote, keys: &[String], threads: usize, tally: &Tally) -> u64 {
    let removed = AtomicU64::new(0);
    in_parallel(keys, threads, |key| match remote.delete(key) {
        Ok(()) => drop(removed.fetch_add(1, Ordering::Relaxed)),
        Err(error) => tally.fail(key.into(), error),
    });
    removed.into_inner()
}

/// Gives up uploads that nobody ended; what fails is listed in `tally`. Returns how many are gone.
pub fn give_up(remote: &Remote, uploads: &[Unfinished], threads: usize, tally: &Tally) -> u64 {
    let removed = AtomicU64::new(0);
    in_parallel(uploads, threads, |upload| match remote.abort(upload) {
        Ok(()) => drop(removed.fetch_add(1, Ordering::Relaxed)),
        Err(error) => tally.fail(upload.key.clone().into(), error),
    });
    removed.into_inner()
}

/// Commit point of a dataset.
const MANIFEST: &str = "manifest.json";

/// A bucket, and the part of its keys that is meant.
pub(super) struct Place {
    pub(super) remote: Remote,
    key: String,
}

pub(super) fn open(uri: &str, settings: &Settings) -> Result<Place> {
    let (remote, key) = Remote::open(uri, settings.clone())?;
    Ok(Place { remote, key })
}

impl Place {
    /// The objects that are meant, each with its name below this place; empty for the place itself.
    pub(super) fn entries(&self) -> Result<Vec<(Entry, String)>> {
        let root = self.key.trim_end_matches('/');
        let below = match self.remote.inner.control() {
            Ok(_) => self.remote.list(root)?,
            // A web server has no lists.
            Err(_) => Vec::new(),
        };
        if below.is_empty() {
            // A listing shows what is below a prefix, not an object of that very name.
            return Ok(vec![(self.remote.head(&self.key)?, String::new())]);
        }
        let name = |entry: &Entry| {
            let rest = entry.key.strip_prefix(root).unwrap_or(&entry.key);
            rest.trim_start_matches('/').to_owned()
        };
        Ok(below
            .into_iter()
            .map(|entry| {
                let name = name(&entry);
                (entry, name)
            })
            .collect())
    }

    /// The key of what is called `name` below this place; `own` is the name of a single object.
    fn key_of(&self, name: &str, own: &str) -> String {
        let root = self.key.trim_end_matches('/');
        match name {
            "" if self.key.is_empty() || self.key.ends_with('/') => format!("{}{own}", self.key),
            "" => self.key.clone(),
            name if root.is_empty() => name.into(),
            name => format!("{root}/{name}"),
        }
    }

    /// What is there, by key.
    fn present(&self) -> Result<HashMap<String, Entry>> {
        let mut there = self.remote.list(&self.key)?;
        let is_one = !self.key.is_empty() && !self.key.ends_with('/');
        if there.is_empty() && is_one {
            there.extend(self.remote.head(&self.key).ok());
        }
        Ok(there.into_iter().map(|entry| (entry.key.clone(), entry)).collect())
    }
}

pub(super) fn last_name(key: &str) -> &str {
    let path = key.split('?').next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

pub(super) struct Run<'a> {
    options: Options,
    /// A manifest must be new.
    claims: bool,
    tally: &'a Tally,
    stop: &'a AtomicBool,
    copied: AtomicU64,
    skipped: AtomicU64,
    deleted: AtomicU64,
}

impl<'a> Run<'a> {
    pub(super) fn new(options: Options, tally: &'a Tally, stop: &'a AtomicBool) -> Self {
        let [copied, skipped, deleted] = [const { AtomicU64::new(0) }; 3];
        Self { options, claims: false, tally, stop, copied, skipped, deleted }
    }

    /// Runs `work` on all, on the manifest of a dataset last and only if nothing failed: where it
    /// is, everything is.
    fn all<T: Sync>(&self, items: &[T], key: impl Fn(&T) -> &str, work: impl Fn(&T) + Sync) {
        let is_last = |item: &&T| last_name(key(item)) == MANIFEST;
        let (last, first): (Vec<&T>, Vec<&T>) = items.iter().partition(is_last);
        in_parallel(&first, self.options.threads, |item| work(item));
        if !self.tally.has_failures() {
            in_parallel(&last, self.options.threads, |item| work(item));
        }
    }

    /// One object or file: `is_there` looks, `copy` copies.
    fn each(&self, name: &str, bytes: u64, is_there: bool, copy: impl FnOnce() -> Result<()>) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        if is_there {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match copy() {
            Ok(()) => {
                self.copied.fetch_add(1, Ordering::Relaxed);
                self.tally.add(1, bytes);
            }
            Err(error) => self.tally.fail(name.into(), error),
        }
    }

    /// Fetches these objects to their names below `to`.
    pub(super) fn down(
        &self,
        from: &Remote,
        entries: Vec<(Entry, String)>,
        to: &Path,
    ) -> Result<Stats> {
        let mut wanted = Vec::with_capacity(entries.len());
        for (entry, name) in entries {
            let target = match name.as_str() {
                "" if to.is_dir() => to.join(last_name(&entry.key)),
                "" => to.to_path_buf(),
                name => {
                    // A key may hold `..`; nothing outside of the target is written.
                    let is_plain = |c: Component<'_>| matches!(c, Component::Normal(_));
                    if !Path::new(name).components().all(is_plain) {
                        let what = io::Error::new(
                            ErrorKind::InvalidInput,
                            "the key leads out of the target",
                        );
                        self.tally.fail(
                            name.into(),
                            Error::io("copy", from.inner.uri(&entry.key).as_ref(), what),
                        );
                        continue;
                    }
                    to.join(name)
                }
            };
            wanted.push((entry, target));
        }
        self.all(
            &wanted,
            |(entry, _)| &entry.key,
            |(entry, target)| {
                let there = std::fs::metadata(target);
                let is_there = there.is_ok_and(|t| {
                    t.len() == entry.size && t.modified().is_ok_and(|m| m == entry.modified)
                });
                self.each(&entry.key, entry.size, is_there, || {
                    if let Some(parent) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
                        crate::create_dir(parent)?;
                    }
                    from.download(entry, target, self.options.verify)
                });
            },
        );
        if self.options.delete && to.is_dir() && !self.stop.load(Ordering::Relaxed) {
            let keep: HashSet<&PathBuf> = wanted.iter().map(|(_, target)| target).collect();
            for file in walk(to, self.options.threads, self.tally)? {
                let path = to.join(&file.path);
                if file.kind != Kind::Directory && !keep.contains(&path) {
                    self.delete(&path.clone(), || {
                        std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))
                    });
                }
            }
        }
        Ok(from.stats())
    }

    fn up(&self, from: &Path, to: &Place) -> Result<Stats> {
        to.remote.inner.control()?;
        let own = from.file_name().unwrap_or_default().to_string_lossy();
        let files = walk(from, self.options.threads, self.tally)?;
        let there = to.present()?;
        let files: Vec<(File, String)> = files
            .into_iter()
            .filter(|file| file.kind == Kind::File)
            .map(|file| {
                let key = to.key_of(&file.path.to_string_lossy(), &own);
                (file, key)
            })
            .collect();
        self.all(
            &files,
            |(_, key)| key,
            |(file, key)| {
                let source = if file.path.as_os_str().is_empty() {
                    from.to_path_buf()
                } else {
                    from.join(&file.path)
                };
                let modified = SystemTime::UNIX_EPOCH
                    + Duration::from_nanos(u64::try_from(file.modified).unwrap_or(0));
                let is_there =
                    there.get(key).is_some_and(|e| Remote::is_current(file.size, modified, e));
                let verify = self.options.verify;
                let is_claim =
                    self.claims && last_name(key) == MANIFEST && !there.contains_key(key);
                self.each(&source.to_string_lossy(), file.size, is_there, || {
                    if is_claim {
                        return to.remote.claim(&source, key, verify);
                    }
                    to.remote.upload(&source, key, verify).map(drop)
                });
            },
        );
        self.delete_others(to, &there, files.iter().map(|(_, key)| key));
        Ok(to.remote.stats())
    }

    fn across(&self, from: &Place, to: &Place) -> Result<Stats> {
        to.remote.inner.control()?;
        let entries = from.entries()?;
        let there = to.present()?;
        let entries: Vec<(Entry, String)> = entries
            .into_iter()
            .map(|(entry, name)| {
                let key = to.key_of(&name, last_name(&entry.key));
                (entry, key)
            })
            .collect();
        let is_near = to.remote.is_near(&from.remote);
        self.all(
            &entries,
            |(_, key)| key,
            |(entry, key)| {
                let is_there = there
                    .get(key)
                    .is_some_and(|e| Remote::is_current(entry.size, entry.modified, e));
                self.each(&entry.key, entry.size, is_there, || match is_near {
                    true => to.remote.copy(&from.remote, entry, key, self.options.verify),
                    false => to.remote.relay(&from.remote, entry, key, self.options.verify),
                });
            },
        );
        self.delete_others(to, &there, entries.iter().map(|(_, key)| key));
        Ok(to.remote.stats())
    }

    fn delete_others<'k>(
        &self,
        to: &Place,
        there: &HashMap<String, Entry>,
        keep: impl Iterator<Item = &'k String>,
    ) {
        if !self.options.delete || self.stop.load(Ordering::Relaxed) {
            return;
        }
        let keep: HashSet<&String> = keep.collect();
        let others: Vec<&String> = there.keys().filter(|key| !keep.contains(key)).collect();
        in_parallel(&others, self.options.threads, |key| {
            self.delete(Path::new(key), || to.remote.delete(key));
        });
    }

    fn delete(&self, name: &Path, delete: impl FnOnce() -> Result<()>) {
        match delete() {
            Ok(()) => drop(self.deleted.fetch_add(1, Ordering::Relaxed)),
            Err(error) => self.tally.fail(name.into(), error),
        }
    }
}
