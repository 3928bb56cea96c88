//! Arguments that several verbs share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use forebay_pipeline::recipe::{self, Machine, Share, Size, parse_bytes};
use forebay_shard::input;
use forebay_transform::tokenize;

use crate::format::parse_record_bytes;

/// Options of every verb.
#[derive(Args, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads at work; all cores by default
    #[arg(long, global = true, env = "FOREBAY_THREADS", value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,
    /// Memory that sorting may take [default: 4GiB]
    #[arg(long, global = true, value_parser = parse_bytes, value_name = "SIZE")]
    pub memory: Option<u64>,
    /// Directory for scratch files; beside the output by default
    #[arg(long, global = true, env = "FOREBAY_TMP_DIR", value_name = "DIR")]
    pub tmp_dir: Option<PathBuf>,
    /// Say nothing but the result and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say how long each stage takes
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// No progress bar
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// What to read, and how.
#[derive(Args)]
pub struct Inputs {
    /// Files, globs or directories of JSONL, Parquet or text (also .gz, .zst); datasets; `-` for stdin
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<String>,
    /// JSON field or Parquet column that holds the text
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub text_field: String,
    /// JSON field or Parquet column that holds the id; may be missing
    #[arg(long, default_value = "id", value_name = "NAME")]
    pub id_field: String,
    /// What the inputs are; told from first bytes and names by default
    #[arg(long, default_value = "auto", value_name = "FORMAT")]
    pub input_format: Format,
    /// A record that is no document: stop, or leave it out and list it in removed/
    #[arg(long, default_value = "fail")]
    pub on_error: OnError,
    /// Bytes that are not UTF-8: the record is bad, or U+FFFD in their place
    #[arg(long, default_value = "refuse")]
    pub invalid_utf8: InvalidUtf8,
    /// A longer record counts as bad
    #[arg(long, default_value = "64MiB", value_parser = parse_record_bytes, value_name = "SIZE")]
    pub max_record: u64,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    Auto,
    Jsonl,
    Parquet,
    Text,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum OnError {
    Fail,
    Skip,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum InvalidUtf8 {
    Refuse,
    Replace,
}

impl Inputs {
    pub fn options(&self) -> input::Options {
        self.recipe().options()
    }

    pub fn recipe(&self) -> recipe::Input {
        recipe::Input {
            paths: self.inputs.clone(),
            text_field: self.text_field.clone(),
            id_field: self.id_field.clone(),
            format: match self.input_format {
                Format::Auto => input::Format::Auto,
                Format::Jsonl => input::Format::Jsonl,
                Format::Parquet => input::Format::Parquet,
                Format::Text => input::Format::Text,
            },
            on_error: match self.on_error {
                OnError::Fail => input::OnError::Fail,
                OnError::Skip => input::OnError::Skip,
            },
            invalid_utf8: match self.invalid_utf8 {
                InvalidUtf8::Refuse => input::InvalidUtf8::Refuse,
                InvalidUtf8::Replace => input::InvalidUtf8::Replace,
            },
            max_record: Size(self.max_record),
        }
    }
}

/// Where to write.
#[derive(Args)]
pub struct Out {
    /// Directory of the dataset; new, empty, or with an unfinished run of the same command
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
}

/// How to write.
#[derive(Args)]
pub struct Output {
    /// Text that goes into a shard, about
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub shard_size: u64,
    /// Throw an unfinished run in `--out` away and start over
    #[arg(long)]
    pub fresh: bool,
    /// Where an input cannot be read, read all others before the run stops
    #[arg(long)]
    pub keep_going: bool,
}

/// How text becomes tokens.
#[derive(Args)]
#[command(next_help_heading = "Tokenize")]
pub struct TokenizeArgs {
    /// A `tokenizer.json`, `.tiktoken` or SentencePiece `.model` file, a directory with one, or the
    /// built-in `gpt2`
    #[arg(long, default_value = tokenize::DEFAULT, value_name = "NAME|FILE")]
    pub tokenizer: String,
    /// Token that ends every document; the model's own by default
    #[arg(long, value_name = "TOKEN", conflicts_with = "no_eos")]
    pub eos: Option<String>,
    /// Append nothing to documents
    #[arg(long)]
    pub no_eos: bool,
    /// Special tokens written out in a text: parse them like the reference, or take them as text
    #[arg(long, default_value = "parse")]
    pub special_tokens: SpecialTokens,
    /// Share of the documents that the reference encodes again; the first difference is an error
    #[arg(long, default_value = "0%", value_name = "SHARE%")]
    pub verify_tokens: Share,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum SpecialTokens {
    Parse,
    Text,
}

impl TokenizeArgs {
    pub fn recipe(&self) -> recipe::Tokenize {
        recipe::Tokenize {
            tokenizer: self.tokenizer.clone(),
            eos: self.eos.clone(),
            no_eos: self.no_eos,
            special_tokens: match self.special_tokens {
                SpecialTokens::Parse => tokenize::SpecialTokens::Parse,
                SpecialTokens::Text => tokenize::SpecialTokens::Text,
            },
            verify_tokens: self.verify_tokens,
        }
    }
}

impl Global {
    pub fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.map_or_else(cores, std::num::NonZero::get)
    }

    pub fn recipe(&self) -> Machine {
        Machine {
            threads: self.threads,
            memory: Size(self.memory()),
            tmp_dir: self.tmp_dir.clone(),
            ..Machine::default()
        }
    }

    /// Memory that sorting may take.
    pub fn memory(&self) -> u64 {
        self.memory.unwrap_or(Machine::default().memory.0)
    }

    /// Flags are nearer than the recipe.
    pub fn lay_over(&self, machine: &mut Machine) {
        machine.threads = self.threads.or(machine.threads);
        machine.memory = self.memory.map_or(machine.memory, Size);
        if self.tmp_dir.is_some() {
            machine.tmp_dir.clone_from(&self.tmp_dir);
        }
    }
}
