use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use super::{InputFile, InvalidUtf8, OnError, Options, jsonl, parquet, text};
use crate::document::{Documents, Reason, Skipped};
use crate::{Error, Result};

/// A piece of an input, read but not parsed.
#[derive(Debug)]
pub struct Part {
    /// Where the cursor stands after it: give it to `Cursor::advance_to` to go on from here.
    pub next: u64,
    pub(super) data: Data,
    /// What the cursor itself had to leave out.
    pub(super) skipped: Vec<Skipped>,
}

#[derive(Debug)]
pub(super) enum Data {
    /// Whole lines; the first starts at `offset` of the plain stream.
    Lines { file: Arc<InputFile>, bytes: Vec<u8>, offset: u64 },
    /// Rows from `row` on.
    Rows { file: Arc<InputFile>, batches: Vec<RecordBatch>, row: u64 },
    /// Text files, a document each.
    Texts(Vec<InputFile>),
}

/// What a part held.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Its documents, in order.
    pub documents: Documents,
    /// Its records that are none.
    pub skipped: Vec<Skipped>,
    /// Documents in which U+FFFD stands for bytes that were not UTF-8.
    pub replaced: u64,
}

impl Part {
    /// Parses it; needs nothing but the part, so any thread may.
    ///
    /// # Errors
    /// The first bad record under [`OnError::Fail`]; under [`OnError::Skip`] such records are in
    /// [`Parsed::skipped`].
    pub fn parse(self, options: &Options) -> Result<Parsed> {
        let mut out = Output { options, parsed: Parsed::default() };
        for skipped in self.skipped {
            out.bad(skipped)?;
        }
        match self.data {
            Data::Lines { file, bytes, offset } => jsonl::parse(&file, &bytes, offset, &mut out)?,
            Data::Rows { file, batches, row } => parquet::parse(&file, &batches, row, &mut out)?,
            Data::Texts(files) => text::parse(&files, &mut out)?,
        }
        Ok(out.parsed)
    }
}

/// Where a parser puts documents and bad records; holds the user's choices.
pub(super) struct Output<'a> {
    pub(super) options: &'a Options,
    pub(super) parsed: Parsed,
}

impl Output<'_> {
    pub(super) fn bad(&mut self, skipped: Skipped) -> Result<()> {
        match self.options.on_error {
            OnError::Fail => Err(Error::Record(skipped)),
            OnError::Skip => {
                self.parsed.skipped.push(skipped);
                Ok(())
            }
        }
    }

    pub(super) fn record(
        &mut self,
        source: &str,
        position: u64,
        reason: Reason,
        detail: String,
    ) -> Result<()> {
        self.bad(Skipped { source: source.to_owned(), position, reason, detail })
    }

    pub(super) fn replaces(&self) -> bool {
        self.options.invalid_utf8 == InvalidUtf8::Replace
    }
}
