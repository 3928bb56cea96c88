use std::path::PathBuf;

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
    /// Store the text beside the tokens.
    pub keep_text: bool,
    /// Text that goes into a shard, about.
    pub shard_bytes: u64,
}

/// The steps of a run, in their order; each may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// Drop equal documents.
    pub exact: bool,
    /// Drop similar documents.
    pub fuzzy: Option<Fuzzy>,
    /// Which document of a cluster stays.
    pub keep: Keep,
    /// Encode.
    pub tokenize: Option<tokenize::Options>,
    /// Shuffle all documents by this seed; without it they keep the order of the inputs.
    pub shuffle: Option<u64>,
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
}

/// All that a run was asked to do; kept in the work directory to recognise it when it resumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Version of the spool's layout.
    pub(crate) version: u32,
    /// Name of the verb.
    pub(crate) stage: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) sources: Vec<Source>,
    pub(crate) options: Options,
    /// blake3 of the tokenizer's file.
    pub(crate) tokenizer: Option<String>,
    /// Text of a spool part, about.
    pub(crate) part_bytes: u64,
    pub(crate) spool: PathBuf,
}

const MIB: u64 = 1 << 20;

impl Plan {
    pub(crate) const VERSION: u32 = 1;

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
            self.tokenizer
        ]);
        blake3::hash(all.to_string().as_bytes()).to_hex().to_string()
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
        if self.version != earlier.version {
            Some("forebay version")
        } else if self.stage != earlier.stage {
            Some("verb")
        } else if self.sources != earlier.sources {
            Some("inputs (or an input has changed since)")
        } else if comparable.options != earlier.options {
            Some("options")
        } else if comparable.tokenizer != earlier.tokenizer {
            Some("tokenizer")
        } else {
            None
        }
    }
}
