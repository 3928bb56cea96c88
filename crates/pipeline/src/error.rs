use std::path::PathBuf;

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    #[error(transparent)]
    Store(#[from] forebay_store::Error),
    #[error(transparent)]
    Shard(#[from] forebay_shard::Error),
    #[error(transparent)]
    Tokenize(#[from] forebay_transform::tokenize::Error),
    #[error("document {id} of {source_name} at {position}: {difference}")]
    Tokens {
        id: String,
        source_name: String,
        position: u64,
        difference: Box<forebay_transform::tokenize::Error>,
    },
    /// `place` is a line, a key or an option.
    #[error("{place}: {what}")]
    Recipe { place: String, what: String, hint: Option<String> },
    #[error(transparent)]
    Train(#[from] forebay_transform::tokenize::train::Error),
    #[error("{path}: expected a new file, found one that exists")]
    FileThere { path: PathBuf },
    #[error("{inputs}: expected text to learn from, found none in the sample")]
    NoText { inputs: String },
    #[error(
        "expected words that fit into {memory_bytes} bytes of memory, found {words} different ones, which take {needed}"
    )]
    TooManyWords { words: u64, needed: u64, memory_bytes: u64 },
    #[error("{out} holds a finished dataset of other {differs}")]
    OtherDataset { out: PathBuf, differs: &'static str },
    #[error("{out} holds an unfinished run of other {differs}")]
    OtherRun { out: PathBuf, differs: &'static str },
    #[error(
        "{out} is not empty and holds no dataset: expected a new or empty directory, found {found}"
    )]
    NotEmpty { out: PathBuf, found: String },
    #[error("evaluation sets: {source}")]
    Evals { source: forebay_shard::Error },
    #[error("{inputs}: expected evaluation records of at least {ngram} words, found none")]
    NoEvals { inputs: String, ngram: usize },
    #[error("expected a field `{name}` in at least one document, found it in none")]
    NoField { name: String },
    #[error("{path} holds an index already: expected a new or empty directory")]
    IndexThere { path: PathBuf },
    #[error("{path}: part of an index: expected checksum {checksum:016x}, found another")]
    BrokenIndex { path: PathBuf, checksum: u64 },
    #[error("{path}: expected an index with index.json, found none")]
    NoIndex { path: PathBuf },
    #[error("{path}: expected an index of parameters {expected}, found {found}")]
    OtherIndex { path: PathBuf, expected: String, found: String },
    #[error("{path}: expected an index with texts to compare, found signatures alone")]
    IndexLacksTexts { path: PathBuf },
    #[error("{path}: expected an index made with --no-verify, found one of compared texts")]
    IndexIsVerified { path: PathBuf },
    #[error(
        "{} could not be read, all others were; {cause}",
        if others.is_empty() { "1 input".to_owned() } else { format!("{} inputs ({input}, {})", others.len() + 1, others.join(", ")) }
    )]
    Inputs { input: String, others: Vec<String>, cause: Box<Error> },
    #[error("{input}: expected the task that reads it to be done, found that it is not")]
    Unread { input: String },
    #[error("expected all tasks of `{round}` to be done, found {found} of {of}")]
    Unsearched { round: crate::Round, found: usize, of: usize },
    #[error("{out}: expected the task that finds duplicates to be done, found that it is not")]
    NotFound { out: PathBuf },
    #[error("{inputs}: expected at least one document, found none")]
    NoDocuments { inputs: String },
    #[error("expected at most 4,294,967,295 documents, found more")]
    TooManyDocuments,
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// A key of a recipe whose value does not do.
    pub(crate) fn key(key: &str, what: impl Into<String>) -> Self {
        Self::Recipe { place: key.to_owned(), what: what.into(), hint: None }
    }

    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Shard(error) => error.hint(),
            Self::Tokenize(error) => error.hint(),
            Self::Tokens { difference, .. } => difference.hint(),
            Self::Recipe { hint, .. } => hint.clone().or_else(|| {
                Some("`forebay recipe init` writes a recipe with every key, explained".into())
            }),
            Self::Train(error) => error.hint(),
            Self::NoText { .. } => Some("see `--sample`, and `--text-field`".into()),
            Self::TooManyWords { .. } => {
                Some("give a smaller `--sample` or more `--memory`".into())
            }
            Self::OtherDataset { .. } | Self::FileThere { .. } => {
                Some("give another `--out`, or delete that one".into())
            }
            Self::OtherRun { .. } => {
                Some("`--fresh` throws it away; its own command, run again, finishes it".into())
            }
            Self::NotEmpty { .. } => Some("give another `--out`".into()),
            Self::Evals { .. } => {
                Some("see `--against-evals`, and `--eval-field` for where their text is".into())
            }
            Self::NoEvals { .. } => {
                Some("see `--eval-field`, and `--eval-ngram` for shorter n-grams".into())
            }
            Self::NoField { .. } => Some("check how it is spelt".into()),
            Self::IndexThere { .. } => Some("give another `--write-index`, or delete it".into()),
            Self::BrokenIndex { .. } => Some("make it again with `--write-index`".into()),
            Self::NoIndex { .. } => Some("`--write-index` of an earlier run makes one".into()),
            Self::OtherIndex { .. } => {
                Some("give the options that the index was made with, or make a new one".into())
            }
            Self::IndexLacksTexts { .. } => {
                Some("`--no-verify` goes without; or make the index without `--no-verify`".into())
            }
            Self::IndexIsVerified { .. } => {
                Some("leave `--no-verify` out; or make the index with `--no-verify`".into())
            }
            Self::NoDocuments { .. } => {
                Some("see how an input is read with `forebay inspect INPUT`".into())
            }
            Self::NotFound { .. } => Some("do the task `find` first, once all are read".into()),
            Self::Unsearched { .. } => Some(
                "the rounds are done one after another; `--status` tells how far they are".into(),
            ),
            Self::Inputs { .. } => Some("mend them; the same command then reads them alone".into()),
            Self::Unread { .. } => {
                Some("do all `read` tasks first; `--status` tells how far they are".into())
            }
            Self::TooManyDocuments => Some("split the inputs over several runs".into()),
            Self::Interrupted => Some("the same command resumes it".into()),
        }
    }
}
