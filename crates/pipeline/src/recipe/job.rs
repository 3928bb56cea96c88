//! A recipe that was looked over: its paths, options and vocabulary.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use forebay_transform::tokenize::{Tokenizer, Vocabulary};

use crate::plan::{Execution, Options};
use crate::progress::Progress;
use crate::recipe::is_uri;
use crate::{Error, Finished, Result, journal};

/// A recipe, ready to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The verb that it amounts to; for the lineage.
    pub stage: &'static str,
    /// Files, globs or directories.
    pub inputs: Vec<String>,
    /// Directory of the dataset.
    pub out: PathBuf,
    /// What the output depends on.
    pub options: Options,
    /// If text becomes tokens.
    pub vocabulary: Option<Vocabulary>,
    /// What it does not depend on.
    pub execution: Execution,
    /// Built when a task first needs it: tables of a large vocabulary take seconds.
    pub(super) tokenizer: Built,
}

/// A tokenizer, once it is built.
#[derive(Clone, Default)]
pub(super) struct Built(Arc<OnceLock<Tokenizer>>);

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Built").field(&self.0.get().is_some()).finish()
    }
}

impl Job {
    /// Runs it, or goes on where it stopped.
    ///
    /// # Errors
    /// As [`run()`](crate::run()).
    pub fn run(&self, progress: &Progress) -> Result<Finished> {
        let Self { stage, inputs, out, options, vocabulary, execution, .. } = self;
        let vocabulary = vocabulary.as_ref();
        if is_uri(&out.to_string_lossy()) {
            let what = "expected a directory, found a URI; `forebay run` sends a dataset to one";
            return Err(Error::key("output.path", what));
        }
        journal::kept(out, "run", progress, || {
            crate::run(stage, inputs, out, options, vocabulary, execution, progress)
        })
    }
}

impl Job {
    /// The tokenizer, if text becomes tokens; kept for the tasks that follow.
    pub(crate) fn tokenizer(&self) -> Result<Option<&Tokenizer>> {
        let (Some(vocabulary), Some(options)) = (&self.vocabulary, &self.options.steps.tokenize)
        else {
            return Ok(None);
        };
        let built = &self.tokenizer.0;
        if built.get().is_none() {
            // Of two that come at once, one has built it for nothing.
            let _ = built.set(Tokenizer::load(vocabulary, options)?);
        }
        Ok(built.get())
    }
}
