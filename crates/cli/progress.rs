//! Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_pipeline::{Progress, Snapshot, Unit};
use indicatif::{ProgressBar, ProgressStyle};

use crate::format;

const TICK: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows a [`Progress`] until dropped.
pub struct Bar {
    progress: Arc<Progress>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    /// `wanted`: show it; `verbose`: say how long each stage took. `stop` ends the run when set.
    pub fn start(wanted: bool, verbose: bool, stop: Arc<AtomicBool>) -> Self {
        let progress = Arc::new(Progress::new(stop));
        let ended = Arc::new(AtomicBool::new(false));
        let thread = (wanted || verbose).then(|| {
            let (progress, ended) = (Arc::clone(&progress), Arc::clone(&ended));
            std::thread::spawn(move || show(&progress, &ended, wanted, verbose))
        });
        Self { progress, ended, thread }
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn show(progress: &Progress, ended: &AtomicBool, wanted: bool, verbose: bool) {
    let bar = (wanted && std::io::stderr().is_terminal()).then(|| ProgressBar::new(0));
    let (mut stage, mut since) = ("", Instant::now());
    let mut last_line = Instant::now();
    let mut told_stop = false;
    loop {
        let now = progress.snapshot();
        let end = ended.load(Ordering::Relaxed);
        if let Some(now) = now
            && (now.stage != stage || end)
        {
            if verbose && !stage.is_empty() {
                eprintln!("{stage:<7}{:.2} s", since.elapsed().as_secs_f64());
            }
            if now.stage != stage {
                (stage, since) = (now.stage, Instant::now());
                if let Some(bar) = &bar {
                    restyle(bar, now);
                }
            }
        }
        if end {
            break;
        }
        if progress.stopped() && !std::mem::replace(&mut told_stop, true) {
            eprintln!("stopping after the work in hand; again to stop at once");
        }
        match (&bar, now) {
            (Some(bar), Some(now)) => bar.set_position(now.done),
            (None, Some(now)) if wanted && last_line.elapsed() >= LINE_EVERY => {
                eprintln!("{}", line(now, since.elapsed()));
                last_line = Instant::now();
            }
            _ => {}
        }
        std::thread::park_timeout(TICK);
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

fn restyle(bar: &ProgressBar, now: Snapshot) {
    let template = match now.unit {
        Unit::Bytes if now.total > 0 => {
            "{msg:<7}{bar:30} {bytes:>10} of {total_bytes:<10} {binary_bytes_per_sec}, {eta} left"
        }
        Unit::Bytes => "{msg:<7}{bytes:>10} {binary_bytes_per_sec}",
        Unit::Steps => "{msg:<7}{bar:30} {pos} of {len}, {eta} left",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
    bar.set_length(now.total);
    bar.set_message(now.stage);
    bar.reset();
}

fn line(now: Snapshot, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let rate = now.done as f64 / seconds;
    let (done, total) = match now.unit {
        Unit::Bytes => (format::bytes(now.done), format::bytes(now.total)),
        Unit::Steps => (now.done.to_string(), now.total.to_string()),
    };
    let mut line = format!("{:<7}{done}", now.stage);
    if now.total > 0 {
        line += &format!(" of {total}");
    }
    if now.unit == Unit::Bytes {
        line += &format!(", {}/s", format::bytes(rate as u64));
    }
    if now.total > now.done && rate > 0.0 {
        line += &format!(", {:.0} s left", (now.total - now.done) as f64 / rate);
    }
    line
}
