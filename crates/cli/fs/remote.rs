//! `forebay fs` on `s3://`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use forebay_store::fs::Tally;
use forebay_store::fs::walk::{Kind, walk};
use forebay_store::remote::{Entry, Remote, Settings, parse};
use serde_json::{Value, json};

use super::is_remote;
use crate::format;
use crate::report::{Report, Usage};

fn open(path: &Path) -> anyhow::Result<(Remote, String)> {
    let uri = path.to_str().unwrap_or_default();
    if parse(uri).is_none() {
        return Err(Usage(format!("expected s3://BUCKET/KEY, found {uri}")).into());
    }
    Ok(Remote::open(uri, Settings::default())?)
}

fn describe(entry: &Entry) -> Value {
    let since = entry.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    json!({
        "path": entry.key,
        "kind": "file",
        "size": entry.size,
        "modified": since.as_secs_f64(),
    })
}

pub fn ls(path: &Path, report: &mut Report) -> anyhow::Result<()> {
    let (remote, prefix) = open(path)?;
    let entries = remote.list(&prefix)?;
    for entry in &entries {
        report.line(format!("{:>12}  {}", format::bytes(entry.size), entry.key));
    }
    report.json(json!({ "entries": entries.iter().map(describe).collect::<Vec<_>>() }));
    Ok(())
}

pub fn stat(path: &Path, report: &mut Report) -> anyhow::Result<()> {
    let (remote, key) = open(path)?;
    let entry = remote.head(&key)?;
    report.line("kind       object");
    report.line(format!("size       {} bytes", format::count(entry.size)));
    report.json(describe(&entry));
    Ok(())
}

pub fn cat(path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let (remote, key) = open(path)?;
    match remote.read_all(&key, |bytes| out.write_all(&bytes))? {
        // A reader that has seen enough, such as `head`, is no error.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.with_context(|| format!("cannot copy {} to stdout", path.display())),
    }
}

pub fn du(path: &Path, report: &mut Report) -> anyhow::Result<()> {
    let (remote, prefix) = open(path)?;
    let entries = remote.list(&prefix)?;
    let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
    report.line(format!("files  {:>14}", format::count(entries.len() as u64)));
    report.line(format!("long   {:>14}   {} bytes", format::bytes(bytes), format::count(bytes)));
    report.json(json!({ "files": entries.len(), "bytes": bytes }));
    Ok(())
}

pub fn rm(path: &Path, recursive: bool, report: &mut Report) -> anyhow::Result<()> {
    let (remote, key) = open(path)?;
    let keys = if recursive {
        remote.list(&key)?.into_iter().map(|entry| entry.key).collect()
    } else {
        vec![remote.head(&key)?.key]
    };
    let mut failures = Vec::new();
    for key in &keys {
        if let Err(error) = remote.delete(key) {
            failures.push((key.clone(), error));
        }
    }
    let removed = keys.len() - failures.len();
    report.line(format!("remove  {:>10} objects", format::count(removed as u64)));
    let failures = tell(failures, report);
    report.json(json!({ "removed": removed, "failures": failures }));
    Ok(())
}

/// One file or tree, up or down.
pub fn cp(from: &Path, to: &Path, verify: bool, report: &mut Report) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut copied = Copied::default();
    let remote = match (is_remote(from), is_remote(to)) {
        (true, true) => {
            return Err(
                Usage("copy to a file first: from bucket to bucket is not done".into()).into()
            );
        }
        (true, false) => copied.down(from, to)?,
        _ => copied.up(from, to, verify)?,
    };
    let took = start.elapsed().as_secs_f64().max(1e-9);
    report.line(format!(
        "copy    {:>10} files  {:>12}   {}/s",
        format::count(copied.files),
        format::bytes(copied.bytes),
        format::bytes((copied.bytes as f64 / took) as u64)
    ));
    if copied.skipped > 0 {
        report.line(format!("there   {:>10} files", format::count(copied.skipped)));
    }
    let stats = remote.stats();
    let failures = tell(copied.failures, report);
    report.json(json!({
        "copied": copied.files,
        "skipped": copied.skipped,
        "bytes": copied.bytes,
        "seconds": took,
        "requests": stats.requests,
        "retries": stats.retries,
        "hedges_issued": stats.hedges_issued,
        "hedges_won": stats.hedges_won,
        "failures": failures,
    }));
    Ok(())
}

