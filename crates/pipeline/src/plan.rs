use std::path::PathBuf;

use forebay_shard::Format;
use forebay_shard::input::{self, OnError, Source};
use forebay_transform::dedup::{Fuzzy, Keep};
use forebay_transform::tokenize;
use serde::{Deserialize, Serialize};

/// What a run makes of its inputs. Equal options over equal inputs give equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How inputs are read.
    pub input: input::Options,
    /// What is done with the documents.
    pub steps: Steps,
    /// Which rows and files are written.
    pub form: Form,
    /// Whose files the shards are; others than ours hold tokens alone.
    #[serde(default, skip_serializing_if = "Format::is_forebay")]
    pub format: Format,
    /// Store the text beside the tokens.
    pub keep_text: bool,
    /// Store how many documents went for each one that stays.
    pub duplicates: bool,
    /// Text that goes into a shard, about.
    pub shard_bytes: u64,
    /// Indexes of earlier runs: what they hold is not let in again.
    pub against: Vec<PathBuf>,
    /// Where the index for the next run goes.
    pub write_index: Option<PathBuf>,
}

impl Default for Options {
    /// No steps; a dataset in shards of 256 MiB.
    fn default() -> Self {
        Self {
            input: input::Options::default(),
            steps: Steps::default(),
            form: Form::Dataset,
            format: Format::Forebay,
            keep_text: false,
            duplicates: false,
            shard_bytes: 256 << 20,
            against: Vec::new(),
            write_index: None,
        }
    }
}

/// What a run leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Shards of what stays, and the list of what went.
    Dataset,
    /// Shards of all documents, with columns that say what would go and why.
    Annotated,
    /// The list of what goes, no shards.
    Removed,
}

/// The steps of a run, in their order; each may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// Drop equal documents.
    pub exact: bool,
    /// Drop documents of equal URL; the field that holds it.
    pub url_field: Option<String>,
    /// Drop similar documents.
    pub fuzzy: Option<Fuzzy>,
    /// Which document of a cluster stays.
    pub keep: Keep,
    /// Field of the score, for [`Keep::Score`].
    pub score_field: Option<String>,
    /// Among which documents duplicates are looked for.
    pub scope: Scope,
    /// Look for text of evaluation sets.
    pub evals: Option<EvalOptions>,
    /// Cut text that repeats out of the documents that stay.
    pub cuts: Cuts,
    /// Encode.
    pub tokenize: Option<tokenize::Options>,
    /// Shuffle all documents by this seed; without it they keep the order of the inputs.
    pub shuffle: Option<u64>,
}

impl Default for Steps {
    /// None at all.
    fn default() -> Self {
        Self {
            exact: false,
            url_field: None,
            fuzzy: None,
            keep: Keep::Longest,
            score_field: None,
            scope: Scope::Global,
            evals: None,
            cuts: Cuts::default(),
            tokenize: None,
            shuffle: None,
        }
    }
}

/// Among which documents duplicates are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All of them.
    Global,
    /// Those of one source.
    Source,
    /// Those of an equal value in this field.
    Field(String),
}

/// Evaluation sets that must not leak into training data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalOptions {
    /// Files, globs or directories.
    pub inputs: Vec<String>,
    /// JSON field or Parquet column that holds their text.
    pub text_field: String,
    /// Words that must be equal, in a row.
    pub ngram: usize,
    /// Drop such documents; otherwise they are only listed.
    pub drop: bool,
}

/// What is cut out of documents because it stands elsewhere too; the first one stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cuts {
    /// Lines that stand more often than this in all documents.
    pub lines: Option<u32>,
    /// Paragraphs that stand more often than this in all documents.
    pub paragraphs: Option<u32>,
    /// Substrings of at least so many tokens that stand twice.
    pub tokens: Option<u32>,
    /// Leave the text as it is, and say in a column of its own what would be cut.
    pub mask: bool,
}

impl Cuts {
    /// Nothing is cut.
    pub fn is_empty(&self) -> bool {
        self.lines.is_none() && self.paragraphs.is_none() && self.tokens.is_none()
    }
}

/// How a run is carried out; its output does not depend on it.
#[derive(Debug, Clone)]
pub struct Execution {
    /// Threads at work.
    pub threads: usize,
    /// Memory that sorting may take.
    pub memory_bytes: u64,
    /// Where the spool goes; beside the output if `None`.
    pub tmp_dir: Option<PathBuf>,
    /// Throw an unfinished run away and start over.
    pub fresh: bool,
    /// Share of the documents, 0 to 1, that the reference encodes again, to compare.
    pub verify_tokens: f64,
    /// Count what is written, by source.
    pub stats: bool,
    /// Where an input cannot be read, read all others before the run stops.
    pub keep_going: bool,
}

