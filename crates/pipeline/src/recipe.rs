//! A recipe: a whole run in one TOML file.
//!
//! ```toml
//! [input]
//! paths = ["raw/*.jsonl.zst"]
//! [dedup]                      # a stage runs if its table is there
//! threshold = 0.8
//! [tokenize]
//! tokenizer = "gpt2"
//! [shuffle]
//! seed = 0
//! [output]
//! path = "corpus"
//! [execution]                  # does not touch the bytes of the output
//! memory = "8GiB"
//! ```
//! [`TEMPLATE`] has every key, with its default and what it means. Stages run in the order above,
//! wherever their tables stand. Paths are relative to the recipe. A verb of the command line is a
//! recipe written with flags: equal keys and flags make equal bytes, and resume each other.
//!
//! Start at [`Recipe::read`]; [`Recipe::job`] is what [`run()`](crate::run()) takes.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use forebay_shard::Format;
use forebay_shard::input::{self, InvalidUtf8, OnError};
use forebay_transform::tokenize::{self, EosPolicy, SpecialTokens, Vocabulary};
use serde::{Deserialize, Serialize};

use crate::plan::{Execution, Options, Steps};
use crate::{Error, Result};

mod dedup;
mod job;
mod parse;
mod values;

pub use dedup::{CutPolicy, Dedup, EvalPolicy, Preset};
pub use job::Job;
pub use parse::Places;
pub use values::{Share, Size, parse_bytes};

/// A recipe with every key, as `forebay recipe init` writes it.
pub const TEMPLATE: &str = include_str!("recipe/template.toml");

/// A whole run. Tables that are missing have their defaults, stages that are missing do not run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is read.
    pub input: Input,
    /// Drop duplicates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedup: Option<Dedup>,
    /// Text to tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenize: Option<Tokenize>,
    /// A new order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<Shuffle>,
    /// What is written.
    pub output: Output,
    /// How it is carried out.
    #[serde(default)]
    pub execution: Machine,
    /// Where its keys stand, for errors.
    #[serde(skip)]
    pub places: Places,
}

/// What is read, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Input {
    /// Files, globs or directories; one may stand without its brackets.
    #[serde(deserialize_with = "values::one_or_more")]
    pub paths: Vec<String>,
    /// JSON field or Parquet column of the text.
    pub text_field: String,
    /// JSON field or Parquet column of the id.
    pub id_field: String,
    /// What the inputs are.
    pub format: input::Format,
    /// A record that is no document.
    pub on_error: OnError,
    /// Bytes that are not UTF-8.
    pub invalid_utf8: InvalidUtf8,
    /// A longer record is bad.
    pub max_record: Size,
}

/// How text becomes tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokenize {
    /// A file, a directory with one, or a built-in name.
    pub tokenizer: String,
    /// Token that ends a document; the model's own if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos: Option<String>,
    /// Append nothing.
    pub no_eos: bool,
    /// Special tokens that are written out in a text.
    pub special_tokens: SpecialTokens,
    /// Share of the documents that the reference encodes again.
    pub verify_tokens: Share,
}

/// A new order of all documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shuffle {
    /// Another seed is another order.
    pub seed: u64,
}

/// What is written, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Directory of the dataset.
    pub path: PathBuf,
    /// Whose files the shards are.
    pub format: Format,
    /// Text of a shard, about.
    pub shard_size: Size,
    /// Store the text beside the tokens.
    pub keep_text: bool,
    /// Count documents, bytes and tokens of every source.
    pub stats: bool,
}

/// How it is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// Who runs the tasks.
    pub executor: Executor,
    /// Threads; all cores if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
    /// Memory that sorting may take.
    pub memory: Size,
    /// Scratch files; beside the output if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp_dir: Option<PathBuf>,
    /// Where an input cannot be read, read all others before the run stops.
    pub keep_going: bool,
}

/// Who runs the tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Executor {
    /// Threads of this process.
    #[default]
    Local,
    /// Tasks on a Ray cluster.
    Ray,
    /// Job arrays, as scripts.
    Slurm,
}

impl Default for Input {
    fn default() -> Self {
        let options = input::Options::default();
        Self {
            paths: Vec::new(),
            text_field: options.text_field,
            id_field: options.id_field,
            format: options.format,
            on_error: options.on_error,
            invalid_utf8: options.invalid_utf8,
            max_record: Size(options.max_record_bytes),
        }
    }
}

