//! Who is at work, and how long what is done took: files in the work directory, for `--status` on
//! any machine.
//!
//! ```text
//! TASK.HOST-PROCESS.running   locked while its process lives, written over every second
//! TASK.took                   the task is done: how long its stages took
//! ```
//! Durations are of the steady clock of the machine that did the work. Nothing here looks at the
//! time of a file or compares two clocks: those of several machines need not agree.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_shard::manifest::WORK;
use forebay_store::{Lock, NewFile};
use serde::{Deserialize, Serialize};

use crate::progress::{Leg, Progress};
use crate::task::Share;

/// Most tasks end before it, and leave no such file.
const FIRST: Duration = Duration::from_millis(200);
const EVERY: Duration = Duration::from_secs(1);
/// Of a file: written at once, so whoever reads it sees one state or the next.
const BLOCK_BYTES: usize = 4096;

/// A process that is at a task, or was when it died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Stage and share, or `run` for a run on one machine.
    pub task: String,
    /// The machine.
    pub host: String,
    /// Its number there.
    pub process: u32,
    /// The stages that it went through; it is in the last one.
    pub legs: Vec<Leg>,
}

/// A task that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Took {
    pub(crate) task: String,
    pub(crate) host: String,
    pub(crate) seconds: f64,
    pub(crate) legs: Vec<Leg>,
}

/// The name of this machine.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

/// As a name of a file.
pub(crate) fn slug(task: &str) -> String {
    task.replace([' ', '/'], "-")
}

/// The stage of a task, and which share it is.
pub(crate) fn stage_of(task: &str) -> (&str, Share) {
    let (stage, share) = task.split_once(' ').unwrap_or((task, ""));
    (stage, share.parse().unwrap_or_default())
}

/// Does `work` while a file in the work directory of `out` says so.
pub(crate) fn beating<T>(
    out: &Path,
    task: &str,
    progress: &Progress,
    work: impl FnOnce() -> T,
) -> T {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beat = scope.spawn(|| beat(&out.join(WORK), task, progress, &ended));
        // Also if the work panics, or the scope waits for ever.
        let _end = End(&ended, beat.thread().clone());
        work()
    })
}

struct End<'a>(&'a AtomicBool, std::thread::Thread);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.unpark();
    }
}

fn beat(work: &Path, task: &str, progress: &Progress, ended: &AtomicBool) {
    let (host, process) = (host(), std::process::id());
    let path = work.join(format!("{}.{host}-{process}.running", slug(task)));
    let mut held = None;
    std::thread::park_timeout(FIRST);
    while !ended.load(Ordering::Acquire) {
        // Advice all of it: a store that cannot be written to is told by the work itself.
        if held.is_none() && work.is_dir() {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            held = file.ok().zip(Lock::take(&path).ok());
        }
        if let Some((file, _)) = &held {
            let (task, host, mut legs) = (task.to_owned(), host.clone(), progress.legs());
            // The last ones, if a run had so many that they do not fit.
            legs.drain(..legs.len().saturating_sub(24));
            let running = Running { task, host, process, legs };
            let mut block = serde_json::to_vec(&running).unwrap_or_default();
            block.resize(BLOCK_BYTES, b' ');
            let _ = file.write_all_at(&block, 0);
        }
        std::thread::park_timeout(EVERY);
    }
    if held.is_some() {
        let _ = std::fs::remove_file(&path);
        // It may have come into a work directory that was just being removed; one that is in use
        // is not empty.
        let _ = std::fs::remove_dir(work);
    }
}

/// Records that a task is done, if nothing does yet.
pub(crate) fn took(out: &Path, task: &str, progress: &Progress, time: Duration) {
    let path = out.join(WORK).join(format!("{}.took", slug(task)));
    let legs = progress.legs();
    // One that found everything done took no time.
    if legs.is_empty() || path.exists() {
        return;
    }
    let took = Took { task: task.to_owned(), host: host(), seconds: time.as_secs_f64(), legs };
    let json = serde_json::to_vec(&took).unwrap_or_default();
    // Advice: not worth a wait for the disk, nor an error.
    let _ = NewFile::create(&path).and_then(|mut file| {
        file.append(&json)?;
        file.rename()
    });
}

/// What the files in a work directory say.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    /// Processes that live.
    pub(crate) running: Vec<Running>,
    /// Those that died at a task that nobody has done since.
    pub(crate) lost: Vec<Running>,
    pub(crate) took: Vec<Took>,
}

impl Pulses {
    /// `names` are those of the files in `work`.
    pub(crate) fn of(work: &Path, names: &[String]) -> Self {
        let mut found = Self::default();
        for name in names {
            let path = work.join(name);
            if name.ends_with(".took") {
                let bytes = std::fs::read(&path).unwrap_or_default();
                found.took.extend(serde_json::from_slice::<Took>(&bytes));
            }
            if name.ends_with(".running") {
                let Some(running) = read(&path) else { continue };
                let all = if Lock::is_held(&path) { &mut found.running } else { &mut found.lost };
                all.push(running);
            }
        }
        let (running, took) = (&found.running, &found.took);
        let task_of = |lost: &Running| {
            let again = running.iter().any(|running| running.task == lost.task);
            again || took.iter().any(|took| took.task == lost.task)
        };
        found.lost.retain(|lost| !task_of(lost));
        found.running.sort_by(|a, b| a.task.cmp(&b.task));
        found.lost.sort_by(|a, b| a.task.cmp(&b.task));
        found
    }
}

