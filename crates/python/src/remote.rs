//! What lies in object stores: copies of it here, and outputs that go there.

use std::path::PathBuf;
#[cfg(feature = "s3")]
use std::sync::atomic::AtomicBool;

use forebay_pipeline::Progress;
use forebay_store::remote::{self, Localized};
use forebay_store::usrbio;
use pyo3::prelude::*;

use crate::error;

/// A path as it can be opened: of a remote thing, a copy that stays while this object does.
#[pyclass(frozen, module = "forebay._core")]
pub(crate) struct Local(Localized);

#[pymethods]
impl Local {
    /// Of this machine.
    #[getter]
    fn path(&self) -> PathBuf {
        self.0.path().to_path_buf()
    }
}

/// The path itself, that of a `3fs://` on its mount, or a copy in the cache of what a URI names.
#[pyfunction]
pub(crate) fn local(py: Python<'_>, path: PathBuf) -> PyResult<Local> {
    let held = py.detach(|| remote::local(&usrbio::resolve(&path)?));
    held.map(Local).map_err(error::store)
}

/// An output that may be a URI: then a directory stands for it until it is sent.
pub(crate) enum Target {
    Here,
    #[cfg(feature = "s3")]
    There(remote::stage::Stage),
}

/// Objects at once; most of their time is waiting.
#[cfg(feature = "s3")]
const AT_ONCE: usize = 16;

impl Target {
    /// Puts a directory in the place of an `out` that is a URI.
    pub(crate) fn of(out: &mut PathBuf, scratch: Option<&PathBuf>) -> PyResult<Self> {
        let Some(uri) = out.to_str().filter(|uri| remote::scheme(uri).is_some()) else {
            return Ok(Self::Here);
        };
        #[cfg(not(feature = "s3"))]
        {
            let _ = scratch;
            let what = "this build has no object stores: build it with the feature `s3`";
            Err(error::config(&format!("{uri}: {what}")))
        }
        #[cfg(feature = "s3")]
        {
            let stage = remote::stage::Stage::begin(uri, scratch.map(PathBuf::as_path));
            let stage = stage.map_err(error::store)?;
            *out = stage.directory().to_path_buf();
            Ok(Self::There(stage))
        }
    }

    /// Sends what is not there yet.
    pub(crate) fn publish(&self, progress: &Progress) -> forebay_pipeline::Result<()> {
        #[cfg(not(feature = "s3"))]
        let _ = progress;
        #[cfg(feature = "s3")]
        if let Self::There(stage) = self {
            let tally = forebay_store::fs::Tally::default();
            // Objects in hand are finished; a stop between them is looked for by who called.
            let stop = AtomicBool::new(progress.stopped());
            let summary = stage.publish(AT_ONCE, &tally, &stop)?;
            if let Some(failure) = tally.take_failures().into_iter().next() {
                return Err(failure.error.into());
            }
            if summary.stopped {
                return Err(forebay_store::Error::Stopped.into());
            }
        }
        Ok(())
    }

    /// Where it is in the end.
    pub(crate) fn name(&self, out: &std::path::Path) -> PathBuf {
        match self {
            Self::Here => out.to_path_buf(),
            #[cfg(feature = "s3")]
            Self::There(stage) => stage.uri().into(),
        }
    }
}
