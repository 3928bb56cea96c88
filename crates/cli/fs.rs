mod copy;
#[cfg(feature = "s3")]
mod remote;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::{Args, Subcommand};
use forebay_store::fs::remove::remove;
use forebay_store::fs::walk::{Entry, Kind, walk};
use forebay_store::fs::{Tally, doctor, layout};
use forebay_store::usrbio;
use serde_json::{Value, json};

use self::copy::CopyArgs;
use crate::args::Global;
use crate::format;
use crate::report::{Report, Usage};

/// Look at files, copy and remove them, with many requests in flight; ask what works here
#[derive(Args)]
pub struct Fs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Names in a directory, with size and time
    Ls {
        /// Directory, file or s3://BUCKET/PREFIX (also gs://, az://)
        path: PathBuf,
        /// And what is below
        #[arg(long, short)]
        recursive: bool,
    },
    /// What a path is, and with --layout how its bytes lie on the storage
    Stat {
        /// File, directory or device
        path: PathBuf,
        /// File system, direct I/O, stripes
        #[arg(long)]
        layout: bool,
    },
    /// Bytes of files, one after another, on stdout; read ahead in parallel
    Cat {
        /// Files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Make TO like FROM: a file or object, or what is below; what is there already is left alone
    Cp(CopyArgs),
    /// As cp, and remove from TO what FROM has not
    Sync(CopyArgs),
    /// Remove a file; a directory with all below it only with --recursive
    Rm {
        /// Files and directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Directories with all that is in them
        #[arg(long, short)]
        recursive: bool,
        /// Instead: the parts of uploads to s3:// or gs:// that nobody ended
        #[arg(long, conflicts_with = "recursive")]
        uploads: bool,
        /// With --uploads: only those begun so many hours ago
        #[arg(long, value_name = "HOURS", default_value_t = 24, requires = "uploads")]
        older_than: u64,
    },
    /// Files and bytes below a path, as long as they are and as much as they take
    Du {
        /// Directory
        path: PathBuf,
    },
    /// What works on this machine, and what to change
    Doctor {
        /// Places whose storage to look at; this directory by default
        paths: Vec<PathBuf>,
        /// Remove shared memory that killed 3FS clients left; without it, only list it
        #[arg(long)]
        sweep: bool,
    },
}

/// Small files at once. Most of their time is waiting, so more than there are cores.
const AT_ONCE: usize = 16;

impl Fs {
    pub fn run(mut self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        for path in self.paths_mut() {
            *path = usrbio::resolve(path)?;
        }
        let threads = global.threads.map_or(AT_ONCE, std::num::NonZero::get);
        let is_copy = matches!(self.verb, Verb::Cp(_) | Verb::Sync(_));
        if !is_copy && self.paths().iter().any(|path| is_remote(path)) {
            return self.run_remote(threads, report);
        }
        match self.verb {
            Verb::Ls { path, recursive } => ls(&path, recursive, threads, report),
            Verb::Stat { path, layout } => stat(&path, layout, report),
            Verb::Cat { paths } => {
                report.silent();
                cat(&paths)
            }
            Verb::Cp(args) => args.run(false, threads, global, report),
            Verb::Sync(args) => args.run(true, threads, global, report),
            Verb::Rm { uploads: true, .. } => {
                Err(Usage("--uploads: expected s3://BUCKET or gs://BUCKET".into()).into())
            }
            Verb::Rm { paths, recursive, .. } => rm(&paths, recursive, threads, report),
            Verb::Du { path } => du(&path, threads, report),
            Verb::Doctor { paths, sweep } => examine(&paths, sweep, report),
        }
    }
}

impl Fs {
    /// As [`Fs::paths`], to be resolved.
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match &mut self.verb {
            Verb::Ls { path, .. } | Verb::Stat { path, .. } | Verb::Du { path } => vec![path],
            Verb::Cp(args) | Verb::Sync(args) => vec![&mut args.from, &mut args.to],
            Verb::Cat { paths } | Verb::Rm { paths, .. } | Verb::Doctor { paths, .. } => {
                paths.iter_mut().collect()
            }
        }
    }

    /// Whatever the verb is about.
    fn paths(&self) -> Vec<&Path> {
        match &self.verb {
            Verb::Ls { path, .. } | Verb::Stat { path, .. } | Verb::Du { path } => vec![path],
            Verb::Cp(args) | Verb::Sync(args) => vec![&args.from, &args.to],
            Verb::Cat { paths } | Verb::Rm { paths, .. } | Verb::Doctor { paths, .. } => {
                paths.iter().map(PathBuf::as_path).collect()
            }
        }
    }

    #[cfg(not(feature = "s3"))]
    fn run_remote(self, _: usize, _: &mut Report) -> anyhow::Result<()> {
        Err(no_stores())
    }

    #[cfg(feature = "s3")]
    fn run_remote(self, threads: usize, report: &mut Report) -> anyhow::Result<()> {
        match self.verb {
            Verb::Ls { path, recursive } => remote::ls(&path, recursive, report),
            Verb::Stat { path, .. } => remote::stat(&path, report),
            Verb::Du { path } => remote::du(&path, report),
            Verb::Cat { paths } => {
                report.silent();
                let mut out = std::io::stdout().lock();
                paths.iter().try_for_each(|path| match is_remote(path) {
                    true => remote::cat(path, &mut out),
                    false => cat(std::slice::from_ref(path)),
                })
            }
            Verb::Rm { paths, recursive, uploads, older_than } => match paths.as_slice() {
                [path] if uploads => {
                    let age = std::time::Duration::from_secs(older_than.saturating_mul(3600));
                    remote::rm_uploads(path, age, threads, report)
                }
                [path] => remote::rm(path, recursive, threads, report),
                _ => Err(Usage("give one s3:// path at a time".into()).into()),
            },
            Verb::Doctor { .. } => Err(Usage("doctor looks at local paths".into()).into()),
            Verb::Cp(_) | Verb::Sync(_) => unreachable!("copies look at their ends themselves"),
        }
    }
}

