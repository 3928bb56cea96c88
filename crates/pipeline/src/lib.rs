//! A run: stages over partitions, bounded memory, resumable at any instant.
//!
//! ```text
//! inputs ─▶ read ─▶ spool parts ─▶ dedup ─▶ survivors ─▶ cuts ─▶ write ─▶ shards ─▶ manifest
//!           parse, hash, sign      sort keys,            sort    gather in order,
//!           a part per task        compare texts         pieces  tokenize, a shard per task
//! ```
//!
//! * **Read** parses the inputs once. Texts go to spool parts, each sorted by shuffle key, with the
//!   keys that dedup needs beside them.
//! * **Dedup** sorts the keys alone, then looks up and compares the texts that share a bucket.
//! * **Cuts** are ranges of bytes that stand elsewhere too, in what stays.
//! * **Write** takes a range of shuffle keys from every part, which is a range of the shuffled
//!   corpus: no document is looked up, every spool byte is read once, in order.
//!
//! Parts of an [`index`] of earlier runs stand before the run's own: they are compared with, and
//! not written.
//!
//! Every task writes under a temporary name and commits by rename, so a killed run goes on where
//! it was, and the bytes of the output do not depend on threads, memory or kills.
//!
//! Start at [`run()`], or at [`Recipe::read`] for a run written down; [`datatrove`] and [`train`] are apart from it.

mod compare;
mod corpus;
mod cuts;
pub mod datatrove;
mod dedup;
#[doc(hidden)]
pub mod direct;
mod error;
mod evals;
pub mod index;
mod journal;
mod ordered;
mod outcome;
mod outline;
mod part;
mod plan;
mod progress;
mod pulse;
mod read;
pub mod recipe;
pub mod records;
mod removed;
mod round;
mod run;
mod sign;
pub mod slurm;
mod sort;
mod spool;
mod stage;
mod stats;
mod status;
mod survivors;
mod task;
pub mod train;
mod work;
mod write;

pub use error::{Error, Result};
pub use forebay_transform::{dedup::Fuzzy, tokenize};
pub use journal::Failure;
pub use outline::{Outline, PlannedTask, Stage};
pub use plan::{Cuts, EvalOptions, Execution, Form, Options, Scope, Steps};
pub use progress::{Leg, Progress, Snapshot, Unit};
pub use pulse::Running;
pub use recipe::{Job, Recipe};
pub use round::Round;
pub use run::{Finished, run};
pub use stats::{Lengths, SourceStats, Stats};
pub use status::{StageRate, Status, Unfinished, status};
pub use task::{Share, StageTasks, Task};
