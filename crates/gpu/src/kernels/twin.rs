//! What each kernel computes, on the CPU, plainly. The oracle of the kernels, and what a host does
//! that has none.

use super::{IGNORED, Piece, Segment};

/// [`super::Kernels::gather`].
///
/// # Panics
/// If a piece names bytes past the end of `raw` or cells past the end of the outputs.
pub fn gather(raw: &[u8], pieces: &[Piece], ids: &mut [i64], labels: &mut [i64]) {
    let token = |piece: &Piece, at: usize| {
        let bytes = piece.width as usize;
        let first = piece.source as usize + at * bytes;
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&raw[first..first + bytes]);
        i64::from(u64::from_le_bytes(word) as u32)
    };
    labels.fill(IGNORED);
    for piece in pieces {
        let cells = piece.cell as usize..(piece.cell + piece.inputs) as usize;
        if piece.is_padding() {
            ids[cells].fill(piece.total.into());
            continue;
        }
        for (at, cell) in cells.clone().enumerate() {
            ids[cell] = token(piece, at);
        }
        if labels.is_empty() {
            continue;
        }
        // The tokens again, a place to the left: from the cell before on if that is of one stream.
        let skip = usize::from(piece.joined == 0);
        for at in skip..piece.total as usize {
            let cell = cells.start + at;
            if cell > 0 && cell <= cells.end {
                labels[cell - 1] = token(piece, at);
            }
        }
    }
}

/// Columns of [`describe`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the columns of a batch")]
pub struct Described {
    pub positions: Vec<i64>,
    pub documents: Vec<i64>,
    pub mask: Vec<u8>,
    pub cu_seqlens: Vec<i32>,
}

/// [`super::Kernels::describe`].
pub fn describe(segments: &[Segment]) -> Described {
    let mut found = Described { cu_seqlens: vec![0], ..Described::default() };
    for segment in segments {
        for at in 0..segment.tokens {
            let last = at + 1 == segment.tokens;
            found.positions.push(at.into());
            found.documents.push(segment.document);
            let counts = segment.document >= 0 && (!last || segment.goes_on == 1);
            found.mask.push(u8::from(counts));
        }
        found.cu_seqlens.push((segment.cell + segment.tokens) as i32);
    }
    found
}

/// [`super::Kernels::hash`]: blake3 itself.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}
