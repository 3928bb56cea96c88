//! Tasks: pieces of a run that can be done apart, again, and on any machine that sees the output.
//!
//! ```text
//! read 0/n … n-1/n ─▶ [exact ─▶ url ─▶ link ─▶ thin ─▶ group ─▶ place ─▶ compare, each 0/n … n-1/n] ─▶ find ─▶ write 0/m … m-1/m ─▶ finish
//! ```
//! The rounds in brackets may be left out: `find` then looks for duplicates alone.
//! A task leaves a file that says so, written last; one that finds it has nothing to do. Two copies
//! of a task write the same bytes under names of their own and rename them, so that neither harms
//! the other. The bytes of the dataset are those of a run on one machine, whatever `n` and `m` are.
//!
//! Tasks hold the output together against a run on one machine, which wants it for itself. Spool
//! parts lie beside the output, where all machines see them, and are on disk before a task ends.

use std::fmt;
use std::str::FromStr;

use forebay_shard::input;
use forebay_store::Lock;

use crate::progress::Progress;
use crate::recipe::{Job, is_uri};
use crate::round::Round;
use crate::run::{Asked, Equipment, Finished, allow_many_files};
use crate::work::{Start, Work};
use crate::{Error, Result, dedup, journal, read, round, write};

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
    /// A share of a round of the search for duplicates.
    Search(Round, Share),
    /// Duplicates and repeated text, among all parts; what rounds have found is not looked for again.
    Find,
    /// Spool parts to shards.
    Write(Share),
    /// The dataset.
    Finish,
}

/// A stage of a run, as executors see it: its name, and whether shares do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct StageTasks {
    /// As [`Task::parse`] takes it.
    pub stage: &'static str,
    /// So many tasks at most; what reads columns of keys reads them whole, whatever its share.
    pub most: usize,
}

impl StageTasks {
    /// How many tasks it has, if other stages have `tasks`.
    pub fn count(&self, tasks: usize) -> usize {
        tasks.clamp(1, self.most)
    }
}

/// Each reads the column: 16 B a document.
const MOST_OF_A_COLUMN: usize = 64;
/// Each reads the tables of all runs; more shares would read nothing else.
const MOST_OF_RUNS: usize = 256;

impl Task {
    /// The task of a stage by its name. A stage that is done by one machine has no shares.
    pub fn parse(stage: &str, share: Share) -> Option<Self> {
        let share = if stage == Round::Group.name() { Share::default() } else { share };
        Some(match stage {
            "read" => Self::Read(share),
            "find" => Self::Find,
            "write" => Self::Write(share),
            "finish" => Self::Finish,
            other => {
                Self::Search(Round::ALL.into_iter().find(|round| round.name() == other)?, share)
            }
        })
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(share) => write!(f, "read {share}"),
            Self::Search(round, share) => write!(f, "{round} {share}"),
            Self::Find => f.write_str("find"),
            Self::Write(share) => write!(f, "write {share}"),
            Self::Finish => f.write_str("finish"),
        }
    }
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
    /// The stages of the run in their order: each may begin when all tasks of the one before are done.
    pub fn stages(&self) -> Vec<StageTasks> {
        let shares = |stage| StageTasks { stage, most: usize::MAX };
        let single = |stage| StageTasks { stage, most: 1 };
        let bands = self.options.steps.fuzzy.map_or(1, |fuzzy| fuzzy.bands);
        let rounds = Round::all(&self.options.steps).into_iter().map(|round| StageTasks {
            stage: round.name(),
            most: match round {
                Round::Group => 1,
                Round::Exact | Round::Url => MOST_OF_A_COLUMN,
                // A share of a quarter of a band reads it all.
                Round::Link | Round::Place => 4 * bands,
                Round::Thin => MOST_OF_RUNS,
                Round::Compare => usize::MAX,
            },
        });
        let ends = [single("find"), shares("write"), single("finish")];
        [shares("read")].into_iter().chain(rounds).chain(ends).collect()
    }

    /// Bytes that each of `of` shares of `read` reads. One that reads none need not be done.
    ///
    /// # Errors
    /// If an input cannot be found.
    pub fn bytes_to_read(&self, of: usize) -> Result<Vec<u64>> {
        let sources = input::discover(&self.inputs, &self.options.input, Some(&self.out))?;
        let mut bytes = vec![0; of];
        for (number, source) in sources.iter().enumerate() {
            let size: u64 = source.files().iter().map(|file| file.bytes).sum();
            // Also one that is empty is read: its task says so.
            bytes[number % of] += size.max(1);
        }
        Ok(bytes)
    }

    /// Does one task. The last one, [`Task::Finish`], returns the dataset; it also does what other
    /// tasks have left undone.
    ///
    /// # Errors
    /// Whatever stops it, so also a missing task before it; the task can be done again.
    pub fn perform(&self, task: Task, progress: &Progress) -> Result<Option<Finished>> {
        self.shared()?;
        journal::kept(&self.out, &task.to_string(), progress, || self.attempt(task, progress))
    }

    /// Tasks need a directory that all of their machines see.
    pub(crate) fn shared(&self) -> Result<()> {
        if is_uri(&self.out.to_string_lossy()) {
            let what = "tasks meet in a directory that all machines see; expected one, found a URI";
            return Err(Error::key("output.path", what));
        }
        Ok(())
    }

    fn attempt(&self, task: Task, progress: &Progress) -> Result<Option<Finished>> {
        let Self { stage, inputs, out, options, vocabulary, execution, .. } = self;
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
        if let Task::Search(round, share) = task {
            if !work.is_found() {
                let corpus = asked.corpus(&work, parts)?;
                round::perform(&dedup::stage(&work, &corpus, execution, progress)?, round, share)?;
            }
            return Ok(None);
        }
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
            Task::Read(_) | Task::Search(..) | Task::Find => Ok(None),
            Task::Write(share) => {
                let equipment = Equipment::new(&work, self.tokenizer()?, vocabulary, execution)?;
                let (outcome, encoder) = (found.outcome(), equipment.encoder());
                write::run(&work, &outcome, &encoder, share, execution, progress)?;
                Ok(None)
            }
            Task::Finish => {
                let tokenizer = self.tokenizer()?;
                asked.finish(work, &found, tokenizer, vocabulary, execution, progress).map(Some)
            }
        }
    }
}
