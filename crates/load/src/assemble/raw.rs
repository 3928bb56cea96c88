//! A batch left as it is stored: bytes side by side, and tables that say what a device makes of them.

use forebay_gpu::kernels::{Piece, RAW_PADDING, Segment};
use forebay_shard::Error as ShardError;
use forebay_shard::format::TokenType;

use super::{Assembler, Part, Scratch, each_part};
use crate::Result;
use crate::batch::{Batch, Dtype, Typed};
use crate::config::Config;

impl Assembler {
    /// As `lay_out`, and where the bytes of each range go.
    pub(super) fn lay_out_raw(&self, batch: &mut Batch, scratch: &mut Scratch) {
        let Config { batch_size, seq_len, columns, .. } = self.config;
        let cells = batch_size * seq_len;
        let raw = &mut batch.raw;
        raw.pieces.clear();
        raw.segments.clear();
        // Padding and missing labels are written here; nobody reads them.
        let inputs = u32::buffer(&mut batch.input_ids);
        inputs.resize(cells, 0);
        let labels = u32::buffer(&mut batch.labels);
        labels.resize(if columns.labels { cells } else { 0 }, 0);
        self.parts(scratch, inputs, labels);
        let mut bytes = 0;
        for Part { source, first, end, .. } in &scratch.parts {
            let width = self.sources[*source].tokens.token_type().bytes();
            let pairs = scratch.ranges[*first..*end].iter().zip(&scratch.targets[*first..*end]);
            for (range, target) in pairs {
                raw.pieces.push(Piece {
                    source: bytes as u64,
                    cell: (target.row * seq_len + target.column) as u32,
                    inputs: target.inputs as u32,
                    total: (range.bytes / width) as u32,
                    joined: u32::from(target.joined && target.column > 0),
                    width: width as u32,
                    unused: 0,
                });
                bytes += range.bytes;
            }
        }
        // What an earlier, longer batch left is not copied.
        raw.bytes.resize(bytes + RAW_PADDING, 0);
        raw.bytes[bytes..].fill(0);
    }

    /// As `write` and `describe`, but for widening and columns.
    pub(super) fn write_raw(&self, batch: &mut Batch, scratch: &mut Scratch) -> Result<()> {
        let Config { seq_len, columns, .. } = self.config;
        let raw = &mut batch.raw;
        let Scratch { ranges, parts, bytes: space, cost, .. } = &mut *scratch;
        let traffic = &mut cost.traffic;
        let (pieces, out) = (&raw.pieces, &mut raw.bytes);
        each_part(parts, |Part { source, first, end, reading }| {
            let source = &self.sources[*source];
            let (ranges, pieces) = (&ranges[*first..*end], &pieces[*first..*end]);
            let kind = source.tokens.token_type();
            let width = kind.bytes();
            source.reader.finish(&source.tokens, ranges, reading, space, traffic, |at, bytes| {
                let start = pieces[at].source as usize;
                out[start..start + bytes.len()].copy_from_slice(bytes);
                self.look_at(kind, bytes).map_err(|(token, found)| {
                    let range = &ranges[at];
                    let byte = range.offset + (width * token) as u64;
                    let path = &source.tokens.files()[range.shard as usize];
                    let expected = format!("an id from 0 to {}", self.largest());
                    ShardError::corrupt(path, format!("token at byte {byte}"), expected, found)
                        .into()
                })
            })
        })?;
        batch.max_seqlen = 0;
        for (row, found) in scratch.rows.iter().enumerate() {
            let mut column = 0;
            let cell = |column: usize| (row * seq_len + column) as u32;
            for segment in &scratch.segments[found.first..found.end] {
                let tokens = (segment.tokens as usize).min(seq_len - column);
                if tokens == 0 {
                    continue;
                }
                let goes_on = segment.goes_on || tokens < segment.tokens as usize;
                raw.segments.push(Segment {
                    document: segment.document as i64,
                    cell: cell(column),
                    tokens: tokens as u32,
                    goes_on: u32::from(goes_on),
                    unused: 0,
                });
                column += tokens;
            }
            let rest = (seq_len - column) as u32;
            if rest > 0 {
                let pad = self.sources[found.source].pad;
                raw.pieces.push(Piece::padding(cell(column), rest, pad));
                let padding = Segment { document: -1, tokens: rest, ..Segment::default() };
                raw.segments.push(Segment { cell: cell(column), ..padding });
            }
        }
        // A range may hold a label alone, of the last cell of its row: it comes before the next row.
        raw.pieces.sort_unstable_by_key(|piece| (piece.cell, piece.inputs));
        if columns.cu_seqlens {
            let longest = raw.segments.iter().map(|segment| segment.tokens).max();
            batch.max_seqlen = longest.unwrap_or(0) as i32;
        }
        Ok(())
    }

    /// Largest id of the type that columns have.
    fn largest(&self) -> i64 {
        match self.config.dtype {
            Dtype::I32 => i32::LARGEST,
            Dtype::U32 | Dtype::I64 => i64::LARGEST,
        }
    }

    /// Are all tokens ids? A device does not ask, and most types cannot hold anything else.
    fn look_at(&self, kind: TokenType, bytes: &[u8]) -> std::result::Result<(), (usize, i64)> {
        let always = match kind {
            TokenType::U8 | TokenType::U16 => true,
            TokenType::U32 => self.config.dtype != Dtype::I32,
            TokenType::I8 | TokenType::I16 | TokenType::I32 | TokenType::I64 => false,
        };
        if always {
            return Ok(());
        }
        let tokens = bytes.len() / kind.bytes();
        match self.config.dtype {
            Dtype::U32 => kind.decode(bytes, &mut vec![0_u32; tokens]),
            Dtype::I32 => kind.decode(bytes, &mut vec![0_i32; tokens]),
            Dtype::I64 => kind.decode(bytes, &mut vec![0_i64; tokens]),
        }
    }
}
