use std::path::{Path, PathBuf};

use crate::document::{Reason, Skipped};

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why documents or a dataset could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    /// The storage client's own error.
    #[error(transparent)]
    Store(#[from] forebay_store::Error),
    /// A record is not a document.
    #[error("{}: {}", .0.source, .0.detail)]
    Record(Skipped),
    /// A file is not what its name or first bytes promise.
    #[error("{path}: {what}")]
    File { path: PathBuf, what: String },
    /// An input names nothing.
    #[error("{input}: no such file, directory or match")]
    NoInput { input: String },
    /// A pipe, a device or a socket.
    #[error("{path}: expected a regular file, found something else")]
    NotAFile { path: PathBuf },
    /// Inputs were found, none of them readable as documents.
    #[error("{input}: holds no input file (*.jsonl, *.parquet, *.txt, *.md, also .gz and .zst)")]
    NothingToRead { input: String },
    /// A Parquet file without the wanted column.
    #[error("{path}: no column `{column}`, found: {found}")]
    NoColumn { path: PathBuf, column: String, found: String },
    /// A directory that holds no manifest.
    #[error("{path} is not a dataset: it has no manifest.json")]
    NotADataset { path: PathBuf },
    /// A dataset lacks what the caller needs.
    #[error("{path} holds no {what}")]
    Lacks { path: PathBuf, what: &'static str },
    /// A document that a format cannot hold.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    DoesNotFit { path: PathBuf, what: String, expected: String, found: String },
    /// Another program's dataset that holds no text.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    NotText { path: PathBuf, what: String, expected: String, found: String },
    /// Shards that are written for others and not read here.
    #[error("{path}: expected shards of format {expected}, found {found}")]
    OtherFormat { path: PathBuf, expected: &'static str, found: &'static str },
    /// A dataset of a later forebay.
    #[error("{path}: format version: expected at most {expected}, found {found}")]
    Newer { path: PathBuf, expected: u32, found: u64 },
    /// A file of a dataset does not hold what the manifest or the index says.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Corrupt { path: PathBuf, what: String, expected: String, found: String },
}

impl Error {
    /// A file that cannot be read as what it should be.
    pub fn file(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_path_buf(), what: what.to_string() }
    }

    /// A dataset file that contradicts its description.
    pub fn corrupt(
        path: &Path,
        what: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self::Corrupt { path: path.to_path_buf(), what: what.into(), expected, found }
    }

    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        const SKIP: &str = "`--on-error skip` leaves such records out and lists them in removed/";
        match self {
            Self::Store(error) => error.hint(),
            Self::Record(skipped) => Some(match skipped.reason {
                Reason::MissingField => {
                    format!("`--text-field` and `--id-field` name the fields; {SKIP}")
                }
                Reason::InvalidUtf8 => {
                    format!("`--invalid-utf8 replace` puts U+FFFD in its place; {SKIP}")
                }
                Reason::TooLong => format!("`--max-record` raises the limit; {SKIP}"),
                _ => SKIP.into(),
            }),
            Self::File { .. } => Some(
                "`--on-error skip` keeps what could be read and goes on with the next file".into(),
            ),
            Self::NoInput { .. } => Some("check the spelling; quote a glob for the shell".into()),
            Self::NotAFile { .. } => {
                Some("a pipe is read from stdin: `… | forebay prep - --out DIR`".into())
            }
            Self::NothingToRead { .. } => Some(
                "name the files themselves, or give `--input-format jsonl|parquet|text`".into(),
            ),
            Self::NoColumn { .. } => Some("`--text-field` names the column that holds text".into()),
            Self::NotADataset { .. } => Some(
                "an interrupted run has no manifest yet: run its command again, it resumes".into(),
            ),
            Self::Lacks { what, .. } => match *what {
                "tokens" => Some("make them with `forebay tokenize` or `forebay prep`".into()),
                "text" => Some("prepare it with `--keep-text`, or read the raw input".into()),
                _ => None,
            },
            Self::DoesNotFit { .. } => {
                Some("`--format forebay` holds any id, length and column".into())
            }
            Self::NotText { what, .. } if what == "type of a token" => {
                Some("`--token-type u16`, or `token_type=\"uint16\"` in Python, says it".into())
            }
            Self::NotText { .. } => {
                Some("only datasets of text are read: an integer a token, no modes".into())
            }
            Self::OtherFormat { found, .. } => {
                Some(format!("those of {found} are for {found}; make others from the raw input"))
            }
            Self::Newer { .. } => {
                Some("read it with a forebay as new as the one that wrote it, or newer".into())
            }
            Self::Corrupt { path, .. } => {
                Some(format!("copy `{}` again or rebuild the dataset", path.display()))
            }
        }
    }
}
