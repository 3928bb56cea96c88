//! A batch: the columns that a training step takes, in buffers that are used again.

use forebay_shard::format::Id;

use crate::state::Replaced;

/// What ids are handed over as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Dtype {
    U32,
    I32,
    #[default]
    I64,
}

/// Columns of a batch besides `input_ids`, which is always there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Columns {
    /// `[batch_size, seq_len]`: the token after each, [`IGNORED`] where there is none.
    pub labels: bool,
    /// `[batch_size, seq_len]`: place in its segment, from 0.
    pub position_ids: bool,
    /// `[segments + 1]` i32: where segments begin in the batch laid end to end, and its end.
    pub cu_seqlens: bool,
    /// `[batch_size, seq_len]` i64: number of the document in its dataset, -1 for padding.
    pub document_ids: bool,
    /// `[batch_size, seq_len]`: 1 where the label is of the same document, else 0.
    pub loss_mask: bool,
}

/// The label of a place that has none, as PyTorch has it; in u32 its two's complement.
pub const IGNORED: i64 = -100;

/// Ids of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Ids {
    U32(Vec<u32>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

impl Ids {
    /// No ids.
    pub fn new(dtype: Dtype) -> Self {
        match dtype {
            Dtype::U32 => Self::U32(Vec::new()),
            Dtype::I32 => Self::I32(Vec::new()),
            Dtype::I64 => Self::I64(Vec::new()),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::U32(ids) => ids.len(),
            Self::I32(ids) => ids.len(),
            Self::I64(ids) => ids.len(),
        }
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy, whatever they are.
    pub fn to_i64(&self) -> Vec<i64> {
        match self {
            Self::U32(ids) => ids.iter().map(|&id| id.into()).collect(),
            Self::I32(ids) => ids.iter().map(|&id| id.into()).collect(),
            Self::I64(ids) => ids.clone(),
        }
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::new(Dtype::default())
    }
}

/// A type of ids, with the buffers of its kind.
pub(crate) trait Typed: Id {
    /// Largest id that it holds.
    const LARGEST: i64;
    /// The buffer in `ids`, which becomes one of this type.
    fn buffer(ids: &mut Ids) -> &mut Vec<Self>;
}

macro_rules! typed {
    ($type:ty, $kind:ident, $largest:expr) => {
        impl Typed for $type {
            const LARGEST: i64 = $largest as i64;

            fn buffer(ids: &mut Ids) -> &mut Vec<Self> {
                if !matches!(ids, Ids::$kind(_)) {
                    *ids = Ids::$kind(Vec::new());
                }
                match ids {
                    Ids::$kind(buffer) => buffer,
                    _ => unreachable!("it was just made one"),
                }
            }
        }
    };
}
typed!(u32, U32, u32::MAX);
typed!(i32, I32, i32::MAX);
typed!(i64, I64, u32::MAX);

/// One rank's part of a global batch. Columns that were not asked for are empty.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Rows.
    pub batch_size: usize,
    /// Tokens of a row.
    pub seq_len: usize,
    /// Number of the global batch, counted through all epochs.
    pub step: u64,
    /// Epoch that it belongs to.
    pub epoch: u64,
    /// `[batch_size, seq_len]`, row after row.
    pub input_ids: Ids,
    /// See [`Columns`].
    pub labels: Ids,
    /// See [`Columns`].
    pub position_ids: Ids,
    /// See [`Columns`].
    pub cu_seqlens: Vec<i32>,
    /// Tokens of the longest segment, with `cu_seqlens`.
    pub max_seqlen: i32,
    /// See [`Columns`].
    pub document_ids: Vec<i64>,
    /// See [`Columns`].
    pub loss_mask: Vec<u8>,
    /// `[batch_size]`: number of each sample in its dataset, -1 for a row of padding.
    pub samples: Vec<i64>,
    /// `[batch_size]`: number of its dataset in the mixture, else 0.
    pub sources: Vec<i32>,
    /// Samples of this batch that stand in for corrupt ones.
    pub replaced: Vec<Replaced>,
    /// Instead of the columns, where a device makes them.
    pub(crate) raw: forebay_gpu::RawBatch,
}

impl Batch {
    /// Rows of `input_ids`, copied.
    pub fn rows(&self) -> Vec<Vec<i64>> {
        self.input_ids.to_i64().chunks(self.seq_len.max(1)).map(<[i64]>::to_vec).collect()
    }
}