/// Whether a path is one of an object store or of a web server.
fn is_remote(path: &Path) -> bool {
    path.to_str().is_some_and(|uri| forebay_store::remote::scheme(uri).is_some())
}

#[cfg(not(feature = "s3"))]
fn no_stores() -> anyhow::Error {
    let what = "this build has no object stores: build it with the feature `s3`";
    Usage(what.into()).into()
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Link => "link",
        Kind::Other => "other",
    }
}

fn describe(entry: &Entry) -> Value {
    json!({
        "path": entry.path,
        "kind": kind(entry.kind),
        "size": entry.size,
        "modified": entry.modified as f64 / 1e9,
        "mode": format!("{:04o}", entry.mode),
    })
}

fn ls(path: &Path, recursive: bool, threads: usize, report: &mut Report) -> anyhow::Result<()> {
    let tally = Tally::default();
    let mut entries = if recursive { walk(path, threads, &tally)? } else { list(path)? };
    for entry in &mut entries {
        if entry.path.as_os_str().is_empty() {
            entry.path = path.to_path_buf();
        }
        let mark = match entry.kind {
            Kind::Directory => "/",
            Kind::Link => "@",
            _ => "",
        };
        report.line(format!("{:>12}  {}{mark}", format::bytes(entry.size), entry.path.display()));
    }
    report.json(json!({ "entries": entries.iter().map(describe).collect::<Vec<_>>() }));
    tell_failures(&tally, report);
    Ok(())
}

/// The names directly in a directory.
fn list(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let top = Entry::of(path)?;
    if top.kind != Kind::Directory {
        return Ok(vec![top]);
    }
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut names: Vec<PathBuf> = std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().into()))
            .collect::<std::io::Result<_>>()?;
        names.sort();
        Ok(names)
    };
    let names = read().map_err(|e| forebay_store::Error::io("list", path, e))?;
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let entry = Entry::of(&path.join(&name))?;
        entries.push(Entry { path: name, ..entry });
    }
    Ok(entries)
}

fn stat(path: &Path, wants_layout: bool, report: &mut Report) -> anyhow::Result<()> {
    let entry = Entry::of(path)?;
    let mut value = describe(&entry);
    value["path"] = json!(path);
    report.line(format!("kind       {}", kind(entry.kind)));
    report.line(format!("size       {} bytes", format::count(entry.size)));
    report.line(format!("allocated  {} bytes", format::count(entry.allocated)));
    report.line(format!("mode       {:04o}", entry.mode));
    if wants_layout {
        let found = layout::layout(path)?;
        let direct = match found.direct {
            Some(needs) if needs.reported => format!("multiples of {} bytes", needs.offset),
            Some(_) => "the flag is taken, nothing is reported".into(),
            None if path.is_dir() => "ask for a file".into(),
            None => "none".into(),
        };
        report.line(format!("storage    {} ({:#x})", found.file_system, found.magic));
        report.line(format!("block      {} bytes", found.block_bytes));
        report.line(format!("free       {}", format::bytes(found.free_bytes)));
        report.line(format!("direct     {direct}"));
        if let (Some(bytes), Some(count)) = (found.stripe_bytes, found.stripe_count) {
            report.line(format!("stripes    {} over {count}", format::bytes(bytes)));
        }
        for (name, text) in &found.attributes {
            report.line(format!("{name}  {text}"));
        }
        value["layout"] = json!({
            "file_system": found.file_system,
            "magic": found.magic,
            "block_bytes": found.block_bytes,
            "free_bytes": found.free_bytes,
            "direct_alignment": found.direct.filter(|d| d.reported).map(|d| d.offset),
            "stripe_bytes": found.stripe_bytes,
            "stripe_count": found.stripe_count,
            "attributes": found.attributes.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        });
    }
    report.json(value);
    Ok(())
}

