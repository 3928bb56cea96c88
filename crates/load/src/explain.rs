//! What a batch is made of: shard, document and bytes of every row, without reading a token.

use std::path::PathBuf;

use crate::assemble::Scratch;
use crate::{Loader, Result};

/// One row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedRow {
    /// Slot of the global batch: the same for any number of ranks.
    pub slot: u64,
    /// Number of the dataset in the mixture, else 0.
    pub source: usize,
    /// Number of the sample in its dataset; `None` for a row of padding.
    pub sample: Option<u64>,
    /// Left to right.
    pub parts: Vec<ExplainedPart>,
}

/// A run of tokens of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedPart {
    /// Path of the shard.
    pub shard: PathBuf,
    /// Number of the document in the dataset.
    pub document: u64,
    /// Its row in the shard.
    pub row: u64,
    /// First token, counted in the document.
    pub first_token: u32,
    /// How many.
    pub tokens: u32,
    /// First byte in the shard.
    pub first_byte: u64,
    /// Byte after the last.
    pub end_byte: u64,
}

impl Loader {
    /// The rows of the batch that this rank takes next.
    ///
    /// # Errors
    /// If a plan of best-fit is broken.
    pub fn explain(&self) -> Result<Vec<ExplainedRow>> {
        let assembler = &self.assembler;
        let place = self.place(self.state().epoch, self.state().position);
        let (mut scratch, mut segments) = (Scratch::default(), Vec::new());
        let mut rows = Vec::new();
        for number in 0..assembler.config.batch_size {
            let slot = (assembler.config.rank + number * assembler.config.world_size) as u64;
            let Some(position) = assembler.position(place, number) else {
                rows.push(ExplainedRow { slot, source: 0, sample: None, parts: Vec::new() });
                continue;
            };
            let draw = assembler.draw(&self.setup, place.epoch, position, &mut scratch);
            let source = &assembler.sources[draw.source];
            let known = self.setup.replaced.get(&(source.number, draw.sample));
            let sample = known.copied().unwrap_or(draw.sample);
            let index = source.tokens.index();
            source.samples.segments(index, sample, false, &mut segments)?;
            let width = source.tokens.token_type().bytes() as u64;
            let parts = segments.iter().map(|segment| {
                let first = index.entries().partition_point(|entry| entry.shard < segment.shard);
                ExplainedPart {
                    shard: source.tokens.files()[segment.shard as usize].clone(),
                    document: segment.document,
                    row: segment.document - first as u64,
                    first_token: segment.skip,
                    tokens: segment.tokens,
                    first_byte: segment.offset,
                    end_byte: segment.offset + width * u64::from(segment.tokens),
                }
            });
            let parts = parts.collect();
            rows.push(ExplainedRow { slot, source: draw.source, sample: Some(sample), parts });
        }
        Ok(rows)
    }
}
