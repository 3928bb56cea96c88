use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, value_parser};
use forebay_pipeline::recipe::parse_bytes;
use forebay_pipeline::{Execution, train};
use forebay_transform::tokenize::train::{Splitter, Target};
use serde_json::json;

use crate::args::{Global, Inputs};
use crate::format;
use crate::progress::Bar;
use crate::report::Report;
use crate::run::stop_on_signals;

/// Train a byte-level BPE vocabulary on a sample of documents and write it as a `tokenizer.json`
#[derive(Args)]
pub struct Train {
    #[command(flatten)]
    inputs: Inputs,
    /// The `tokenizer.json` to write; must not exist yet
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Tokens in all: special ones, the 256 bytes, and one for every merge
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=16_000_000))]
    vocab_size: u32,
    /// Do not merge what stands less often than this
    #[arg(long, default_value_t = 2, value_name = "N")]
    min_frequency: u64,
    /// Tokens that are never split, in the order of their ids; `""` alone for none
    #[arg(long, default_value = "<|endoftext|>", num_args = 1.., value_name = "TOKEN")]
    special_tokens_list: Vec<String>,
    /// What a word is, since no token crosses words: gpt2, llama3, o200k or qwen; a `tokenizer.json`
    /// to take it from; a file with a regular expression; or such an expression
    #[arg(long, default_value = "gpt2", value_name = "NAME|FILE|REGEX")]
    split: String,
    /// Text to learn from, about; a pipe is taken whole
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    sample: u64,
    /// Seed of the sample
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Train {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let mut special_tokens = self.special_tokens_list;
        if special_tokens == [""] {
            special_tokens.clear();
        }
        let options = train::Options {
            input: self.inputs.options(),
            target: Target {
                vocab_size: self.vocab_size as usize,
                min_frequency: self.min_frequency,
                special_tokens,
            },
            splitter: Splitter::open(&self.split).map_err(forebay_pipeline::Error::from)?,
            sample_bytes: self.sample,
            seed: self.seed,
        };
        let execution = Execution {
            threads: global.threads(),
            memory_bytes: global.memory(),
            tmp_dir: None,
            fresh: false,
            stats: false,
            keep_going: false,
            verify_tokens: 0.0,
        };
        let (start, stop) = (Instant::now(), stop_on_signals()?);
        let bar = Bar::start(!global.quiet && !global.no_progress, global.verbose, stop);
        let trained =
            train::run(&self.inputs.inputs, &self.out, &options, &execution, bar.progress());
        drop(bar);
        let (trained, took) = (trained?, start.elapsed());

        let counts = &trained.counts;
        let documents = |n: u64| format!("{:>14} documents", format::count(n));
        let rate = (counts.read_bytes as f64 / took.as_secs_f64()) as u64;
        report.line(format!(
            "read  {}  {:>12}   {}/s in all",
            documents(counts.read),
            format::bytes(counts.read_bytes),
            format::bytes(rate)
        ));
        for (reason, &skipped) in &counts.skipped {
            report.line(format!("skip  {:>14} records    {reason}", format::count(skipped)));
            report.skipped();
        }
        report.line(format!(
            "count {}  {:>12}   {}",
            documents(counts.sampled),
            format::bytes(counts.sampled_bytes),
            format::percent(counts.sampled_bytes, counts.read_bytes)
        ));
        report.line(format!(
            "      {:>14} words      {:>12} different",
            format::count(counts.words),
            format::count(counts.different_words)
        ));
        if counts.long_words > 0 {
            report.line(format!(
                "      {:>14} words      left out: longer than {}",
                format::count(counts.long_words),
                format::bytes(train::MAX_WORD_BYTES as u64)
            ));
        }
        report.line(format!(
            "write {:>14} tokens     {:>12} merges in {}",
            format::count(trained.vocab_size as u64),
            format::count(trained.merges as u64),
            self.out.display()
        ));
        if trained.vocab_size < options.target.vocab_size {
            report.note(&format!(
                "expected {} tokens; no further pair stands {} times",
                format::count(options.target.vocab_size as u64),
                format::count(self.min_frequency.max(1))
            ));
        }
        let mut value = serde_json::to_value(&trained)?;
        value["out"] = json!(self.out);
        value["seconds"] = json!(took.as_secs_f64());
        report.json(value);
        Ok(())
    }
}
