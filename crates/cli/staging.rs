//! An output in an object store: written to a directory of this machine, then sent, the manifest
//! last; every byte is read back. The directory stays, so that the same command resumes, or finds
//! that all is done.

use std::path::PathBuf;

use crate::args::Global;
#[cfg(feature = "s3")]
use crate::format;
use crate::report::{Report, Usage};

pub struct Staging {
    pub uri: PathBuf,
    #[cfg(feature = "s3")]
    directory: PathBuf,
}

impl Staging {
    /// Puts a directory in the place of an `out` that is a URI.
    pub fn begin(out: &mut PathBuf, global: &Global) -> anyhow::Result<Option<Self>> {
        let uri = out.to_string_lossy().into_owned();
        match forebay_store::remote::scheme(&uri) {
            None => Ok(None),
            Some("s3") => Self::at(out, uri.trim_end_matches('/'), global).map(Some),
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
        use anyhow::Context;
        use forebay_store::remote::{Remote, Settings, cache, parse};

        let Some((bucket, key)) = parse(uri) else {
            return Err(Usage(format!("{uri}: expected s3://BUCKET/PREFIX")).into());
        };
        let name: String = format!("{bucket}/{key}")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '+' })
            .collect();
        let parent = global.tmp_dir.clone().unwrap_or_else(|| cache::directory().join("staging"));
        let directory = parent.join(name);
        if !directory.exists() {
            let (remote, key) = Remote::open(uri, Settings::default())?;
            if let Some(found) = remote.list(&key)?.first() {
                let what = format!("expected nothing at {uri}, found {} among others", found.key);
                return Err(
                    Usage(format!("{what}; give another --out, or `forebay fs rm` it")).into()
                );
            }
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        out.clone_from(&directory);
        Ok(Self { uri: uri.into(), directory })
    }

    #[cfg(not(feature = "s3"))]
    pub fn publish(&self, _: &Global, _: &mut Report) -> anyhow::Result<()> {
        Ok(())
    }

    /// Sends what is not there yet.
    #[cfg(feature = "s3")]
    pub fn publish(&self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        use forebay_store::fs::{Tally, copy::Options};
        use forebay_store::remote::{Settings, tree};

        let (tally, stop) = (Tally::default(), crate::run::stop_on_signals()?);
        let threads = global.threads.map_or(16, std::num::NonZero::get);
        let options = Options { threads, verify: true, delete: false, checksum: false };
        let (from, to) = (self.directory.to_string_lossy(), self.uri.to_string_lossy());
        let (summary, _) = tree::copy(&from, &to, &Settings::default(), options, &tally, &stop)?;
        if let Some(failure) = tally.take_failures().into_iter().next() {
            return Err(failure.error.into());
        }
        if summary.stopped {
            return Err(forebay_store::Error::Stopped.into());
        }
        report.line(format!(
            "send  {:>14} files      {:>12}   to {to}, read back",
            format::count(summary.copied),
            format::bytes(tally.bytes.load(std::sync::atomic::Ordering::Relaxed)),
        ));
        report.note(&format!("a copy stays in {from}"));
        Ok(())
    }
}
