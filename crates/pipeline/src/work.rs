//! The work directory of an unfinished run: `OUT/.work`.
//!
//! ```text
//! lock           held while a run is alive
//! plan.json      what was asked; a run resumes only for the same
//! spool/         parts, or under --tmp-dir
//! read.json      the read stage is complete: parts of each source
//! dedup.bin      the dedup stage is complete: survivor of each document
//! shard-N.done   shard N is complete: its counts, hashes and part of the index
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use bytemuck::cast_slice;
use forebay_shard::index::ShardIndex;
use forebay_shard::manifest::{self, Manifest, ShardEntry};
use forebay_shard::{Error as ShardError, Shard};
use forebay_store::{File, Lock, NewFile, create_dir, publish_bytes, temporaries};

use crate::plan::Plan;
use crate::{Error, Result};

const NAME: &str = ".work";

/// The work directory, held for this process.
pub(crate) struct Work {
    pub(crate) out: PathBuf,
    directory: PathBuf,
    /// As recorded when the run began.
    pub(crate) plan: Plan,
    /// The run began earlier.
    pub(crate) resumed: bool,
    _lock: Lock,
}

/// What stands in `--out`.
pub(crate) enum Start {
    Finished(Box<Manifest>),
    Unfinished(Box<Work>),
}

impl Work {
    /// Begins a run or goes on with one.
    ///
    /// # Errors
    /// If `out` holds anything but nothing, or a run of the same plan.
    pub(crate) fn open(
        out: &Path,
        plan: Plan,
        tmp_dir: Option<&Path>,
        fresh: bool,
    ) -> Result<Start> {
        let directory = out.join(NAME);
        if out.join(manifest::FILE).exists() {
            let manifest = Manifest::read(out)?;
            if manifest.lineage.fingerprint != plan.fingerprint() {
                let differs = "inputs, options or tokenizer";
                return Err(Error::OtherDataset { out: out.to_path_buf(), differs });
            }
            // Killed between the manifest and the end: nothing is left to do but this.
            remove_spool(&directory);
            let _ = fs::remove_dir_all(&directory);
            return Ok(Start::Finished(Box::new(manifest)));
        }
        if !directory.exists() {
            refuse_foreign(out)?;
        }
        create_dir(&directory)?;
        let lock = Lock::take(&directory.join("lock"))?;

        let plan_file = directory.join("plan.json");
        let mut recorded = read_plan(&plan_file);
        let begun = match &recorded {
            Some(Some(plan)) => holds(&plan.spool, ".part"),
            other => other.is_some(),
        };
        if recorded.is_some() && (fresh || !begun) {
            remove_spool(&directory);
            clear(&directory, |name| name != "lock")?;
            clear(out, |name| name.starts_with("shard-") || name == manifest::REMOVED)?;
            recorded = None;
        }
        let resumed = recorded.is_some();
        let other = |differs| Error::OtherRun { out: out.to_path_buf(), differs };
        let plan = match recorded {
            Some(Some(recorded)) => {
                if let Some(differs) = plan.difference(&recorded, holds(&directory, ".done")) {
                    return Err(other(differs));
                }
                Plan { spool: recorded.spool, part_bytes: recorded.part_bytes, ..plan }
            }
            Some(None) => return Err(other("forebay version")),
            None => {
                let spool = match tmp_dir {
                    Some(tmp) => tmp.join(format!("forebay-{}", &plan.fingerprint()[..16])),
                    None => directory.join("spool"),
                };
                Plan { spool, ..plan }
            }
        };
        publish_bytes(&plan_file, &serde_json::to_vec_pretty(&plan).unwrap_or_default())?;
        create_dir(&plan.spool)?;
        let work = Self { out: out.to_path_buf(), directory, plan, resumed, _lock: lock };
        if work.plan.reads_stdin() && !work.path("read.json").exists() {
            // What came through a pipe does not come again: start over.
            clear(&work.plan.spool, |_| true)?;
        }
        for directory in [out, &work.directory, &work.plan.spool] {
            for temporary in temporaries(directory)? {
                let _ = fs::remove_file(temporary);
            }
        }
        Ok(Start::Unfinished(Box::new(work)))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn part(&self, source: usize, number: u32) -> PathBuf {
        self.plan.spool.join(format!("{source:05}-{number:06}.part"))
    }

    /// Records that a shard is written and checked, then publishes it.
    pub(crate) fn publish_shard(&self, number: usize, shard: Shard) -> Result<ShardEntry> {
        let entry = ShardEntry {
            file: shard_name(number),
            documents: shard.documents,
            tokens: shard.tokens,
            text_bytes: shard.text_bytes,
            bytes: shard.bytes,
            blake3: shard.blake3,
        };
        let json = serde_json::to_vec(&entry).unwrap_or_default();
        let (offsets, tokens): (Vec<u64>, Vec<u32>) = shard.index.documents.into_iter().unzip();
        let mut file = NewFile::create(&self.done(number))?;
        let sizes = [json.len() as u64, offsets.len() as u64, shard.index.blocks.len() as u64];
        file.append(cast_slice(&sizes))?;
        file.append(&json)?;
        file.append(cast_slice(&offsets))?;
        file.append(cast_slice(&tokens))?;
        file.append(cast_slice(&shard.index.blocks))?;
        file.publish()?;
        shard.file.publish()?;
        Ok(entry)
    }

    /// A shard that is complete; `None` if it is not.
    pub(crate) fn shard(&self, number: usize) -> Option<(ShardEntry, ShardIndex)> {
        let file = File::open(&self.done(number)).ok()?;
        let sizes: Vec<u64> = column(&file, 0, 3)?;
        let [json, documents, blocks] = sizes[..] else { return None };
        let mut at = 24;
        let json: Vec<u8> = column(&file, at, json)?;
        at += json.len() as u64;
        let offsets: Vec<u64> = column(&file, at, documents)?;
        at += 8 * documents;
        let tokens: Vec<u32> = column(&file, at, documents)?;
        at += 4 * documents;
        let blocks: Vec<[u8; 32]> = column(&file, at, blocks)?;
        let entry: ShardEntry = serde_json::from_slice(&json).ok()?;
        let published = fs::metadata(self.out.join(&entry.file)).ok()?;
        let documents = offsets.into_iter().zip(tokens).collect();
        (published.len() == entry.bytes).then_some((entry, ShardIndex { documents, blocks }))
    }

    fn done(&self, number: usize) -> PathBuf {
        self.path(&format!("{}.done", shard_name(number)))
    }

    /// Removes all scratch files; the manifest is published.
    pub(crate) fn finish(self) {
        let _ = fs::remove_dir_all(&self.plan.spool);
        let _ = fs::remove_dir_all(&self.directory);
    }

    /// Removes everything the run made; there is nothing to resume.
    pub(crate) fn abandon(self) {
        let out = self.out.clone();
        self.finish();
        let _ = fs::remove_dir(out);
    }
}

pub(crate) fn shard_name(number: usize) -> String {
    format!("shard-{number:05}.parquet")
}

fn column<T: bytemuck::Pod>(file: &File, at: u64, count: u64) -> Option<Vec<T>> {
    let bytes = count.checked_mul(size_of::<T>() as u64)?;
    if at.checked_add(bytes)? > file.size() {
        return None;
    }
    let mut column = vec![T::zeroed(); usize::try_from(count).ok()?];
    file.read_at(at, bytemuck::cast_slice_mut(&mut column)).ok()?;
    Some(column)
}

/// `None`: no plan. `Some(None)`: one that this version does not understand.
fn read_plan(path: &Path) -> Option<Option<Plan>> {
    let bytes = fs::read(path).ok()?;
    Some(serde_json::from_slice(&bytes).ok())
}

/// Is there a file in `directory` whose name ends so?
fn holds(directory: &Path, suffix: &str) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().ends_with(suffix))
}

fn remove_spool(directory: &Path) {
    if let Some(Some(plan)) = read_plan(&directory.join("plan.json")) {
        let _ = fs::remove_dir_all(plan.spool);
    }
}

fn refuse_foreign(out: &Path) -> Result<()> {
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(forebay_store::Error::io("list", out, e).into()),
    };
    let mut names: Vec<_> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    match names.first() {
        None => Ok(()),
        Some(found) => Err(Error::NotEmpty { out: out.to_path_buf(), found: found.clone() }),
    }
}

fn clear(directory: &Path, which: impl Fn(&str) -> bool) -> Result<()> {
    let wrap = |e| ShardError::from(forebay_store::Error::io("list", directory, e));
    for entry in fs::read_dir(directory).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        if which(&path.file_name().unwrap_or_default().to_string_lossy()) {
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|e| forebay_store::Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}