fn read(path: &Path) -> Option<Running> {
    // Over a network two halves of two states may be read: another look sees one of them.
    (0..3).find_map(|_| serde_json::from_slice(&std::fs::read(path).ok()?).ok())
}

/// Removes what processes that died have left in `work`; nobody else is at it.
pub(crate) fn clear_lost(work: &Path, names: &[String]) {
    for path in names.iter().filter(|name| name.ends_with(".running")).map(|name| work.join(name)) {
        if !Lock::is_held(&path) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Seconds until `of` tasks of a stage are done, about: what those at work have left, and the
/// others at the pace of those that are done. `None` if nothing tells.
pub(crate) fn seconds_left(pulses: &Pulses, stage: &str, of: usize) -> Option<f64> {
    let of_stage = |task: &str| stage_of(task).0 == stage;
    let took: Vec<f64> = pulses
        .took
        .iter()
        .filter(|took| of_stage(&took.task) && stage_of(&took.task).1.of == of)
        .map(|took| took.seconds)
        .collect();
    let mean = (!took.is_empty()).then(|| took.iter().sum::<f64>() / took.len() as f64);
    let running: Vec<&Running> =
        pulses.running.iter().filter(|running| of_stage(&running.task)).collect();
    let mut left = 0.0;
    for running in &running {
        let spent: f64 = running.legs.iter().map(|leg| leg.seconds).sum();
        let whole = running.legs.last().and_then(Leg::seconds_left).map(|left| spent + left);
        left += (whole.or(mean)? - spent).max(0.0);
    }
    let waiting = of.saturating_sub(took.len() + running.len());
    if waiting > 0 {
        left += waiting as f64 * mean?;
    }
    (!running.is_empty()).then(|| left / running.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Unit;

    fn names(work: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(work).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn who_is_at_work_is_seen_while_it_lives_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join(WORK);
        std::fs::create_dir(&work).unwrap();
        // One that is in use is never empty.
        std::fs::write(work.join("plan.json"), "{}").unwrap();
        let progress = Progress::default();
        beating(dir.path(), "read 1/4", &progress, || {
            progress.start("read", Unit::Bytes, 1000);
            progress.add(250);
            let mut seen = Pulses::default();
            while seen.running.first().is_none_or(|running| running.legs.is_empty()) {
                std::thread::sleep(Duration::from_millis(5));
                seen = Pulses::of(&work, &names(&work));
            }
            let running = &seen.running[0];
            assert_eq!((running.task.as_str(), running.process), ("read 1/4", std::process::id()));
            let leg = &running.legs[0];
            assert_eq!((leg.stage.as_str(), leg.done, leg.total), ("read", 250, 1000));
            assert!(leg.seconds > 0.0 && leg.bytes);
            // As if its process had died: the file is there, nobody holds it.
            let of_mine = |name: &String| name.ends_with(".running");
            let file = work.join(names(&work).into_iter().find(of_mine).unwrap());
            let copy = work.join("read-2-4.elsewhere-7.running");
            let text = std::fs::read_to_string(&file).unwrap().replace("1/4", "2/4");
            std::fs::write(&copy, text).unwrap();
            let seen = Pulses::of(&work, &names(&work));
            assert_eq!((seen.running.len(), seen.lost.len()), (1, 1));
            assert_eq!(seen.lost[0].task, "read 2/4");
            clear_lost(&work, &names(&work));
            assert!(file.exists() && !copy.exists());
        });
        took(dir.path(), "read 1/4", &progress, Duration::from_secs(2));
        let seen = Pulses::of(&work, &names(&work));
        assert_eq!((seen.running.len(), seen.lost.len(), seen.took.len()), (0, 0, 1));
        assert_eq!((seen.took[0].seconds, seen.took[0].legs[0].done), (2.0, 250));
    }

    #[test]
    fn a_panic_at_work_ends_its_beat() {
        let dir = tempfile::tempdir().unwrap();
        let ended = std::panic::catch_unwind(|| {
            beating(dir.path(), "run", &Progress::default(), || panic!("as it may"));
        });
        assert!(ended.is_err());
    }

    fn leg(done: u64, total: u64, seconds: f64) -> Leg {
        Leg { stage: "read".into(), bytes: true, done, total, seconds }
    }

    #[test]
    fn the_time_that_is_left_follows_from_what_was_done() {
        let (host, process) = (String::new(), 1);
        let running =
            |task: &str, legs| Running { task: task.into(), host: host.clone(), process, legs };
        let took = |task: &str, seconds| Took {
            task: task.into(),
            host: host.clone(),
            seconds,
            legs: Vec::new(),
        };
        let mut pulses = Pulses::default();
        assert_eq!(seconds_left(&pulses, "read", 4), None);
        // A quarter in 5 s: 15 s are left of it, and nothing is known of the others.
        pulses.running = vec![running("read 0/4", vec![leg(25, 100, 5.0)])];
        assert_eq!(seconds_left(&pulses, "read", 1), Some(15.0));
        assert_eq!(seconds_left(&pulses, "read", 4), None);
        // One took 10 s: two wait, for 20 s of one machine.
        pulses.took = vec![took("read 1/4", 10.0), took("link 0/4", 1000.0), took("read 0/2", 1e6)];
        assert_eq!(seconds_left(&pulses, "read", 4), Some(35.0));
        // Two machines share it; the second has just begun.
        pulses.running.push(running("read 2/4", Vec::new()));
        assert_eq!(seconds_left(&pulses, "read", 4), Some((15.0 + 10.0 + 10.0) / 2.0));
    }
}
