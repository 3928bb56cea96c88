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
    /// A transfer through a queue failed, also when tried again. `action` is "read" or "write".
    #[error("cannot {action} {object} at byte {offset}, {}", attempts_made(*.attempts))]
    Transfer { action: &'static str, object: String, offset: u64, attempts: u32, source: io::Error },
    /// A direct transfer that the device cannot do.
    #[error(
        "direct I/O on {path} wants offset and length in multiples of {expected}, found {length} \
         bytes from byte {offset}"
    )]
    Misaligned { path: PathBuf, offset: u64, length: usize, expected: u64 },
    /// The file system has no direct I/O.
    #[error("{path} lies on a file system without direct I/O")]
    NotDirect { path: PathBuf },
    /// Transfers did not end in time; they are still in flight.
    #[error("{in_flight} transfers are still in flight at the deadline")]
    Deadline { in_flight: usize },
    /// The kernel refused a whole queue. `action` is a verb: "submit".
    #[error("cannot {action} transfers")]
    Queue { action: &'static str, source: io::Error },
    /// The back end asked for by name does not work here.
    #[error("the engine `{engine}` does not work here")]
    Engine { engine: &'static str, source: io::Error },
    /// A 3FS or its daemon refused. `action` is a verb: "connect to".
    #[error("cannot {action} the 3FS at {mount}")]
    ThreeFs { action: &'static str, mount: PathBuf, source: io::Error },
    /// A file of records is not what it should be.
    #[error("{path}: {what}")]
    Record { path: PathBuf, what: String },
    /// The kernel gave no memory for buffers.
    #[error("cannot get {bytes} bytes of memory for buffers")]
    Memory { bytes: usize, source: io::Error },
    /// A copy would have to copy itself.
    #[error("{to} lies inside {from}")]
    Inside { from: PathBuf, to: PathBuf },
    /// What was read back is not what was written.
    #[error("{path} differs from its source in the 2 MiB from byte {offset}")]
    Differs { path: PathBuf, offset: u64 },
    /// Asked to end early; what was done stays done.
    #[error("stopped; the same command goes on where this one ended")]
    Stopped,
    /// Another process holds the directory.
    #[error("{path} is in use by {}", if holder.is_empty() { "another process" } else { holder })]
    Locked { path: PathBuf, holder: String },
}

/// `EMFILE`; [`std::io::ErrorKind`] has no name for it.
const TOO_MANY_FILES: i32 = rustix::io::Errno::MFILE.raw_os_error();

fn place(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at byte {offset}"))
}

fn attempts_made(attempts: u32) -> String {
    match attempts {
        1 => "first attempt".into(),
        n => format!("{n} attempts"),
    }
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
            Self::Transfer { source, object, .. } => hint_of(source, Path::new(object)),
            Self::Io { source, path, .. } => hint_of(source, path),
            Self::PastEnd { .. } => Some(
                "the file was cut short or changed; copy it again, then `forebay verify`".into(),
            ),
            Self::Misaligned { expected, .. } => {
                Some(format!("use multiples of {expected} bytes, or leave direct I/O off"))
            }
            Self::NotDirect { .. } => Some("leave direct I/O off, or use another path".into()),
            Self::Deadline { .. } => {
                Some("look at the device or server: `dmesg`, then the same command again".into())
            }
            Self::Queue { .. } | Self::Engine { .. } => Some(
                "`forebay fs doctor` says what works here; `--engine threads` always does".into(),
            ),
            Self::ThreeFs { mount, .. } => {
                Some(format!("`forebay fs doctor {}` says what is missing there", mount.display()))
            }
            Self::Record { .. } => Some("is it an FFRecord file, copied whole?".into()),
            Self::Memory { .. } => Some("use smaller buffers or fewer of them in flight".into()),
            Self::Inside { .. } => Some("copy to a place outside of the source".into()),
            Self::Differs { .. } => {
                Some("copy it again; if it differs again, distrust disk or memory".into())
            }
            Self::Stopped => None,
            Self::Locked { path, .. } => Some(format!(
                "wait for it, or stop it; if its machine is gone and the file system keeps its lock, delete {}",
                path.display()
            )),
        }
    }
}

/// What an error of the operating system usually asks for.
fn hint_of(source: &io::Error, path: &Path) -> Option<String> {
    if path.to_str().is_some_and(|uri| crate::remote::scheme(uri).is_some()) {
        return Some(remote_hint(source).into());
    }
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Some("free some space, then run the same command again: it resumes".into())
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Some(format!("check the owner and mode with `ls -ld {}`", path.display()))
        }
        ErrorKind::NotFound => Some("check the path; a file may have gone meanwhile".into()),
        ErrorKind::NotADirectory => {
            Some("a part of this path is a file; give another directory".into())
        }
        _ => None,
    }
}

/// The same of an object store.
fn remote_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::PermissionDenied => {
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS or \
             AZURE_STORAGE_CONNECTION_STRING, and what they may do; a bucket that is open to all \
             wants AWS_SKIP_SIGNATURE=true (GOOGLE_, AZURE_)"
        }
        ErrorKind::NotFound => {
            "`forebay fs ls` shows what is there; AWS_ENDPOINT_URL, GOOGLE_BASE_URL or \
             AZURE_STORAGE_ENDPOINT names the server"
        }
        ErrorKind::InvalidData => "somebody writes it: try again when that is done",
        ErrorKind::Unsupported | ErrorKind::InvalidInput => {
            "`forebay fs cp --help` says what may stand here; docs/storage.md, which variables count"
        }
        _ => "check the endpoint and the network, then the same command again: it goes on",
    }
}
