//! What failed, and when: a file a task in the work directory, for `--status` on any machine.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use forebay_shard::manifest::WORK;
use forebay_store::publish_bytes;
use serde::{Deserialize, Serialize};

use crate::progress::Progress;
use crate::pulse::{self, host, slug};
use crate::{Error, Result};

/// A task that failed, and was not done since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its stage and share, or `run`.
    pub task: String,
    /// What stopped it.
    pub error: String,
    /// Name of the machine that it ran on.
    pub host: String,
    /// Seconds since 1970, by that machine's clock; to be read by people, who know about clocks.
    pub at: u64,
}

/// Does `work`, and leaves a word in `out`: that it is at it, how long it took, or why it failed. An
/// interruption is no failure.
pub(crate) fn kept<T>(
    out: &Path,
    task: &str,
    progress: &Progress,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let file = out.join(WORK).join(format!("{}.failed", slug(task)));
    progress.begin();
    let start = Instant::now();
    let done = pulse::beating(out, task, progress, work);
    match &done {
        // Refused, since another one is at it: nothing of that one has failed.
        Err(Error::Interrupted | Error::Store(forebay_store::Error::Locked { .. })) => {}
        // Where there is no work directory, nothing was begun.
        Err(error) if file.parent().is_some_and(Path::exists) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let (task, error, at) = (task.to_owned(), error.to_string(), now.as_secs());
            let host = host();
            let failure = Failure { task, error, host, at };
            // A store that cannot be written to is told by the error itself.
            let _ = publish_bytes(&file, &serde_json::to_vec(&failure).unwrap_or_default());
        }
        Err(_) => {}
        Ok(_) => {
            let _ = std::fs::remove_file(file);
            if out.join(WORK).is_dir() {
                pulse::took(out, task, progress, start.elapsed());
            }
        }
    }
    done
}

/// What failed in `work`, a work directory, in the order of the tasks' names.
pub(crate) fn failures(work: &Path) -> Vec<Failure> {
    let entries = std::fs::read_dir(work).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let failed = paths.filter(|path| path.extension().is_some_and(|end| end == "failed"));
    let mut failures: Vec<Failure> =
        failed.filter_map(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok()).collect();
    failures.sort_by(|a, b| a.task.cmp(&b.task));
    failures
}

/// How often something that may pass is tried again, and how long after.
const WAITS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1600)];

/// Does `work`, and again a little later if what stopped it may have passed.
pub(crate) fn retried<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    for wait in WAITS {
        match work() {
            Err(error) if may_pass(&error) => std::thread::sleep(wait),
            done => return done,
        }
    }
    work()
}

/// Errors of storage behind a network: the same call may work in a moment.
fn may_pass(error: &Error) -> bool {
    let mut at = Some(error as &dyn std::error::Error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use rustix::io::Errno;
            let codes = [Errno::IO, Errno::REMOTEIO, Errno::STALE, Errno::TIMEDOUT, Errno::NOTCONN]
                .map(Errno::raw_os_error);
            return io.raw_os_error().is_some_and(|code| codes.contains(&code));
        }
        at = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> Error {
        let io = std::io::Error::from_raw_os_error(code);
        forebay_store::Error::io("read", Path::new("a"), io).into()
    }

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_else() {
        for (code, succeeds_at, tries) in [(5, 3, 3), (116, 2, 2), (5, 9, 4), (2, 9, 1), (28, 9, 1)]
        {
            let mut tried = 0;
            let done = retried(|| {
                tried += 1;
                if tried >= succeeds_at { Ok(tried) } else { Err(error(code)) }
            });
            assert_eq!((tried, done.is_ok()), (tries, succeeds_at <= tries), "{code}");
        }
    }

    #[test]
    fn a_failure_stays_until_the_task_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let (work, progress) = (dir.path().join(WORK), Progress::default());
        assert!(kept::<()>(dir.path(), "read 0/2", &progress, || Err(error(5))).is_err());
        assert!(!work.exists(), "nothing was begun");
        std::fs::create_dir(&work).unwrap();
        assert!(kept::<()>(dir.path(), "read 0/2", &progress, || Err(error(5))).is_err());
        assert!(kept::<()>(dir.path(), "find", &progress, || Err(Error::Interrupted)).is_err());
        let found = failures(&work);
        assert_eq!((found.len(), found[0].task.as_str()), (1, "read 0/2"));
        assert!(found[0].error.contains("read"), "{found:?}");
        kept(dir.path(), "read 0/2", &progress, || Ok(())).unwrap();
        assert_eq!(failures(&work), []);
    }
}
