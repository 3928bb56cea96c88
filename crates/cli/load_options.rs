//! Which batches of which datasets: the options that `load` and `bench loader` share.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use forebay_load::{Columns, Config, Dtype, Io, Loader, OnCorrupt, Sampling, TokenType};

use forebay_store::remote::Localized;

use crate::args::Global;
use crate::report::Usage;

#[derive(Args)]
pub struct LoadOptions {
    /// Directory of the dataset, of MDS shards or of ffrecord files, or PREFIX, PREFIX.bin or PREFIX.idx of a Megatron
    /// dataset; several with `--weights`
    #[arg(required = true, value_name = "DATASET")]
    pub datasets: Vec<PathBuf>,
    /// Tokens of a sample
    #[arg(long, default_value = "2048", value_name = "N")]
    pub seq_len: NonZeroUsize,
    /// Samples of a batch of this rank
    #[arg(long, default_value = "8", value_name = "N")]
    pub batch_size: NonZeroUsize,
    /// This rank
    #[arg(long, default_value_t = 0, value_name = "R")]
    pub rank: usize,
    /// Ranks; each takes its slots of the same global batches
    #[arg(long, default_value = "1", value_name = "W")]
    pub world_size: NonZeroUsize,
    /// How documents become samples
    #[arg(long, default_value = "concat")]
    samples: Samples,
    /// Weights of the datasets, exact over every 4,096 samples; they sum to 1
    #[arg(long, value_delimiter = ',', value_name = "W,…")]
    pub weights: Vec<f64>,
    /// Seed of the order of samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Samples in the order of the dataset
    #[arg(long)]
    no_shuffle: bool,
    /// Shuffle so many shards at a time instead of all samples
    #[arg(long, value_name = "SHARDS")]
    window: Option<NonZeroUsize>,
    /// Columns besides input_ids
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    columns: Vec<Column>,
    /// Type of the ids
    #[arg(long, default_value = "i64")]
    dtype: Type,
    /// Complete the last batch of an epoch with rows of padding instead of leaving it out
    #[arg(long)]
    keep_last: bool,
    /// What a token is stored as in ffrecord files: u16, u32, …; other datasets say it themselves
    #[arg(long, value_name = "TYPE", value_parser = token_type)]
    token_type: Option<TokenType>,
    /// Id of padding; the end-of-document token by default
    #[arg(long, value_name = "ID")]
    pad_id: Option<u32>,
    /// Batches made ahead by `--threads` threads; with 0 each is made when it is asked for
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub prefetch: usize,
    /// Through a map what lies in the page cache: 160 MiB of it, or all; or everything by reads, or
    /// past the page cache
    #[arg(long, default_value = "auto")]
    io: Reads,
    /// Hash each block (of ffrecord, each sample) when it is first needed, and compare
    #[arg(long)]
    verify: bool,
    /// With `--verify`: stop at a corrupt block, or put other samples in the place of its own
    #[arg(long, default_value = "fail", requires = "verify")]
    on_corrupt: Corrupt,
    /// Keep the plan of best-fit in this directory for the next time
    #[arg(long, value_name = "DIR")]
    plan_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Samples {
    Concat,
    Documents,
    BestFit,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Column {
    Labels,
    PositionIds,
    CuSeqlens,
    DocumentIds,
    LossMask,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    U32,
    I32,
    I64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Reads {
    Auto,
    Map,
    Read,
    Direct,
}

#[derive(Clone, Copy, ValueEnum)]
enum Corrupt {
    Fail,
    Skip,
}

fn token_type(name: &str) -> Result<TokenType, String> {
    TokenType::named(name).ok_or_else(|| "expected u8, i8, u16, i16, u32, i32 or i64".into())
}

impl LoadOptions {
    /// Brings datasets of object stores here, and finds those of 3FS; they stay while what it returns is held.
    pub fn fetch(&mut self) -> anyhow::Result<Vec<Localized>> {
        let held = self.datasets.iter().map(|path| {
            forebay_store::usrbio::resolve(path)
                .and_then(|path| forebay_store::remote::local(&path))
        });
        let held = held.collect::<forebay_store::Result<Vec<_>>>()?;
        self.datasets = held.iter().map(|local| local.path().to_path_buf()).collect();
        Ok(held)
    }

    pub fn config(&self, global: &Global) -> Config {
        let has = |column| self.columns.contains(&column);
        Config {
            rank: self.rank,
            world_size: self.world_size.get(),
            seed: (!self.no_shuffle).then_some(self.seed),
            window: self.window.map(NonZeroUsize::get),
            sampling: match self.samples {
                Samples::Concat => Sampling::Concat,
                Samples::Documents => Sampling::Documents,
                Samples::BestFit => Sampling::BestFit,
            },
            columns: Columns {
                labels: has(Column::Labels),
                position_ids: has(Column::PositionIds),
                cu_seqlens: has(Column::CuSeqlens),
                document_ids: has(Column::DocumentIds),
                loss_mask: has(Column::LossMask),
            },
            dtype: match self.dtype {
                Type::U32 => Dtype::U32,
                Type::I32 => Dtype::I32,
                Type::I64 => Dtype::I64,
            },
            drop_last: !self.keep_last,
            token_type: self.token_type,
            pad: self.pad_id,
            prefetch: self.prefetch,
            threads: global.threads.map_or(1, NonZeroUsize::get),
            io: match self.io {
                Reads::Auto => Io::Auto,
                Reads::Map => Io::Map,
                Reads::Read => Io::Read,
                Reads::Direct => Io::Direct,
            },
            verify: self.verify,
            on_corrupt: match self.on_corrupt {
                Corrupt::Fail => OnCorrupt::Fail,
                Corrupt::Skip => OnCorrupt::Skip,
            },
            plan_dir: self.plan_dir.clone(),
            ..Config::new(self.seq_len.get(), self.batch_size.get())
        }
    }

    pub fn open(&self, config: Config) -> forebay_load::Result<Loader> {
        let [only] = &self.datasets[..] else {
            let datasets: Vec<(&Path, f64)> =
                self.datasets.iter().map(PathBuf::as_path).zip(self.weights.clone()).collect();
            return Loader::open_mixture(&datasets, config);
        };
        Loader::open(only, config)
    }

    /// Options that do not go together.
    pub fn check(&self) -> Result<(), Usage> {
        if self.rank >= self.world_size.get() {
            let (rank, world_size) = (self.rank, self.world_size);
            let what = format!("--rank {rank}: expected a rank below --world-size {world_size}");
            return Err(Usage(what));
        }
        let (datasets, weights) = (self.datasets.len(), self.weights.len());
        if weights != datasets && (weights > 0 || datasets > 1) {
            let what =
                format!("--weights: expected one for each of {datasets} datasets, found {weights}");
            return Err(Usage(what));
        }
        Ok(())
    }
}
