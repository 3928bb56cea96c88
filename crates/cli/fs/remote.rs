//! `forebay fs` on `s3://`, `gs://`, `az://` and what web servers have.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use forebay_store::fs::Tally;
use forebay_store::remote::{Entry, Remote, Settings, parse, tree};
use serde_json::{Value, json};

use crate::format;
use crate::report::{Report, Usage};

fn open(path: &Path) -> anyhow::Result<(Remote, String)> {
    let uri = path.to_str().unwrap_or_default();
    if parse(uri).is_none() {
        return Err(
            Usage(format!("expected s3://BUCKET/KEY or https://HOST/PATH, found {uri}")).into()
        );
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

pub fn ls(path: &Path, recursive: bool, report: &mut Report) -> anyhow::Result<()> {
    let (remote, prefix) = open(path)?;
    let (entries, prefixes) =
        if recursive { (remote.list(&prefix)?, Vec::new()) } else { remote.list_level(&prefix)? };
    for prefix in &prefixes {
        report.line(format!("{:>12}  {prefix}", ""));
    }
    for entry in &entries {
        report.line(format!("{:>12}  {}", format::bytes(entry.size), entry.key));
    }
    let folders = prefixes.iter().map(|prefix| json!({ "path": prefix, "kind": "directory" }));
    let all: Vec<Value> = folders.chain(entries.iter().map(describe)).collect();
    report.json(json!({ "entries": all }));
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
    match remote.read_all(&key, |bytes| out.write_all(bytes))? {
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

pub fn rm(path: &Path, recursive: bool, threads: usize, report: &mut Report) -> anyhow::Result<()> {
    let (remote, key) = open(path)?;
    let keys: Vec<String> = if recursive {
        remote.list(&key)?.into_iter().map(|entry| entry.key).collect()
    } else {
        vec![remote.head(&key)?.key]
    };
    let tally = Tally::default();
    let removed = tree::remove(&remote, &keys, threads, &tally);
    report.line(format!("remove  {:>10} objects", format::count(removed)));
    let failures = super::tell_failures(&tally, report);
    report.json(json!({ "removed": removed, "failures": failures }));
    Ok(())
}

/// Gives up uploads that nobody ended, those that are older than `age`.
pub fn rm_uploads(
    path: &Path,
    age: Duration,
    threads: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (remote, prefix) = open(path)?;
    let (now, tally) = (SystemTime::now(), Tally::default());
    let is_old = |since| now.duration_since(since).unwrap_or_default() >= age;
    let all = remote.unfinished(&prefix)?;
    let count = all.len();
    let old: Vec<_> = all.into_iter().filter(|upload| is_old(upload.since)).collect();
    let left = count - old.len();
    let removed = tree::give_up(&remote, &old, threads, &tally);
    report.line(format!("remove  {:>10} uploads that nobody ended", format::count(removed)));
    report.line(format!("leave   {:>10} that are younger", format::count(left as u64)));
    let failures = super::tell_failures(&tally, report);
    report.json(json!({ "removed": removed, "left": left, "failures": failures }));
    Ok(())
}
