//! Arguments that say which documents are duplicates, and which of them stay.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use forebay_pipeline::Steps;
use forebay_pipeline::recipe::{self, Dedup};
use forebay_transform::dedup::Keep as KeepPolicy;
use forebay_transform::dedup::jaccard::Threshold;

use crate::run::as_flag;

/// Which documents are similar.
#[derive(Args)]
#[command(next_help_heading = "Similar documents")]
pub struct FuzzyArgs {
    /// Leave similar documents in
    #[arg(long)]
    no_fuzzy: bool,
    /// Jaccard similarity from which a document goes; also picks bands and rows [default: 0.8]
    #[arg(long, value_name = "T", value_parser = threshold)]
    threshold: Option<f64>,
    /// Take bands that agree at their word: faster, but unlike documents go too
    #[arg(long)]
    no_verify: bool,
    /// Parameters of a known corpus: n-gram, bands and rows, threshold
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// Words, or characters, in a shingle [default: 5]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=100))]
    ngram: Option<u16>,
    /// Shingles of characters, for languages without spaces
    #[arg(long)]
    char: bool,
    /// LSH bands: more of them find more pairs [default: 14]
    #[arg(long, value_name = "B", requires = "rows", value_parser = value_parser!(u16).range(1..=512))]
    bands: Option<u16>,
    /// Rows of a band: more of them find fewer pairs [default: 8]
    #[arg(long, value_name = "R", requires = "bands", value_parser = value_parser!(u16).range(1..=64))]
    rows: Option<u16>,
}

/// What else counts as a duplicate.
#[derive(Args)]
#[command(next_help_heading = "Equal documents and parts")]
pub struct ExactArgs {
    /// Leave equal documents in
    #[arg(long)]
    no_exact: bool,
    /// Drop documents of equal URL: the field or column that holds it
    #[arg(long, value_name = "NAME")]
    url_field: Option<String>,
    /// Cut lines that stand more than N times in the corpus; the first one stays
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    lines: Option<u32>,
    /// Cut paragraphs that stand more than N times in the corpus; the first one stays
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    paragraphs: Option<u32>,
    /// Cut substrings of at least N tokens that stand twice in the corpus, such as 50; the first one stays
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(2..=1_000_000))]
    min_tokens: Option<u32>,
    /// Take repeated text out, or leave it in and list its bytes in a column `masked`
    #[arg(long, default_value = "drop", value_name = "HOW")]
    cuts: CutPolicy,
}

/// Which of the duplicates stay.
#[derive(Args)]
#[command(next_help_heading = "What stays")]
pub struct KeepArgs {
    /// Which document of a cluster stays
    #[arg(long, default_value = "longest")]
    keep: Keep,
    /// The field or column that `--keep score` looks at: the highest number stays
    #[arg(long, value_name = "NAME", required_if_eq("keep", "score"))]
    score_field: Option<String>,
    /// Look for duplicates in the whole corpus (global), in each source, or among equal values of a field
    #[arg(long, default_value = "global", value_name = "global|source|FIELD")]
    scope: String,
    /// Drop what an index of an earlier run holds already; may be given more than once
    #[arg(long, value_name = "INDEX")]
    against: Vec<PathBuf>,
    /// Write an index of what stays (and of what it was compared against) for later runs
    #[arg(long, value_name = "DIR")]
    write_index: Option<PathBuf>,
}

/// What must not leak into training data.
#[derive(Args)]
#[command(next_help_heading = "Decontamination")]
pub struct EvalArgs {
    /// Drop documents that share an n-gram of words with these evaluation sets
    #[arg(long, value_name = "FILE", num_args = 1..)]
    against_evals: Vec<String>,
    /// JSON field or Parquet column that holds their text
    #[arg(long, default_value = "text", value_name = "NAME")]
    eval_field: String,
    /// Words that must be equal, in a row
    #[arg(long, default_value_t = 13, value_name = "N", value_parser = value_parser!(u16).range(1..=100))]
    eval_ngram: u16,
    /// Drop such documents, or only list them in removed/
    #[arg(long, default_value = "drop")]
    evals: EvalPolicy,
}

/// All of them together.
#[derive(Args)]
pub struct DedupArgs {
    #[command(flatten)]
    fuzzy: FuzzyArgs,
    #[command(flatten)]
    exact: ExactArgs,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    evals: EvalArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Keep {
    /// The one with most bytes of text
    Longest,
    /// The first of the input
    First,
    /// The one with the highest score
    Score,
    /// The one from the input named first; of those the longest
    Source,
    /// All: clusters are found and counted, nothing goes; see --annotate
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum CutPolicy {
    Drop,
    Mask,
}

#[derive(Clone, Copy, ValueEnum)]
enum EvalPolicy {
    Drop,
    Report,
}

#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    /// FineWeb: words, 5-grams, 14 bands of 8 rows, 0.75
    Fineweb,
    /// Olmo 3: words, 5-grams, 26 bands of 11 rows, 0.8
    Olmo3,
    /// NeMo Curator: characters, 24-grams, 20 bands of 13 rows, 0.8
    Nemo,
}

fn threshold(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|&number| Threshold::new(number).is_some());
    number.ok_or_else(|| {
        "expected a number above 0 and up to 1, of at most four decimals, such as 0.8".into()
    })
}

impl DedupArgs {
    /// The steps of dedup; the others are left out.
    pub fn steps(&self) -> anyhow::Result<Steps> {
        self.recipe().steps().map_err(as_flag)
    }

    pub fn recipe(&self) -> Dedup {
        let Self { fuzzy, exact, keep, evals } = self;
        Dedup {
            fuzzy: !fuzzy.no_fuzzy,
            threshold: fuzzy.threshold,
            verify: !fuzzy.no_verify,
            preset: fuzzy.preset.map(|preset| match preset {
                Preset::Fineweb => recipe::Preset::Fineweb,
                Preset::Olmo3 => recipe::Preset::Olmo3,
                Preset::Nemo => recipe::Preset::Nemo,
            }),
            ngram: fuzzy.ngram,
            char: fuzzy.char,
            bands: fuzzy.bands,
            rows: fuzzy.rows,
            exact: !exact.no_exact,
            url_field: exact.url_field.clone(),
            lines: exact.lines,
            paragraphs: exact.paragraphs,
            min_tokens: exact.min_tokens,
            cuts: match exact.cuts {
                CutPolicy::Drop => recipe::CutPolicy::Drop,
                CutPolicy::Mask => recipe::CutPolicy::Mask,
            },
            keep: match keep.keep {
                Keep::Longest => KeepPolicy::Longest,
                Keep::First => KeepPolicy::First,
                Keep::Score => KeepPolicy::Score,
                Keep::Source => KeepPolicy::Source,
                Keep::None => KeepPolicy::None,
            },
            score_field: keep.score_field.clone(),
            scope: keep.scope.clone(),
            against: keep.against.clone(),
            write_index: keep.write_index.clone(),
            against_evals: evals.against_evals.clone(),
            eval_field: evals.eval_field.clone(),
            eval_ngram: evals.eval_ngram,
            evals: match evals.evals {
                EvalPolicy::Drop => recipe::EvalPolicy::Drop,
                EvalPolicy::Report => recipe::EvalPolicy::Report,
            },
        }
    }
}
