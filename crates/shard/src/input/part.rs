use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use super::output::{Output, Parsed};
use super::{InputFile, Options, jsonl, parquet, text};
use crate::Result;
use crate::document::Skipped;

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

impl Part {
    /// Parses it; needs nothing but the part, so any thread may.
    ///
    /// # Errors
    /// The first bad record under `OnError::Fail`; under `OnError::Skip` such records are in
    /// [`Parsed::skipped`].
    pub fn parse(self, options: &Options) -> Result<Parsed> {
        let mut out = Output::new(options);
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
