//! Tasks: pieces of a run that can be done apart, again, and on any machine that sees the output.
//!
//! ```text
//! read 0/n … read n-1/n ─▶ find ─▶ write 0/m … write m-1/m ─▶ finish
//! ```
//! A task leaves a file that says so, written last; one that finds it has nothing to do. Two copies
//! of a task write the same bytes under names of their own and rename them, so that neither harms
//! the other. The bytes of the dataset are those of a run on one machine, whatever `n` and `m` are.
//!
//! Tasks hold the output together against a run on one machine, which wants it for itself. Spool
//! parts lie beside the output, where all machines see them, and are on disk before a task ends.

use std::fmt;
use std::str::FromStr;

use forebay_store::Lock;

use crate::progress::Progress;
use crate::recipe::Job;
use crate::run::{Asked, Equipment, Finished, allow_many_files, load_tokenizer};
use crate::work::{Start, Work};
use crate::{Error, Result, read, write};

/// One of `of` equal shares of a stage: every `of`-th input or shard, from the `number`-th on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub number: usize,
    /// At least one.
    pub of: usize,
}

/// A piece of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Inputs to spool parts.
    Read(Share),
    /// Duplicates and repeated text, among all parts.
    Find,
    /// Spool parts to shards.
    Write(Share),
    /// The dataset.
    Finish,
}

impl Default for Share {
    /// All of it.
    fn default() -> Self {
        Self { number: 0, of: 1 }
    }
}

impl Share {
    /// Does it hold the input, or the shard, of this number?
    pub(crate) fn holds(self, number: usize) -> bool {
        number % self.of == self.number
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Share {
    type Err = String;

    /// `3/16`: the fourth of sixteen.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(number, of)| {
            Some(Self { number: number.parse().ok()?, of: of.parse().ok()? })
        });
        numbers
            .filter(|share| share.number < share.of)
            .ok_or_else(|| format!("expected a share such as 0/16, found `{text}`"))
    }
}

impl Job {
    /// Does one task. The last one, [`Task::Finish`], returns the dataset; it also does what other
    /// tasks have left undone.
    ///
    /// # Errors
    /// Whatever stops it, so also a missing task before it; the task can be done again.
    pub fn perform(&self, task: Task, progress: &Progress) -> Result<Option<Finished>> {
        let Self { stage, inputs, out, options, vocabulary, execution } = self;
        let vocabulary = vocabulary.as_ref();
        let asked = Asked::new(stage, inputs, out, options, vocabulary)?;
        let work = match Work::join(out, asked.plan.clone())? {
            Start::Unfinished(work) => *work,
            Start::Finished(manifest) => return Ok(Some(Finished::already(*manifest))),
        };
        allow_many_files();
        if let Task::Read(share) = task {
            read::share(&work, asked.evals.as_ref(), share, execution, progress)?;
            return Ok(None);
        }
        let parts = read::all(&work)?;
        // One machine at a time; the others read what it found.
        let lock = match task {
            Task::Find => Some("find.lock"),
            Task::Finish => Some("finish.lock"),
            _ => None,
        };
        let _lock = lock.map(|name| Lock::take(&work.path(name))).transpose()?;
        if task != Task::Find && !work.is_found() {
            return Err(Error::NotFound { out: out.clone() });
        }
        let found = asked.find(&work, parts, execution, progress)?;
        match task {
            Task::Read(_) | Task::Find => Ok(None),
            Task::Write(share) => {
                let tokenizer = load_tokenizer(&work, vocabulary)?;
                let equipment = Equipment::new(&work, tokenizer.as_ref(), vocabulary, execution)?;
                let (outcome, encoder) = (found.outcome(), equipment.encoder());
                write::run(&work, &outcome, &encoder, share, execution, progress)?;
                Ok(None)
            }
            Task::Finish => {
                let tokenizer = load_tokenizer(&work, vocabulary)?;
                let tokenizer = tokenizer.as_ref();
                asked.finish(work, &found, tokenizer, vocabulary, execution, progress).map(Some)
            }
        }
    }
}
