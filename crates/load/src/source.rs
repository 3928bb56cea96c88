//! One dataset of a loader: its tokens, its samples, their order.

use std::path::{Path, PathBuf};

use forebay_shard::TokenFiles;

use crate::config::Config;
use crate::order::{Order, mix};
use crate::reader::{Range, Reader, Traffic};
use crate::samples::{Samples, Segment};
use crate::{Error, OnCorrupt, Replaced, Result};

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) number: u32,
    pub(crate) path: PathBuf,
    pub(crate) tokens: TokenFiles,
    pub(crate) samples: Samples,
    pub(crate) reader: Reader,
    /// Of padding.
    pub(crate) pad: u32,
    seed: Option<u64>,
    window: Option<usize>,
    /// With a window: first sample of each shard. Else all of them in one.
    firsts: Vec<u64>,
}

/// Samples tried in the place of a corrupt one.
const TRIES: u64 = 64;

impl Source {
    /// * `of` — datasets that share what may be mapped.
    pub(crate) fn open(path: &Path, number: u32, of: usize, config: &Config) -> Result<Self> {
        let tokens = TokenFiles::open(path, config.token_type)?;
        let token_bytes = tokens.token_type().bytes();
        let plan = config.plan_dir.as_ref().map(|directory| {
            let name: String = tokens.identity().chars().take(16).collect();
            directory.join(format!("{name}-{}.pack", config.seq_len))
        });
        let samples = Samples::new(
            tokens.index(),
            config.sampling,
            config.seq_len,
            token_bytes,
            plan.as_deref(),
        )?;
        let any = || tokens.index().entries().iter().any(|e| e.tokens > 0);
        if config.verify && !tokens.has_checksums() && any() {
            let hashed = (0..tokens.files().len() as u32)
                .all(|shard| !tokens.index().blocks(shard).is_empty());
            if !hashed {
                let expected = "a dataset of format forebay or ffrecord: others have no hashes";
                return Err(Error::config("verify", expected, path.display()));
            }
        }
        let firsts = match config.window {
            Some(_) => samples.firsts(tokens.index()),
            None => vec![0, samples.count()],
        };
        let eos = tokens.dataset().and_then(|dataset| dataset.manifest().tokenizer.as_ref());
        let eos = eos.and_then(|tokenizer| tokenizer.eos.as_ref()).map(|eos| eos.id);
        let pad = config.pad.or(eos).unwrap_or(0);
        let bytes = tokens.index().tokens() * token_bytes as u64;
        let reader = Reader::new(tokens.files().len(), config.io, of, bytes);
        // Datasets of a mixture are shuffled independently; a single one by the seed itself.
        let seed =
            config.seed.map(|seed| if number == 0 { seed } else { mix(seed ^ mix(number.into())) });
        let (path, window) = (path.to_path_buf(), config.window);
        Ok(Self { number, path, tokens, samples, reader, pad, seed, window, firsts })
    }

    /// The order of its samples in an epoch of its own.
    pub(crate) fn order(&self, epoch: u64) -> Order {
        Order::new(&self.firsts, self.seed, self.window, epoch)
    }

    /// The segments of a sample, or of the one that comes in its place.
    ///
    /// * `known` — what is replaced already.
    ///
    /// # Errors
    /// If a block is corrupt and may not be skipped, or if all that could come instead is too.
    pub(crate) fn sound_segments(
        &self,
        sample: u64,
        config: &Config,
        known: Option<u64>,
        segments: &mut Vec<Segment>,
        traffic: &mut Traffic,
    ) -> Result<u64> {
        let ahead = config.columns.labels || config.columns.loss_mask;
        let mut by = known.unwrap_or(sample);
        for attempt in 1.. {
            self.samples.segments(self.tokens.index(), by, ahead, segments)?;
            if !config.verify {
                break;
            }
            match self.verify(segments, traffic) {
                Ok(()) => break,
                Err(error)
                    if error.is_corrupt()
                        && config.on_corrupt == OnCorrupt::Skip
                        && attempt < TRIES =>
                {
                    // A function of the sample alone: all ranks find the same one in its place.
                    by = mix(sample ^ mix(attempt)) % self.samples.count();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(by)
    }

    /// Blocks or, of ffrecord, records.
    fn verify(&self, segments: &[Segment], traffic: &mut Traffic) -> Result<()> {
        let Self { tokens, reader, .. } = self;
        if tokens.has_checksums() {
            let mut runs = segments.iter().map(|segment| (segment.shard, segment.document));
            return runs
                .try_for_each(|(shard, run)| reader.verify_run(tokens, shard, run, traffic));
        }
        self.ranges(segments).try_for_each(|range| reader.verify(tokens, &range, traffic))
    }

    fn ranges(&self, segments: &[Segment]) -> impl Iterator<Item = Range> {
        let width = self.tokens.token_type().bytes();
        segments.iter().map(move |s| {
            let tokens = s.tokens as usize + usize::from(s.goes_on);
            Range { shard: s.shard, offset: s.offset, bytes: width * tokens }
        })
    }

    /// What a sample drawn instead of another is called.
    pub(crate) fn replaced(&self, sample: u64, by: u64) -> Replaced {
        Replaced { source: self.number, sample, by }
    }
}

/// Ids of different vocabularies do not mix.
pub(crate) fn same_tokenizer(sources: &[Source]) -> Result<()> {
    let tokenizer = |source: &'_ Source| {
        let entry = source.tokens.dataset().and_then(|d| d.manifest().tokenizer.as_ref());
        entry.map(|entry| format!("{} ({:.8})", entry.name, entry.blake3))
    };
    let known: Vec<String> = sources.iter().filter_map(tokenizer).collect();
    match known.iter().find(|name| **name != known[0]) {
        None => Ok(()),
        Some(other) => Err(Error::config("tokenizer of a mixture", &known[0], other)),
    }
}
