use std::path::{Path, PathBuf};

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why bytes did not reach a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    #[error(transparent)]
    Store(#[from] forebay_store::Error),
    /// A library, symbol or device that is not here: an answer, not a fault.
    #[error("{what} is not here: {why}")]
    Absent { what: String, why: String },
    /// The CUDA driver refused. `action` is a verb in the infinitive: "copy to the device".
    #[error("CUDA cannot {action}: {name} ({code}), {text}")]
    Cuda { action: &'static str, name: String, text: String, code: i32 },
    /// libcufile refused.
    #[error("cuFile cannot {action}: error {code}")]
    CuFile { action: &'static str, code: i64 },
    /// The kernels were compiled neither here nor taken as they are shipped.
    #[error("the kernels cannot be loaded: {why}")]
    Kernels { why: String },
    /// Device memory that would pass a limit.
    #[error("{what}: expected at most {limit} bytes of device memory, found {wanted}")]
    Memory { what: &'static str, limit: u64, wanted: u64 },
    /// A request that cannot be.
    #[error("{what}: expected {expected}, found {found}")]
    Wrong { what: String, expected: String, found: String },
    /// A file of tensors that is none, or is torn.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Tensors { path: PathBuf, what: String, expected: String, found: String },
    /// What was read back is not what was written.
    #[error("{path} hashes to {found}, the memory it was written from to {expected}")]
    Differs { path: PathBuf, expected: String, found: String },
    /// A thread that moves bytes is gone.
    #[error("a thread that reads panicked")]
    Panicked,
}

impl Error {
    pub(crate) fn absent(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Absent { what: what.into(), why: why.to_string() }
    }

    pub(crate) fn wrong(
        what: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self::Wrong { what: what.into(), expected, found }
    }

    pub(crate) fn tensors(
        path: &Path,
        what: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self::Tensors { path: path.to_path_buf(), what: what.into(), expected, found }
    }

    /// Is it the device that fails, rather than the wish or the storage? Then the host can go on.
    pub fn is_device(&self) -> bool {
        matches!(
            self,
            Self::Absent { .. }
                | Self::Cuda { .. }
                | Self::CuFile { .. }
                | Self::Kernels { .. }
                | Self::Memory { .. }
        )
    }

    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Absent { .. } => Some(
                "`--device cpu` needs none; in a container, pass the GPU through (`--gpus all`)"
                    .into(),
            ),
            Self::Cuda { code: OUT_OF_MEMORY, .. } | Self::Memory { .. } => {
                Some("make fewer batches ahead, or drop tensors that are not used any more".into())
            }
            Self::Cuda { .. } => {
                Some("`nvidia-smi` and `dmesg` say more; `--device cpu` goes on without it".into())
            }
            Self::CuFile { .. } => Some("`--path pinned` reads without cuFile".into()),
            Self::Kernels { .. } => Some("update the driver: CUDA 12.0 or newer".into()),
            Self::Wrong { .. } | Self::Panicked => None,
            Self::Tensors { .. } => Some("copy the file again, or write it again".into()),
            Self::Differs { .. } => {
                Some("save it again; if it differs again, distrust disk or memory".into())
            }
        }
    }
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: i32 = 2;
