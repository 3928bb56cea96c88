use std::path::PathBuf;

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there are no batches.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    #[error(transparent)]
    Shard(#[from] forebay_shard::Error),
    #[error(transparent)]
    Store(#[from] forebay_store::Error),
    #[error("{what}: expected {expected}, found {found}")]
    Config { what: &'static str, expected: String, found: String },
    #[error("{path}: expected {expected} samples for one global batch, found {found}")]
    TooSmall { path: PathBuf, expected: u64, found: u64 },
    #[error("the state is of another dataset: expected manifest {expected}, found {found}")]
    OtherDataset { expected: String, found: String },
}

impl Error {
    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Shard(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::TooSmall { .. } => Some("lower `--seq-len` or `--batch-size`".into()),
            Self::OtherDataset { .. } => {
                Some("start without the state, or open its dataset".into())
            }
            Self::Config { .. } => None,
        }
    }
}