fn cat(paths: &[PathBuf]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for path in paths {
        match forebay_store::fs::cat::cat(path, &mut out)? {
            // A reader that has seen enough, such as `head`, is no error.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => {
                written.with_context(|| format!("cannot copy {} to stdout", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Failures as lines on stderr; the exit code becomes 1 if there are any.
fn tell_failures(tally: &Tally, report: &mut Report) -> Vec<Value> {
    let failures = tally.take_failures();
    for failure in &failures {
        let cause =
            std::error::Error::source(&failure.error).map_or(String::new(), |e| format!(": {e}"));
        eprintln!("failed: {}{cause}", failure.error);
    }
    if !failures.is_empty() {
        report.failed();
        report.hint("the rest is done; the same command tries these again");
    }
    failures.iter().map(|f| json!({ "path": f.path, "error": f.error.to_string() })).collect()
}

fn rm(
    paths: &[PathBuf],
    recursive: bool,
    threads: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let tally = Tally::default();
    for path in paths {
        let entry = Entry::of(path)?;
        if entry.kind == Kind::Directory && !recursive {
            let what = format!("{} is a directory: give --recursive to remove it", path.display());
            return Err(Usage(what).into());
        }
        remove(path, threads, &tally)?;
    }
    let (files, bytes) = (tally.files.load(Ordering::Relaxed), tally.bytes.load(Ordering::Relaxed));
    report.line(format!(
        "remove  {:>10} files  {:>12}",
        format::count(files),
        format::bytes(bytes)
    ));
    let failures = tell_failures(&tally, report);
    report.json(json!({ "removed": files, "bytes": bytes, "failures": failures }));
    Ok(())
}

fn du(path: &Path, threads: usize, report: &mut Report) -> anyhow::Result<()> {
    let tally = Tally::default();
    let entries = walk(path, threads, &tally)?;
    let files = entries.iter().filter(|e| e.kind != Kind::Directory).count() as u64;
    let size: u64 = entries.iter().filter(|e| e.kind == Kind::File).map(|e| e.size).sum();
    let allocated: u64 = entries.iter().map(|e| e.allocated).sum();
    report.line(format!("files  {:>14}", format::count(files)));
    report.line(format!("long   {:>14}   {} bytes", format::bytes(size), format::count(size)));
    report.line(format!(
        "taken  {:>14}   {} bytes",
        format::bytes(allocated),
        format::count(allocated)
    ));
    let failures = tell_failures(&tally, report);
    report.json(json!({
        "files": files,
        "bytes": size,
        "allocated_bytes": allocated,
        "failures": failures,
    }));
    Ok(())
}

fn examine(paths: &[PathBuf], sweep: bool, report: &mut Report) -> anyhow::Result<()> {
    let here = [PathBuf::from(".")];
    let places: Vec<&Path> =
        if paths.is_empty() { &here[..] } else { paths }.iter().map(PathBuf::as_path).collect();
    let checks = doctor::examine(&places);
    for check in &checks {
        let mark = if check.is_fine { "fine" } else { "no" };
        report.line(format!("{mark:<5} {:<20} {}", check.name, check.found));
        if !check.advice.is_empty() {
            report.line(format!("      {:<20} → {}", "", check.advice));
        }
    }
    let each = |c: &doctor::Check| json!({ "name": c.name, "fine": c.is_fine, "found": c.found, "advice": c.advice });
    let found = checks.iter().map(each).collect::<Vec<_>>();
    let orphans = orphans(sweep, report)?;
    report.json(json!({ "checks": found, "orphans": orphans }));
    Ok(())
}

/// Shared memory that clients of a 3FS left behind; removed if asked.
fn orphans(sweep: bool, report: &mut Report) -> anyhow::Result<Vec<Value>> {
    let mut told = Vec::new();
    let found = match usrbio::orphans() {
        Ok(found) => found,
        // Who may not look into all processes still wants to know the rest.
        Err(error) if !sweep => {
            report.line(format!("{:<5} {:<20} {error}: ask as root", "no", "3FS orphans"));
            return Ok(told);
        }
        Err(error) => return Err(error.into()),
    };
    for orphan in found {
        let removed = sweep && orphan.remove()?;
        let what = if removed { "swept" } else { "left" };
        let (bytes, path) = (format::bytes(orphan.bytes), orphan.path.display());
        report.line(format!("{what:<5} {bytes:>12}  {path}"));
        told.push(json!({ "path": orphan.path, "bytes": orphan.bytes, "removed": removed }));
    }
    if !told.is_empty() && !sweep {
        report.hint("nobody has these open: `forebay fs doctor --sweep` removes them");
    }
    Ok(told)
}
