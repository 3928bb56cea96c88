//! An output in an object store: see `forebay_store::remote::stage`.

use std::path::PathBuf;

use crate::args::Global;
#[cfg(feature = "s3")]
use crate::format;
use crate::report::{Report, Usage};

pub struct Staging {
    pub uri: PathBuf,
    #[cfg(feature = "s3")]
    stage: forebay_store::remote::stage::Stage,
}

impl Staging {
    /// Puts a directory in the place of an `out` that is a URI.
    pub fn begin(out: &mut PathBuf, global: &Global) -> anyhow::Result<Option<Self>> {
        let uri = out.to_string_lossy().into_owned();
        match forebay_store::remote::scheme(&uri) {
            None => Ok(None),
            Some(_) if forebay_store::remote::is_bucket(&uri) => {
                Self::at(out, &uri, global).map(Some)
            }
            Some(_) => {
                Err(Usage(format!("{uri}: expected a directory or s3://BUCKET/PREFIX")).into())
            }
        }
    }

    #[cfg(not(feature = "s3"))]
    fn at(_: &mut PathBuf, uri: &str, _: &Global) -> anyhow::Result<Self> {
        Err(Usage(format!(
            "{uri}: this build has no object stores: build it with the feature `s3`"
        ))
        .into())
    }

    #[cfg(feature = "s3")]
    fn at(out: &mut PathBuf, uri: &str, global: &Global) -> anyhow::Result<Self> {
        use forebay_store::{Error, remote::stage::Stage};
        let stage = Stage::begin(uri, global.tmp_dir.as_deref()).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                let what = "give another --out, or `forebay fs rm` it";
                anyhow::Error::from(Usage(format!("{uri}: {source}; {what}")))
            }
            other => other.into(),
        })?;
        *out = stage.directory().to_path_buf();
        Ok(Self { uri: stage.uri().into(), stage })
    }

    #[cfg(not(feature = "s3"))]
    pub fn publish(&self, _: &Global, _: &mut Report) -> anyhow::Result<()> {
        Ok(())
    }

    /// Sends what is not there yet.
    #[cfg(feature = "s3")]
    pub fn publish(&self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let (tally, stop) = (forebay_store::fs::Tally::default(), crate::run::stop_on_signals()?);
        let threads = global.threads.map_or(16, std::num::NonZero::get);
        let summary = self.stage.publish(threads, &tally, &stop)?;
        if let Some(failure) = tally.take_failures().into_iter().next() {
            return Err(failure.error.into());
        }
        if summary.stopped {
            return Err(forebay_store::Error::Stopped.into());
        }
        report.line(format!(
            "send  {:>14} files      {:>12}   to {}, read back",
            format::count(summary.copied),
            format::bytes(tally.bytes.load(std::sync::atomic::Ordering::Relaxed)),
            self.stage.uri(),
        ));
        report.note(&format!("a copy stays in {}", self.stage.directory().display()));
        Ok(())
    }
}
