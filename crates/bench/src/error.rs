use std::path::PathBuf;

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a benchmark did not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    /// The storage failed.
    #[error(transparent)]
    Store(#[from] forebay_store::Error),
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] forebay_gpu::Error),
    /// Writing would destroy data.
    #[error("{path} exists, and this benchmark would write over {what}")]
    WouldDestroy { path: PathBuf, what: &'static str },
    /// The target holds less than one block.
    #[error("{path} holds {found} bytes, expected at least one block of {expected}")]
    TooSmall { path: PathBuf, found: u64, expected: u64 },
    /// A block is not what was written there.
    #[error("{path} holds wrong bytes at {offset}: not what `--verify` wrote there")]
    Wrong { path: PathBuf, offset: u64 },
    /// Arguments that exclude each other.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Gpu(error) => error.hint(),
            Self::WouldDestroy { .. } => {
                Some("give a directory, or a name that is free; `--destroy` writes anyway".into())
            }
            Self::TooSmall { .. } => Some("use a smaller --block-size or a larger --size".into()),
            Self::Wrong { .. } => Some(
                "write with `--write sequential --verify --once` and the same --seed and \
                 --block-size first; if you did, the storage loses data"
                    .into(),
            ),
            Self::Usage(_) => None,
        }
    }
}
