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
    #[error(transparent)]
    Gpu(#[from] forebay_gpu::Error),
    #[error("{what}: expected {expected}, found {found}")]
    Config { what: String, expected: String, found: String },
    #[error("{path}: expected {expected} samples for one global batch, found {found}")]
    TooSmall { path: PathBuf, expected: u64, found: u64 },
    #[error("the state is of another dataset: expected manifest {expected}, found {found}")]
    OtherDataset { expected: String, found: String },
    /// A state whose order is not the one of this loader.
    #[error("the state is of another order: {what}: expected {expected}, found {found}")]
    OtherOrder { what: &'static str, expected: String, found: String },
    /// Bytes of a shard are not those that were written.
    #[error("{path}: bytes {first} to {end} hash to {found}, the index says {expected}")]
    Corrupt { path: PathBuf, first: u64, end: u64, expected: String, found: String },
    /// A thread that makes batches is gone.
    #[error("a thread that makes batches panicked: {what}")]
    Panicked { what: String },
}

impl Error {
    /// An option or a field that cannot be.
    pub(crate) fn config(
        what: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self::Config { what: what.into(), expected, found }
    }

    /// Are the bytes of a shard wrong, rather than the wish or the machine?
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. }
                | Self::Shard(forebay_shard::Error::Corrupt { .. })
                | Self::Store(forebay_store::Error::PastEnd { .. })
        )
    }

    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Shard(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Gpu(error) => error.hint(),
            Self::TooSmall { .. } => Some("lower `--seq-len` or `--batch-size`".into()),
            Self::OtherDataset { .. } => {
                Some("start without the state, or open its dataset".into())
            }
            Self::OtherOrder { what, found, .. } => {
                Some(format!("open the loader with {what} {found}, or start without the state"))
            }
            Self::Corrupt { path, .. } => Some(format!(
                "copy `{}` again, or put others in the place of its samples with `--on-corrupt skip`",
                path.display()
            )),
            Self::Config { what, .. } if what == "weights" => {
                Some("divide each weight by the sum of all".into())
            }
            Self::Config { .. } => Some("`forebay load --help` lists the options".into()),
            Self::Panicked { .. } => {
                Some("please report it with the command that led to it".into())
            }
        }
    }
}
