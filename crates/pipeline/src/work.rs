//! The work directory of an unfinished run: `OUT/.work`.
//!
//! ```text
//! lock           held while a run is alive
//! plan.json      what was asked; a run resumes only for the same
//! spool/         parts, or under --tmp-dir
//! read.json      the read stage is complete: parts of each source
//! read-K-of-N.json   a task has read its share: parts of its sources
//! ROUND-K-of-N.bin, pairs-K-of-N.run   a share of a round of the search for duplicates (`round`)
//! dedup.bin      the dedup stage is complete: survivor of each document
//! cuts.bin       the cuts are found: ranges of bytes, by document
//! TASK.failed    a task failed, and why (`journal`)
//! TASK.took, TASK.HOST-PROCESS.running   how long it took, who is at it (`pulse`)
//! NAME.done      the shard whose tokens are in NAME is complete: its counts, hashes, statistics and
//!                part of the index
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytemuck::cast_slice;
use forebay_shard::index::ShardIndex;
use forebay_shard::manifest::{self, Manifest, ShardEntry, WORK};
use forebay_shard::{Error as ShardError, Format, Shard};
use forebay_store::{Lock, create_dir, publish_bytes, temporaries};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::plan::{INDEX_FILE, Plan};
use crate::pulse;
use crate::stats::Stats;
use crate::{Error, Result};

/// The work directory, held for this process.
pub(crate) struct Work {
    pub(crate) out: PathBuf,
    /// The output directory was not there before.
    made_out: bool,
    directory: PathBuf,
    /// As recorded when the run began.
    pub(crate) plan: Plan,
    /// The run began earlier.
    pub(crate) resumed: bool,
    /// What is known of shards, where nothing is left for a run that resumes.
    held: Option<Mutex<BTreeMap<usize, Vec<u8>>>>,
    _lock: Option<Lock>,
}

