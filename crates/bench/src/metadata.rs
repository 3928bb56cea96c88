//! Names rather than bytes: create, stat, open, list, rename and unlink per second.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use forebay_store::Error as StoreError;
use serde::Serialize;

use crate::Result;
use crate::histogram::Histogram;
use crate::spread::Spread;

/// What is done to every file, in this order.
pub const OPERATIONS: [&str; 6] = ["create", "stat", "open", "list", "rename", "unlink"];

/// One kind of operation.
#[derive(Debug, Clone, Serialize)]
pub struct Operation {
    /// Of [`OPERATIONS`].
    pub name: &'static str,
    /// Files in a second; for `list` entries in a second.
    pub per_second: Spread,
    /// Latency in microseconds over the repeats; for `list` of a whole directory.
    pub p50_us: Spread,
    /// As above.
    pub p99_us: Spread,
}

/// Measures each operation on `files` empty files, `jobs` threads with a directory each.
///
/// Works in a directory of its own under `path` and removes it. The kernel's cache of names is
/// warm for all but `create`.
///
/// # Errors
/// [`StoreError::Io`] naming the file.
pub fn measure(path: &Path, files: usize, jobs: usize, repeats: usize) -> Result<Vec<Operation>> {
    let mut rates = [const { Vec::new() }; 6];
    let mut quantiles = [const { (Vec::new(), Vec::new()) }; 6];
    for repeat in 0..repeats {
        let own = path.join(format!("forebay-meta-{}-{repeat}", std::process::id()));
        let directories: Vec<PathBuf> = (0..jobs).map(|job| own.join(job.to_string())).collect();
        for directory in std::iter::once(&own).chain(&directories) {
            fs::create_dir(directory)
                .map_err(|e| StoreError::io("create directory", directory, e))?;
        }
        let each = files.div_ceil(jobs).max(1);
        let done = (0..OPERATIONS.len()).try_for_each(|operation| -> Result<()> {
            let start = Instant::now();
            let histogram = all(&directories, each, operation)?;
            rates[operation].push((each * jobs) as f64 / start.elapsed().as_secs_f64());
            let micros = |q: f64| histogram.quantile(q) as f64 / 1e3;
            quantiles[operation].0.push(micros(0.5));
            quantiles[operation].1.push(micros(0.99));
            Ok(())
        });
        let removed = fs::remove_dir_all(&own).map_err(|e| StoreError::io("remove", &own, e));
        done?;
        removed?;
    }
    let figures = OPERATIONS.iter().zip(rates).zip(quantiles);
    Ok(figures
        .map(|((name, rates), (p50, p99))| Operation {
            name,
            per_second: Spread::of(rates),
            p50_us: Spread::of(p50),
            p99_us: Spread::of(p99),
        })
        .collect())
}

/// One operation on all files of all directories at once.
fn all(directories: &[PathBuf], each: usize, operation: usize) -> Result<Histogram> {
    let next = AtomicUsize::new(0);
    let results: Vec<Result<Histogram>> = std::thread::scope(|scope| {
        let job = || {
            let directory = &directories[next.fetch_add(1, Ordering::Relaxed)];
            one(directory, each, operation)
        };
        let threads: Vec<_> = directories.iter().map(|_| scope.spawn(job)).collect();
        let died = || Err(crate::Error::Usage("a job of the benchmark died".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    });
    let mut sum = Histogram::default();
    for result in results {
        sum.add(&result?);
    }
    Ok(sum)
}

fn one(directory: &Path, each: usize, operation: usize) -> Result<Histogram> {
    let mut histogram = Histogram::default();
    let name = |n: usize| directory.join(format!("{n:08}"));
    let moved = |n: usize| directory.join(format!("{n:08}.renamed"));
    if OPERATIONS[operation] == "list" {
        let start = Instant::now();
        let entries = fs::read_dir(directory).map_err(|e| StoreError::io("list", directory, e))?;
        let found = entries.flatten().count();
        histogram.record(start.elapsed().as_nanos() as u64);
        if found != each {
            let wrong = format!("found {found} of {each} files");
            let source = std::io::Error::other(wrong);
            return Err(StoreError::io("list", directory, source).into());
        }
        return Ok(histogram);
    }
    for n in 0..each {
        let path = if OPERATIONS[operation] == "unlink" { moved(n) } else { name(n) };
        let start = Instant::now();
        let done = match OPERATIONS[operation] {
            "create" => fs::File::create_new(&path).map(drop),
            "stat" => fs::metadata(&path).map(drop),
            "open" => fs::File::open(&path).map(drop),
            "rename" => fs::rename(&path, moved(n)),
            _ => fs::remove_file(&path),
        };
        histogram.record(start.elapsed().as_nanos() as u64);
        done.map_err(|e| StoreError::io(OPERATIONS[operation], &path, e))?;
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_measured_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let operations = measure(dir.path(), 100, 2, 2).unwrap();
        assert_eq!(operations.len(), 6);
        assert!(operations.iter().all(|o| o.per_second.min > 0.0), "{operations:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = measure(Path::new("/nowhere/at/all"), 1, 1, 1).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
