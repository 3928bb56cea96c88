//! Samples of the order `concat`: the documents end to end, cut every `seq_len` tokens.

use forebay_shard::Index;

/// A run of tokens of a sample that lies in one stretch of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Number of the shard.
    pub shard: u32,
    /// First byte.
    pub offset: u64,
    /// How many.
    pub tokens: u32,
}

/// Cuts the token stream of a dataset into samples.
#[derive(Debug, Clone, Copy)]
pub struct Concat<'a> {
    index: &'a Index,
    token_bytes: u64,
    seq_len: u64,
}

impl<'a> Concat<'a> {
    /// Samples of `seq_len` tokens, stored in `token_bytes` each.
    pub fn new(index: &'a Index, token_bytes: usize, seq_len: usize) -> Self {
        Self { index, token_bytes: token_bytes as u64, seq_len: seq_len as u64 }
    }

    /// How many whole samples there are. The tokens after the last one, fewer than `seq_len`,
    /// belong to none.
    pub fn samples(&self) -> u64 {
        self.index.tokens() / self.seq_len
    }

    /// Where `sample` lies, in order; neighbours that touch are one piece.
    ///
    /// Documents are stored one after another, so that is one piece, or two where a page ends.
    /// Cost: a binary search in the index.
    pub fn pieces(&self, sample: u64, mut each: impl FnMut(Piece)) {
        let entries = self.index.entries();
        let mut token = sample * self.seq_len;
        let mut missing = self.seq_len;
        let mut document = self.index.document_at(token);
        let mut open: Option<(Piece, u64)> = None;
        while missing > 0 && document < entries.len() {
            let entry = &entries[document];
            let skip = token - entry.token_start;
            let tokens = (u64::from(entry.tokens) - skip).min(missing);
            let offset = entry.offset + self.token_bytes * skip;
            match &mut open {
                Some((piece, end)) if piece.shard == entry.shard && *end == offset => {
                    piece.tokens += tokens as u32;
                    *end += self.token_bytes * tokens;
                }
                _ => {
                    if let Some((piece, _)) = open.take() {
                        each(piece);
                    }
                    let piece = Piece { shard: entry.shard, offset, tokens: tokens as u32 };
                    open = (tokens > 0).then_some((piece, offset + self.token_bytes * tokens));
                }
            }
            token += tokens;
            missing -= tokens;
            document += 1;
        }
        if let Some((piece, _)) = open {
            each(piece);
        }
    }
}