/// What is known of a complete shard.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    #[serde(flatten)]
    pub(crate) entry: ShardEntry,
    /// If the run counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<Stats>,
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
        if let Some(finished) = finished(out, &plan)? {
            return Ok(finished);
        }
        let directory = out.join(WORK);
        if !directory.exists() {
            refuse_foreign(out)?;
        }
        let made_out = !out.exists();
        create_dir(&directory)?;
        let lock = Lock::take(&directory.join("lock"))?;
        // Again, now that nobody else can finish it.
        if let Some(finished) = finished(out, &plan)? {
            return Ok(finished);
        }

        let plan_file = directory.join("plan.json");
        let mut recorded = read_plan(&plan_file);
        let begun = match &recorded {
            Some(Some(plan)) => holds(&plan.spool, ".part"),
            other => other.is_some(),
        };
        if recorded.is_some() && (fresh || !begun) {
            remove_spool(&directory);
            clear(&directory, |name| name != "lock" && !name.ends_with(".running"))?;
            clear(out, is_ours)?;
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
                let absolute = |path: &Path| {
                    std::path::absolute(path)
                        .map_err(|e| forebay_store::Error::io("resolve", path, e))
                };
                // One spool for each output, also where several share a directory for them.
                let name = blake3::hash(absolute(out)?.as_os_str().as_encoded_bytes()).to_hex();
                let spool = match tmp_dir {
                    Some(tmp) => absolute(tmp)?.join(format!("forebay-{}", &name[..16])),
                    None => absolute(&directory)?.join("spool"),
                };
                let _ = fs::remove_dir_all(&spool);
                Plan { spool, ..plan }
            }
        };
        publish_bytes(&plan_file, &serde_json::to_vec_pretty(&plan).unwrap_or_default())?;
        create_dir(&plan.spool)?;
        let out = out.to_path_buf();
        let work = Self { out, made_out, directory, plan, resumed, held: None, _lock: Some(lock) };
        for directory in [&work.out, &work.directory, &work.plan.spool] {
            for temporary in temporaries(directory)? {
                let _ = fs::remove_file(temporary);
            }
        }
        pulse::clear_lost(&work.directory, &work.names()?);
        Ok(Start::Unfinished(Box::new(work)))
    }

    /// Joins a run that other machines may be at, or begins one.
    ///
    /// # Errors
    /// If `out` holds anything but nothing, or a run of the same plan and program.
    pub(crate) fn join(out: &Path, plan: Plan) -> Result<Start> {
        if let Some(finished) = finished(out, &plan)? {
            return Ok(finished);
        }
        let directory = out.join(WORK);
        if !directory.exists() {
            refuse_foreign(out)?;
        }
        create_dir(&directory)?;
        let lock = Lock::share(&directory.join("lock"))?;
        let plan_file = directory.join("plan.json");
        let spool = std::path::absolute(&directory)
            .map_err(|e| forebay_store::Error::io("resolve", &directory, e))?
            .join("spool");
        let mine = Plan { spool, ..plan };
        let other = |differs| Error::OtherRun { out: out.to_path_buf(), differs };
        let plan = match read_plan(&plan_file) {
            Some(None) => return Err(other("forebay version")),
            Some(Some(recorded)) => {
                // All must agree on everything, whatever is done already.
                if let Some(differs) = mine.difference(&recorded, true) {
                    return Err(other(differs));
                }
                if mine.spool != recorded.spool {
                    return Err(other("directory for scratch files"));
                }
                recorded
            }
            None => {
                publish_bytes(&plan_file, &serde_json::to_vec_pretty(&mine).unwrap_or_default())?;
                mine
            }
        };
        create_dir(&plan.spool)?;
        let out = out.to_path_buf();
        let (made_out, resumed, held) = (false, true, None);
        let work = Self { out, made_out, directory, plan, resumed, held, _lock: Some(lock) };
        Ok(Start::Unfinished(Box::new(work)))
    }

    /// Room for stages that are called one after another in one process: no lock, no plan, no
    /// records, nothing to resume.
    pub(crate) fn bare(out: &Path, plan: Plan) -> Result<Self> {
        refuse_foreign(out)?;
        let directory = out.join(WORK);
        let plan = Plan { spool: directory.join("spool"), ..plan };
        create_dir(&plan.spool)?;
        let (out, made_out, resumed) = (out.to_path_buf(), true, false);
        let held = Some(Mutex::default());
        Ok(Self { out, made_out, directory, plan, resumed, held, _lock: None })
    }

    /// Duplicates and repeated text are found.
    pub(crate) fn is_found(&self) -> bool {
        let cuts = !self.plan.options.steps.cuts.is_empty();
        self.path("dedup.bin").exists() && (!cuts || self.path("cuts.bin").exists())
    }

    /// What the tasks that read inputs have left.
    pub(crate) fn shares_read(&self) -> Result<Vec<PathBuf>> {
        let names = self.names()?.into_iter();
        let read = names.filter(|name| name.starts_with("read-") && name.ends_with(".json"));
        Ok(read.map(|name| self.path(&name)).collect())
    }

    /// Names of the files in the work directory.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let wrap = |e| forebay_store::Error::io("list", &self.directory, e);
        let entries = fs::read_dir(&self.directory).map_err(wrap)?;
        let names = entries.map(|entry| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(wrap)
        });
        Ok(names.collect::<std::result::Result<_, _>>()?)
    }

    /// Throws away all that is done, to start over under the same plan.
    pub(crate) fn forget(&self) -> Result<()> {
        clear(&self.plan.spool, |_| true)?;
        clear(&self.directory, |name| {
            !matches!(name, "lock" | "plan.json" | "spool") && !name.ends_with(".running")
        })?;
        clear(&self.out, is_ours)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// For what is written and read once, and not kept.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.plan.spool.join(name)
    }

    pub(crate) fn part(&self, source: usize, number: u32) -> PathBuf {
        self.plan.spool.join(format!("{source:05}-{number:06}.part"))
    }

    /// Records that a shard is written and checked, then publishes it.
    pub(crate) fn publish_shard(
        &self,
        number: usize,
        shard: Shard,
        stats: Option<Stats>,
    ) -> Result<Done> {
        let entry = ShardEntry {
            file: self.shard_name(number),
            documents: shard.documents,
            tokens: shard.tokens,
            text_bytes: shard.text_bytes,
            bytes: shard.bytes,
            blake3: shard.blake3,
            sidecars: shard.sidecars.iter().map(|(entry, _)| entry.clone()).collect(),
        };
        let done = Done { entry, stats };
        let json = serde_json::to_vec(&done).unwrap_or_default();
        let (offsets, tokens): (Vec<u64>, Vec<u32>) = shard.index.documents.into_iter().unzip();
        let sizes = [json.len() as u64, offsets.len() as u64, shard.index.blocks.len() as u64];
        let mut bytes: Vec<u8> = cast_slice(&sizes).to_vec();
        bytes.extend_from_slice(&json);
        bytes.extend_from_slice(cast_slice(&offsets));
        bytes.extend_from_slice(cast_slice(&tokens));
        bytes.extend_from_slice(cast_slice(&shard.index.blocks));
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        match &self.held {
            Some(held) => drop(lock(held).insert(number, bytes)),
            None => publish_bytes(&self.done(number), &bytes)?,
        }
        shard.file.publish()?;
        for (_, sidecar) in shard.sidecars {
            sidecar.publish()?;
        }
        Ok(done)
    }

    /// A shard that is complete; `None` if it is not.
    pub(crate) fn shard(&self, number: usize) -> Option<(Done, ShardIndex)> {
        let bytes = match &self.held {
            Some(held) => lock(held).get(&number)?.clone(),
            None => fs::read(self.done(number)).ok()?,
        };
        let (bytes, checksum) = bytes.split_last_chunk::<8>()?;
        if xxh3_64(bytes) != u64::from_le_bytes(*checksum) {
            return None;
        }
        let mut rest = bytes;
        let sizes: Vec<u64> = take(&mut rest, 3)?;
        let json: Vec<u8> = take(&mut rest, sizes[0])?;
        let offsets: Vec<u64> = take(&mut rest, sizes[1])?;
        let tokens: Vec<u32> = take(&mut rest, sizes[1])?;
        let blocks: Vec<[u8; 32]> = take(&mut rest, sizes[2])?;
        let done: Done = serde_json::from_slice(&json).ok()?;
        let entry = &done.entry;
        let published = |file: &str, bytes| {
            fs::metadata(self.out.join(file)).is_ok_and(|metadata| metadata.len() == bytes)
        };
        let whole = published(&entry.file, entry.bytes)
            && entry.sidecars.iter().all(|sidecar| published(&sidecar.file, sidecar.bytes));
        let documents = offsets.into_iter().zip(tokens).collect();
        whole.then_some((done, ShardIndex { documents, blocks }))
    }

    fn done(&self, number: usize) -> PathBuf {
        self.path(&format!("{}.done", self.shard_name(number)))
    }

    /// The file with the tokens of a shard.
    fn shard_name(&self, number: usize) -> String {
        let options = &self.plan.options;
        options.format.files(number, options.steps.shuffle.is_some()).swap_remove(0)
    }

    /// Removes all scratch files, also what killed tasks left; the manifest is published.
    pub(crate) fn finish(self) {
        for temporary in temporaries(&self.out).unwrap_or_default() {
            let _ = fs::remove_file(temporary);
        }
        let _ = fs::remove_dir_all(&self.plan.spool);
        let _ = fs::remove_dir_all(&self.directory);
    }

    /// Removes everything the run made; there is nothing to resume.
    pub(crate) fn abandon(self) {
        let (out, made_out) = (self.out.clone(), self.made_out);
        self.finish();
        if made_out {
            let _ = fs::remove_dir(out);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts `count` values off the front.
fn take<T: bytemuck::Pod>(bytes: &mut &[u8], count: u64) -> Option<Vec<T>> {
    let length = usize::try_from(count).ok()?.checked_mul(size_of::<T>())?;
    let (values, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(bytemuck::pod_collect_to_vec(values))
}

/// The dataset in `out`, if it is what `plan` would make.
fn finished(out: &Path, plan: &Plan) -> Result<Option<Start>> {
    if !out.join(manifest::FILE).exists() {
        return Ok(None);
    }
    let other = |differs| Error::OtherDataset { out: out.to_path_buf(), differs };
    let manifest = Manifest::read(out)?;
    if manifest.lineage.fingerprint != plan.fingerprint() {
        return Err(other("inputs, options or tokenizer"));
    }
    if plan.options.write_index.as_ref().is_some_and(|index| !index.join(INDEX_FILE).is_file()) {
        return Err(other("index: the one it wrote has gone"));
    }
    if plan.reads_stdin() {
        return Err(other("input: what comes through a pipe cannot be compared"));
    }
    // Names and sizes are equal. One of another time is another input, be it earlier or later: its
    // time may come from a clock that goes wrong.
    let seen = fs::read_to_string(out.join(manifest::SEEN)).ok();
    if seen.is_some_and(|seen| seen != plan.input_times()) {
        return Err(other("inputs (an input has changed since)"));
    }
    // Killed between the manifest and the end: nothing is left to do but this.
    let directory = out.join(WORK);
    remove_spool(&directory);
    let _ = fs::remove_dir_all(&directory);
    Ok(Some(Start::Finished(Box::new(manifest))))
}

/// What a run makes in its output directory before the manifest.
fn is_ours(name: &str) -> bool {
    Format::is_shard_file(name)
        || [manifest::INDEX, manifest::TOKENIZER, manifest::REMOVED, manifest::SEEN].contains(&name)
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
