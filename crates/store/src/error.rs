use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why storage could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    /// The operating system refused. `action` is a verb in the infinitive: "read", "rename".
    #[error("cannot {action} {path}{}", place(.offset))]
    Io { action: &'static str, path: PathBuf, offset: Option<u64>, source: io::Error },
    /// A read passed the end of the object.
    #[error("{path} ends at byte {size}, wanted {wanted} bytes from byte {offset}")]
    PastEnd { path: PathBuf, size: u64, offset: u64, wanted: u64 },
    /// Another process holds the directory.
    #[error("{path} is in use by another run")]
    Locked { path: PathBuf },
}

/// `EMFILE`; [`std::io::ErrorKind`] has no name for it.
const TOO_MANY_FILES: i32 = rustix::io::Errno::MFILE.raw_os_error();

fn place(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at byte {offset}"))
}

impl Error {
    /// Wraps an operating system error with what was done to which path.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), offset: None, source }
    }

    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.raw_os_error() == Some(TOO_MANY_FILES) => {
                Some("raise the limit on open files: `ulimit -n 1000000`".into())
            }
            Self::Io { source, path, .. } => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    Some("free some space, then run the same command again: it resumes".into())
                }
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    Some(format!("check the owner and mode with `ls -ld {}`", path.display()))
                }
                ErrorKind::NotFound => {
                    Some("check the path; a file may have gone meanwhile".into())
                }
                ErrorKind::NotADirectory => {
                    Some("a part of this path is a file; give another directory".into())
                }
                _ => None,
            },
            Self::PastEnd { .. } => Some(
                "the file was cut short or changed; copy it again, then `forebay verify`".into(),
            ),
            Self::Locked { .. } => Some("wait for it, or stop it; both may not write here".into()),
        }
    }
}