impl Default for Tokenize {
    fn default() -> Self {
        Self {
            tokenizer: tokenize::DEFAULT.into(),
            eos: None,
            no_eos: false,
            special_tokens: SpecialTokens::Parse,
            verify_tokens: Share::default(),
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        let options = Options::default();
        Self {
            path: PathBuf::new(),
            format: options.format,
            shard_size: Size(options.shard_bytes),
            keep_text: false,
            stats: false,
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            executor: Executor::Local,
            threads: None,
            memory: Size(4 << 30),
            tmp_dir: None,
            keep_going: false,
        }
    }
}

impl Recipe {
    /// Reads the recipe at `path`; `set` are `KEY=VALUE`, such as `dedup.threshold=0.9`, that stand
    /// for what is in the file.
    ///
    /// # Errors
    /// [`Error::Recipe`] with line and key, and the nearest name of one that does not exist.
    pub fn read(path: &Path, set: &[String]) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|e| forebay_store::Error::io("read", path, e))?;
        let name = path.display().to_string();
        let mut recipe = parse::recipe(&name, &text, set)?;
        recipe.places = parse::Places::of(&name, &text, set);
        recipe.locate(path.parent().unwrap_or(Path::new("")));
        Ok(recipe)
    }

    /// Paths are relative to the recipe; URIs are not.
    fn locate(&mut self, directory: &Path) {
        let is_uri = |path: &str| forebay_store::remote::scheme(path).is_some();
        let join = |path: &mut PathBuf| {
            if !path.as_os_str().is_empty() && !path.to_str().is_some_and(is_uri) {
                *path = directory.join(&*path);
            }
        };
        let join_text = |path: &mut String| {
            if path != "-" && !is_uri(path) {
                *path = directory.join(&*path).to_string_lossy().into_owned();
            }
        };
        self.input.paths.iter_mut().for_each(join_text);
        join(&mut self.output.path);
        self.execution.tmp_dir.iter_mut().for_each(join);
        if let Some(dedup) = &mut self.dedup {
            dedup.against.iter_mut().chain(&mut dedup.write_index).for_each(join);
            dedup.against_evals.iter_mut().for_each(join_text);
        }
        if let Some(tokenize) = &mut self.tokenize {
            let file = directory.join(&tokenize.tokenizer);
            // Otherwise it is a built-in name, or the error names it as it is written.
            if file.exists() {
                tokenize.tokenizer = file.to_string_lossy().into_owned();
            }
        }
    }

    /// What is done with the documents.
    ///
    /// # Errors
    /// [`Error::Recipe`] if keys do not go together.
    pub fn steps(&self) -> Result<Steps> {
        let mut steps = match &self.dedup {
            Some(dedup) => dedup.steps()?,
            None => Steps::default(),
        };
        if steps.cuts.mask && self.tokenize.is_some() {
            let what =
                "ranges of bytes say nothing about tokens; expected `drop`, or no [tokenize]";
            return Err(Error::key("dedup.cuts", what));
        }
        steps.tokenize = self.tokenize.as_ref().map(Tokenize::options);
        steps.shuffle = self.shuffle.map(|shuffle| shuffle.seed);
        Ok(steps)
    }

    /// Checks that the keys go together and reads the vocabulary.
    ///
    /// # Errors
    /// [`Error::Recipe`] if they do not, [`Error::Tokenize`] without a vocabulary.
    pub fn job(&self) -> Result<Job> {
        self.look_over().map_err(|error| self.places.told(error))
    }

    fn look_over(&self) -> Result<Job> {
        let steps = self.steps()?;
        if self.input.paths.is_empty() {
            return Err(Error::key("input.paths", "expected at least one, found none"));
        }
        if self.output.path.as_os_str().is_empty() {
            return Err(Error::key("output.path", "expected a directory, found none"));
        }
        let format = self.output.format;
        if !format.is_forebay() && (self.output.keep_text || self.tokenize.is_none()) {
            let what = format!("{} shards hold tokens alone; expected `forebay`", format.name());
            return Err(Error::key("output.format", what));
        }
        let options = Options {
            input: self.input.options(),
            steps,
            format,
            // A run without tokens is about texts.
            keep_text: self.output.keep_text || self.tokenize.is_none(),
            duplicates: self.dedup.is_some() && self.tokenize.is_none(),
            shard_bytes: self.output.shard_size.0,
            against: self.dedup.as_ref().map_or(Vec::new(), |dedup| dedup.against.clone()),
            write_index: self.dedup.as_ref().and_then(|dedup| dedup.write_index.clone()),
            ..Options::default()
        };
        let vocabulary = self.tokenize.as_ref().map(|t| Vocabulary::open(&t.tokenizer));
        let verify_tokens = self.tokenize.as_ref().map_or(0.0, |t| t.verify_tokens.0);
        Ok(Job {
            stage: self.stage(),
            inputs: self.input.paths.clone(),
            out: self.output.path.clone(),
            options,
            vocabulary: vocabulary.transpose()?,
            execution: Execution {
                verify_tokens,
                stats: self.output.stats,
                ..self.execution.get()
            },
            tokenizer: job::Built::default(),
        })
    }

    /// The verb that it amounts to.
    fn stage(&self) -> &'static str {
        match (&self.dedup, &self.tokenize, self.shuffle) {
            (Some(_), None, None) => "dedup",
            (None, Some(_), None) => "tokenize",
            (None, None, Some(_)) => "shuffle",
            _ => "prep",
        }
    }
}

impl Input {
    /// What the readers take.
    pub fn options(&self) -> input::Options {
        input::Options {
            text_field: self.text_field.clone(),
            id_field: self.id_field.clone(),
            extra: Vec::new(),
            format: self.format,
            on_error: self.on_error,
            invalid_utf8: self.invalid_utf8,
            max_record_bytes: self.max_record.0,
        }
    }
}

impl Tokenize {
    fn options(&self) -> tokenize::Options {
        let eos = match &self.eos {
            _ if self.no_eos => EosPolicy::None,
            Some(token) => EosPolicy::Token(token.clone()),
            None => EosPolicy::Auto,
        };
        tokenize::Options { eos, special_tokens: self.special_tokens }
    }
}

impl Machine {
    fn get(&self) -> Execution {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Execution {
            threads: self.threads.map_or_else(cores, NonZeroUsize::get),
            memory_bytes: self.memory.0,
            tmp_dir: self.tmp_dir.clone(),
            fresh: false,
            verify_tokens: 0.0,
            stats: false,
            keep_going: self.keep_going,
        }
    }
}

/// `s3://bucket/key` and its like are relative to nothing.
pub(crate) fn is_uri(path: &str) -> bool {
    path.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests;
