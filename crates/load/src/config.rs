use std::path::PathBuf;

use forebay_shard::format::TokenType;

use crate::batch::{Columns, Dtype};
use crate::reader::Io;
use crate::{Error, Result, Sampling};

/// Which batches, in which order, and how they are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Tokens of a sample.
    pub seq_len: usize,
    /// Samples of a batch of one rank.
    pub batch_size: usize,
    /// This rank, below `world_size`.
    pub rank: usize,
    /// Ranks. A global batch is `batch_size × world_size` samples, the same for any split.
    pub world_size: usize,
    /// Of the order; `None` keeps the order of the dataset.
    pub seed: Option<u64>,
    /// Shuffle so many shards at a time instead of all samples: for storage that likes locality.
    pub window: Option<usize>,
    /// How documents become samples.
    pub sampling: Sampling,
    /// Columns besides `input_ids`.
    pub columns: Columns,
    /// Type of the ids.
    pub dtype: Dtype,
    /// Leave out the last, incomplete batch of an epoch; else rows of padding complete it.
    pub drop_last: bool,
    /// What a token is stored as in ffrecord files; other datasets say it themselves.
    pub token_type: Option<TokenType>,
    /// Id of padding; the end-of-document token of the dataset, else 0, by default.
    pub pad: Option<u32>,
    /// Batches that are made ahead. With 0 each is made when it is asked for, by the caller.
    pub prefetch: usize,
    /// Threads that make them; they change no byte.
    pub threads: usize,
    /// How shards are read.
    pub io: Io,
    /// Hash each block of a shard (1 MiB) when it is first needed, and compare.
    pub verify: bool,
    /// With `verify`: what becomes of samples in a corrupt block.
    pub on_corrupt: OnCorrupt,
    /// Directory where the plan of best-fit is kept for the next time; in memory by default.
    pub plan_dir: Option<PathBuf>,
}

/// What becomes of a sample whose bytes are not those that were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnCorrupt {
    /// An error.
    #[default]
    Fail,
    /// Another sample comes in its place, the same on every rank, and the state says so.
    Skip,
}

impl Config {
    /// One rank, shuffled by seed 0, `concat`, `input_ids` alone as i64, made by the caller.
    pub fn new(seq_len: usize, batch_size: usize) -> Self {
        Self {
            seq_len,
            batch_size,
            rank: 0,
            world_size: 1,
            seed: Some(0),
            window: None,
            sampling: Sampling::Concat,
            columns: Columns::default(),
            dtype: Dtype::I64,
            drop_last: true,
            token_type: None,
            pad: None,
            prefetch: 0,
            threads: 1,
            io: Io::Auto,
            verify: false,
            on_corrupt: OnCorrupt::Fail,
            plan_dir: None,
        }
    }

    /// Samples that all ranks take in a step.
    pub fn global_batch(&self) -> u64 {
        (self.batch_size * self.world_size) as u64
    }

    pub(crate) fn check(&self) -> Result<()> {
        let window = self.window.unwrap_or(1);
        for (what, value) in [
            ("seq_len", self.seq_len),
            ("batch_size", self.batch_size),
            ("world_size", self.world_size),
            ("window", window),
            ("threads", self.threads),
        ] {
            if value == 0 {
                return Err(Error::config(what, "at least 1", 0));
            }
        }
        if self.rank >= self.world_size {
            let expected = format!("below world_size {}", self.world_size);
            return Err(Error::config("rank", expected, self.rank));
        }
        // The largest batch whose ends fit into `cu_seqlens`.
        let tokens = self.seq_len.checked_mul(self.batch_size);
        if tokens.is_none_or(|tokens| i32::try_from(tokens).is_err()) {
            let expected = format!("at most {} tokens together", i32::MAX);
            let found = format!("{} × {}", self.seq_len, self.batch_size);
            return Err(Error::config("seq_len × batch_size", expected, found));
        }
        Ok(())
    }
}