#[derive(Default)]
struct Copied {
    files: u64,
    skipped: u64,
    bytes: u64,
    failures: Vec<(String, forebay_store::Error)>,
}

impl Copied {
    fn count(&mut self, name: &str, done: forebay_store::Result<u64>) {
        match done {
            Ok(bytes) => {
                self.files += 1;
                self.bytes += bytes;
            }
            Err(error) => self.failures.push((name.into(), error)),
        }
    }

    fn down(&mut self, from: &Path, to: &Path) -> anyhow::Result<Remote> {
        let (remote, key) = open(from)?;
        let whole = |entry: &Entry| entry.key == key;
        let mut entries = remote.list(&key)?;
        if entries.is_empty() {
            // A listing shows what is below a prefix, not an object of that very name.
            entries = vec![remote.head(&key)?];
        }
        for entry in &entries {
            let target = match entry.key.strip_prefix(key.trim_end_matches('/')) {
                _ if whole(entry) && to.is_dir() => {
                    to.join(entry.key.rsplit('/').next().unwrap_or_default())
                }
                Some(rest) if !whole(entry) => to.join(rest.trim_start_matches('/')),
                _ => to.to_path_buf(),
            };
            // A key may hold `..`; nothing outside of the target is written.
            if target.components().any(|c| c == std::path::Component::ParentDir)
                && !to.components().any(|c| c == std::path::Component::ParentDir)
            {
                return Err(Usage(format!("the key {} leads out of the target", entry.key)).into());
            }
            let there = std::fs::metadata(&target);
            if there.is_ok_and(|t| {
                t.len() == entry.size && t.modified().is_ok_and(|m| m == entry.modified)
            }) {
                self.skipped += 1;
                continue;
            }
            let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
            let done = parent
                .map_or(Ok(()), forebay_store::create_dir)
                .and_then(|()| remote.download(&entry.key, &target));
            self.count(&entry.key, done);
        }
        Ok(remote)
    }

    fn up(&mut self, from: &Path, to: &Path, verify: bool) -> anyhow::Result<Remote> {
        let (remote, prefix) = open(to)?;
        let tally = Tally::default();
        let entries = walk(from, 16, &tally)?;
        let there = remote.list(&prefix)?;
        for entry in entries.iter().filter(|entry| entry.kind == Kind::File) {
            let is_top = entry.path.as_os_str().is_empty();
            let (source, key): (PathBuf, String) = if is_top {
                let name = from.file_name().unwrap_or_default().to_string_lossy();
                let into = prefix.is_empty() || prefix.ends_with('/');
                (from.into(), if into { format!("{prefix}{name}") } else { prefix.clone() })
            } else {
                let below = entry.path.to_string_lossy();
                let root = prefix.trim_end_matches('/');
                let key = if root.is_empty() { below.into() } else { format!("{root}/{below}") };
                (from.join(&entry.path), key)
            };
            let nanos = u64::try_from(entry.modified).unwrap_or(0);
            let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
            let found = there.binary_search_by(|e| e.key.cmp(&key)).ok();
            if found.is_some_and(|at| Remote::is_current(entry.size, modified, &there[at])) {
                self.skipped += 1;
                continue;
            }
            let done = remote.upload(&source, &key, verify);
            self.count(&source.display().to_string(), done);
        }
        let unread = tally.take_failures();
        self.failures.extend(unread.into_iter().map(|f| (f.path.display().to_string(), f.error)));
        Ok(remote)
    }
}

fn tell(failures: Vec<(String, forebay_store::Error)>, report: &mut Report) -> Vec<Value> {
    for (_, error) in &failures {
        let cause = std::error::Error::source(error).map_or(String::new(), |e| format!(": {e}"));
        eprintln!("failed: {error}{cause}");
    }
    if !failures.is_empty() {
        report.failed();
        report.hint("the rest is done; the same command tries these again");
    }
    failures.iter().map(|(n, e)| json!({ "path": n, "error": e.to_string() })).collect()
}
