use std::path::Path;

use forebay_shard::{Dataset, Error as ShardError, TokenFiles, TokenType};
use forebay_store::File;

use crate::concat::Concat;
use crate::order::Permutation;
use crate::{Error, Result};

/// Which batches, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Tokens of a sample.
    pub seq_len: usize,
    /// Samples of a batch of one rank.
    pub batch_size: usize,
    /// This rank, below `world_size`.
    pub rank: usize,
    /// Ranks.
    pub world_size: usize,
    /// Of the order; `None` keeps the order of the dataset.
    pub seed: Option<u64>,
}

/// Where a loader is. The whole of it: resuming needs nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Samples of the epoch that all ranks together have taken.
    pub position: u64,
    /// blake3 over the dataset's index, in hex: a state fits one dataset.
    pub dataset: String,
}

/// One rank's part of a global batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[batch_size, seq_len]`, row after row.
    pub input_ids: Vec<u32>,
    /// Number of each sample.
    pub samples: Vec<u64>,
}

/// Iterates the batches of one rank, epoch after epoch.
#[derive(Debug)]
pub struct Loader {
    tokens: TokenFiles,
    /// Opened when first needed.
    shards: Vec<Option<File>>,
    /// Tokens narrower or wider than u32, as they are stored.
    stored: Vec<u8>,
    config: Config,
    order: Option<Permutation>,
    samples: u64,
    state: State,
}

impl Loader {
    /// Opens the dataset at `path`, a directory or a Megatron prefix, at the start of epoch 0.
    ///
    /// Cost: the manifest is parsed and the index mapped, whatever the size of the dataset; an
    /// index of Megatron's is read whole.
    ///
    /// # Errors
    /// If there are no tokens, or fewer samples than one global batch takes.
    pub fn open(path: &Path, config: Config) -> Result<Self> {
        positive("seq_len", config.seq_len)?;
        positive("batch_size", config.batch_size)?;
        positive("world_size", config.world_size)?;
        if config.rank >= config.world_size {
            return Err(Error::Config {
                what: "rank",
                expected: format!("below world_size {}", config.world_size),
                found: config.rank.to_string(),
            });
        }
        let tokens = TokenFiles::open(path)?;
        let token_bytes = tokens.token_type().bytes();
        let samples = Concat::new(tokens.index(), token_bytes, config.seq_len).samples();
        let state = State { epoch: 0, position: 0, dataset: tokens.identity().to_owned() };
        let shards = tokens.files().iter().map(|_| None).collect();
        let (order, stored) = (None, Vec::new());
        let mut loader = Self { tokens, shards, stored, config, order, samples, state };
        if loader.steps() == 0 {
            return Err(Error::TooSmall {
                path: path.to_path_buf(),
                expected: loader.global_batch(),
                found: samples,
            });
        }
        loader.reorder();
        Ok(loader)
    }

    /// The dataset it reads, if it is one of ours with a manifest.
    pub fn dataset(&self) -> Option<&Dataset> {
        self.tokens.dataset()
    }

    /// Samples of an epoch, those of an incomplete last batch included.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Global batches of an epoch; what is left over is dropped.
    pub fn steps(&self) -> u64 {
        self.samples / self.global_batch()
    }

    /// Where it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Goes to a state of a loader of the same dataset, whatever its number of ranks.
    ///
    /// # Errors
    /// [`Error::OtherDataset`]; [`Error::Config`] if the position is past the epoch.
    pub fn load_state(&mut self, state: &State) -> Result<()> {
        if state.dataset != self.state.dataset {
            let (expected, found) = (self.state.dataset.clone(), state.dataset.clone());
            return Err(Error::OtherDataset { expected, found });
        }
        if state.position > self.samples {
            return Err(Error::Config {
                what: "position",
                expected: format!("at most {} samples", self.samples),
                found: state.position.to_string(),
            });
        }
        self.state = state.clone();
        self.reorder();
        Ok(())
    }

    /// Goes to global batch `step`, counted through all epochs. O(1).
    pub fn seek(&mut self, step: u64) {
        self.state.epoch = step / self.steps();
        self.state.position = step % self.steps() * self.global_batch();
        self.reorder();
    }