/// All that a run was asked to do; kept in the work directory to recognise it when it resumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Version of the spool's layout.
    pub(crate) version: u32,
    /// Of the program: machines that share a run must have the same.
    #[serde(default)]
    pub(crate) forebay: String,
    /// Name of the verb.
    pub(crate) stage: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) sources: Vec<Source>,
    pub(crate) options: Options,
    /// blake3 of the tokenizer's file.
    pub(crate) tokenizer: Option<String>,
    /// What the evaluation sets hold.
    pub(crate) evals: Option<String>,
    /// What the indexes held that the run goes against.
    pub(crate) indexes: Vec<String>,
    /// Text of a spool part, about.
    pub(crate) part_bytes: u64,
    pub(crate) spool: PathBuf,
}

/// Last file that is written of an index: there is one if it is there.
pub(crate) const INDEX_FILE: &str = "index.json";

const MIB: u64 = 1 << 20;

impl Plan {
    pub(crate) const VERSION: u32 = 2;

    /// Parts are as large as keeps their number in the thousands: the write stage reads a piece of
    /// every part for every few megabytes of output.
    pub(crate) fn part_bytes(input_bytes: u64) -> u64 {
        (input_bytes / 2048).clamp(4 * MIB, 256 * MIB)
    }

    pub(crate) fn input_bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &input::InputFile> {
        self.sources.iter().flat_map(Source::files)
    }

    /// The name of an input, for messages.
    pub(crate) fn input_name(&self, source: usize) -> String {
        let file = self.sources.get(source).and_then(|source| source.files().first());
        file.map_or(String::new(), |file| file.name().to_owned())
    }

    pub(crate) fn reads_stdin(&self) -> bool {
        self.files().any(input::InputFile::is_stdin)
    }

    /// blake3 over all that the output depends on, times of files aside: a copy is the same input.
    pub(crate) fn fingerprint(&self) -> String {
        let files: Vec<_> = self.files().map(|file| (file.name(), file.bytes)).collect();
        let all = serde_json::json!([
            env!("CARGO_PKG_VERSION"),
            self.stage,
            files,
            self.options,
            self.tokenizer,
            self.indexes,
            self.evals
        ]);
        blake3::hash(all.to_string().as_bytes()).to_hex().to_string()
    }

    /// blake3 over the times of all input files.
    pub(crate) fn input_times(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in self.files() {
            hasher.update(&file.modified_ns.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Must the spool hold the texts?
    pub(crate) fn needs_text(&self) -> bool {
        let steps = &self.options.steps;
        self.options.form != Form::Removed
            || steps.fuzzy.is_some_and(|fuzzy| fuzzy.verify)
            || !steps.cuts.is_empty()
    }

    /// What keeps this run from going on where `earlier` stopped.
    ///
    /// Only what is done already binds: the tokenizer and the form of the shards are free until
    /// there is a shard, and what happens to bad records is free while they stop the run, since
    /// then there were none in what was read.
    pub(crate) fn difference(&self, earlier: &Self, shards: bool) -> Option<&'static str> {
        let mut comparable = self.clone();
        let (mine, theirs) = (&mut comparable.options, &earlier.options);
        if !shards {
            mine.keep_text = theirs.keep_text;
            mine.format = theirs.format;
            mine.shard_bytes = theirs.shard_bytes;
            mine.steps.tokenize.clone_from(&theirs.steps.tokenize);
            comparable.tokenizer.clone_from(&earlier.tokenizer);
        }
        if theirs.input.on_error == OnError::Fail
            && mine.input.max_record_bytes >= theirs.input.max_record_bytes
        {
            mine.input.on_error = theirs.input.on_error;
            mine.input.invalid_utf8 = theirs.input.invalid_utf8;
            mine.input.max_record_bytes = theirs.input.max_record_bytes;
        }
        if self.version != earlier.version || self.forebay != earlier.forebay {
            Some("forebay version")
        } else if self.stage != earlier.stage {
            Some("verb")
        } else if self.sources != earlier.sources {
            Some("inputs (or an input has changed since)")
        } else if comparable.options != earlier.options {
            Some("options")
        } else if self.indexes != earlier.indexes {
            Some("indexes")
        } else if self.evals != earlier.evals {
            Some("evaluation sets")
        } else if comparable.tokenizer != earlier.tokenizer {
            Some("tokenizer")
        } else {
            None
        }
    }
}
