use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use forebay_store::fs::Tally;
use forebay_store::fs::copy::{self, copy};
use serde_json::{Value, json};

use crate::args::Global;
use crate::format;
use crate::report::Report;

#[derive(Args)]
pub struct CopyArgs {
    /// What to copy
    pub from: PathBuf,
    /// Where to; a file goes into an existing directory by its name
    pub to: PathBuf,
    /// Read everything back from the disk and compare blake3 hashes
    #[arg(long)]
    pub verify: bool,
    /// Compare contents, not size and time, to find out what is there already
    #[arg(long)]
    pub checksum: bool,
    /// Give up a request to an object store after so many seconds, with all its attempts
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub timeout: u64,
}

impl CopyArgs {
    pub fn run(
        self,
        delete: bool,
        threads: usize,
        global: &Global,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let options =
            copy::Options { threads, verify: self.verify, delete, checksum: self.checksum };
        let tally = Arc::new(Tally::default());
        let stop = crate::run::stop_on_signals()?;
        let start = Instant::now();
        let shown = Shown::start(&tally, !global.quiet && !global.no_progress);
        let summary = self.copy(options, &tally, &stop);
        drop(shown);
        let ((summary, requests), took) = (summary?, start.elapsed().as_secs_f64().max(1e-9));
        let bytes = tally.bytes.load(Ordering::Relaxed);
        report.line(format!(
            "copy    {:>10} files  {:>12}   {}/s",
            format::count(summary.copied),
            format::bytes(bytes),
            format::bytes((bytes as f64 / took) as u64)
        ));
        for (name, count) in
            [("there", summary.skipped), ("delete", summary.deleted), ("verify", summary.verified)]
        {
            if count > 0 {
                report.line(format!("{name:<8}{:>10} files", format::count(count)));
            }
        }
        let failures = super::tell_failures(&tally, report);
        let mut value = json!({
            "copied": summary.copied,
            "skipped": summary.skipped,
            "deleted": summary.deleted,
            "verified": summary.verified,
            "bytes": bytes,
            "seconds": took,
            "stopped": summary.stopped,
            "failures": failures,
        });
        if let (Some(all), Some(requests)) = (value.as_object_mut(), requests.as_object()) {
            all.extend(requests.clone());
        }
        report.json(value);
        if summary.stopped {
            return Err(forebay_store::Error::Stopped.into());
        }
        Ok(())
    }
}

impl CopyArgs {
    /// Of files, or with an object store on either side; then its requests are counted, too.
    fn copy(
        &self,
        options: copy::Options,
        tally: &Tally,
        stop: &AtomicBool,
    ) -> anyhow::Result<(copy::Summary, Value)> {
        if !super::is_remote(&self.from) && !super::is_remote(&self.to) {
            return Ok((copy(&self.from, &self.to, options, tally, stop)?, json!({})));
        }
        #[cfg(not(feature = "s3"))]
        return Err(super::no_stores());
        #[cfg(feature = "s3")]
        {
            if self.checksum {
                let what = "--checksum compares files; objects have none to compare";
                return Err(crate::report::Usage(what.into()).into());
            }
            let deadline = Duration::from_secs(self.timeout.max(1));
            let settings = forebay_store::remote::Settings { deadline, ..Default::default() };
            let (from, to) = (self.from.to_string_lossy(), self.to.to_string_lossy());
            let (summary, stats) =
                forebay_store::remote::tree::copy(&from, &to, &settings, options, tally, stop)?;
            let requests = json!({
                "requests": stats.requests,
                "retries": stats.retries,
                "hedges_issued": stats.hedges_issued,
                "hedges_won": stats.hedges_won,
                "kept_bytes": stats.kept,
            });
            Ok((summary, requests))
        }
    }
}

/// A line every ten seconds, or a moving one on a terminal.
struct Shown(Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>);

impl Shown {
    fn start(tally: &Arc<Tally>, wanted: bool) -> Self {
        if !wanted {
            return Self(None);
        }
        let ended = Arc::new(AtomicBool::new(false));
        let (tally, end) = (Arc::clone(tally), Arc::clone(&ended));
        let terminal = std::io::stderr().is_terminal();
        let every = if terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        let thread = std::thread::spawn(move || {
            let start = Instant::now();
            loop {
                std::thread::park_timeout(every);
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let bytes = tally.bytes.load(Ordering::Relaxed);
                let line = format!(
                    "copy    {:>10} files  {:>12}   {}/s",
                    format::count(tally.files.load(Ordering::Relaxed)),
                    format::bytes(bytes),
                    format::bytes((bytes as f64 / start.elapsed().as_secs_f64()) as u64)
                );
                if terminal {
                    eprint!("\r{line}\x1b[K");
                } else {
                    eprintln!("{line}");
                }
            }
            if terminal {
                eprint!("\r\x1b[K");
            }
        });
        Self(Some((ended, thread)))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some((ended, thread)) = self.0.take() {
            ended.store(true, Ordering::Relaxed);
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