    /// Fills `batch` with the next batch of this rank and moves on; after the last one of an
    /// epoch comes the first of the next.
    ///
    /// # Errors
    /// If a shard cannot be read; the loader then stays where it is.
    pub fn next_batch(&mut self, batch: &mut Batch) -> Result<()> {
        if self.samples - self.state.position < self.global_batch() {
            self.state.epoch += 1;
            self.state.position = 0;
            self.reorder();
        }
        let Config { seq_len, batch_size, rank, world_size, .. } = self.config;
        let token_bytes = self.tokens.token_type().bytes();
        batch.input_ids.resize(batch_size * seq_len, 0);
        batch.samples.clear();
        for (slot, row) in batch.input_ids.chunks_exact_mut(seq_len).enumerate() {
            let position = self.state.position + (rank + slot * world_size) as u64;
            let sample = self.order.map_or(position, |order| order.at(position));
            let concat = Concat::new(self.tokens.index(), token_bytes, seq_len);
            let shards = &mut self.shards;
            if self.tokens.token_type() == TokenType::U32 {
                read_sample(&self.tokens, shards, concat, sample, row)?;
            } else {
                widen_sample(&self.tokens, shards, concat, sample, row, &mut self.stored)?;
            }
            batch.samples.push(sample);
        }
        self.state.position += self.global_batch();
        Ok(())
    }

    fn global_batch(&self) -> u64 {
        (self.config.batch_size * self.config.world_size) as u64
    }

    fn reorder(&mut self) {
        let order = |seed| Permutation::new(self.samples, seed, self.state.epoch);
        self.order = self.config.seed.map(order);
    }
}

/// Reads the tokens of a sample straight into its row.
fn read_sample(
    tokens: &TokenFiles,
    shards: &mut [Option<File>],
    concat: Concat<'_>,
    sample: u64,
    row: &mut [u32],
) -> Result<()> {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(row);
    let (mut at, mut result) = (0, Ok(()));
    concat.pieces(sample, |piece| {
        if result.is_ok() {
            let end = (at + 4 * piece.tokens as usize).min(bytes.len());
            result = file(tokens, shards, piece.shard)
                .and_then(|file| Ok(file.read_at(piece.offset, &mut bytes[at..end])?));
            at = end;
        }
    });
    result
}

/// As [`read_sample`], for tokens that are not stored as u32: through `stored`.
fn widen_sample(
    tokens: &TokenFiles,
    shards: &mut [Option<File>],
    concat: Concat<'_>,
    sample: u64,
    row: &mut [u32],
    stored: &mut Vec<u8>,
) -> Result<()> {
    let kind = tokens.token_type();
    let (mut at, mut result) = (0, Ok(()));
    concat.pieces(sample, |piece| {
        if result.is_ok() {
            let end = (at + piece.tokens as usize).min(row.len());
            result = file(tokens, shards, piece.shard).and_then(|file| {
                stored.resize(kind.bytes() * (end - at), 0);
                file.read_at(piece.offset, stored)?;
                let decoded = kind.decode(stored, &mut row[at..end]);
                decoded.map_err(|(place, found)| {
                    let byte = piece.offset + (kind.bytes() * place) as u64;
                    let what = format!("token at byte {byte}");
                    let expected = format!("an id from 0 to {}", u32::MAX);
                    ShardError::corrupt(file.path(), what, expected, found).into()
                })
            });
            at = end;
        }
    });
    result
}

/// Shards are opened when first needed.
fn file<'a>(tokens: &TokenFiles, shards: &'a mut [Option<File>], number: u32) -> Result<&'a File> {
    let files = tokens.files();
    let (Some(path), Some(slot)) = (files.get(number as usize), shards.get_mut(number as usize))
    else {
        let what = format!("expected a shard {number}, found {}", files.len());
        let directory = tokens.dataset().map_or(Path::new(""), Dataset::directory);
        return Err(ShardError::file(directory, what).into());
    };
    Ok(match slot {
        Some(file) => file,
        empty => empty.insert(File::open(path)?),
    })
}

fn positive(what: &'static str, value: usize) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::Config { what, expected: "at least 1".into(), found: "0".into() })
}
