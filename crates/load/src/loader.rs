use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use forebay_shard::Dataset;

use crate::assemble::{Assembler, Cost, Place, Scratch, Setup, by_sample};
use crate::batch::Batch;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::mixture::Mixture;
use crate::prefetch::Prefetch;
use crate::source::{Source, same_tokenizer};
use crate::state::{STATE_VERSION, State};
use crate::stats::{Stats, StepRecord};
use crate::{Error, Result, Sampling};

/// Iterates the batches of one rank, epoch after epoch.
#[derive(Debug)]
pub struct Loader {
    pub(crate) assembler: Arc<Assembler>,
    pub(crate) setup: Arc<Setup>,
    pub(crate) state: State,
    /// Of how many global batches this loader takes one: see [`Loader::set_stride`].
    pub(crate) stride: u64,
    prefetch: Prefetch,
    scratch: Scratch,
    pub(crate) stats: Stats,
    /// When the last batch was handed over.
    handed: Option<Instant>,
    /// When the batch that comes next was asked for first.
    asked: Option<Instant>,
    pub(crate) metrics: Option<Metrics>,
}

impl Loader {
    /// Opens the dataset at `path` at the start of epoch 0: a directory, or a dataset of another
    /// stack that [`forebay_shard::TokenFiles::open`] knows.
    ///
    /// Cost: the manifest is parsed and the index mapped, whatever the size of the dataset; an
    /// index of another stack is read whole, and best-fit plans at the first opening.
    ///
    /// # Errors
    /// If there are no tokens, or fewer samples than one global batch takes.
    pub fn open(path: &Path, config: Config) -> Result<Self> {
        Self::of(&[path], None, config)
    }

    /// Opens several datasets, drawn from by weight. A mixture has no end and no epoch of its
    /// own: each dataset is shuffled again when all of it was drawn.
    ///
    /// # Errors
    /// As [`Loader::open`]; [`Error::Config`] if the weights do not sum to 1 or the datasets
    /// were made with different tokenizers.
    pub fn open_mixture(datasets: &[(&Path, f64)], config: Config) -> Result<Self> {
        let (paths, weights): (Vec<&Path>, Vec<f64>) = datasets.iter().copied().unzip();
        let mixture = Mixture::new(&weights, config.seed.unwrap_or(0))?;
        Self::of(&paths, Some(mixture), config)
    }

    fn of(paths: &[&Path], mixture: Option<Mixture>, config: Config) -> Result<Self> {
        config.check()?;
        let of = paths.len();
        let sources =
            (0..).zip(paths).map(|(number, path)| Source::open(path, number, of, &config));
        let sources = sources.collect::<Result<Vec<Source>>>()?;
        same_tokenizer(&sources)?;
        let wanted = match (&mixture, config.drop_last) {
            (None, true) => config.global_batch(),
            _ => 1,
        };
        for source in &sources {
            if source.samples.count() < wanted {
                let (path, found) = (source.path.clone(), source.samples.count());
                return Err(Error::TooSmall { path, expected: wanted, found });
            }
        }
        let state = State {
            version: STATE_VERSION,
            epoch: 0,
            position: 0,
            datasets: sources.iter().map(|s| s.tokens.identity().to_owned()).collect(),
            seed: config.seed,
            seq_len: config.seq_len as u64,
            sampling: config.sampling,
            window: config.window.map(|shards| shards as u64),
            phases: mixture.as_ref().map(Mixture::phases).unwrap_or_default(),
            skips: Vec::new(),
            replaced: Vec::new(),
        };
        let setup = Arc::new(Setup { mixture, ..Setup::default() });
        Ok(Self {
            assembler: Arc::new(Assembler { config, sources, raw: false }),
            setup,
            state,
            stride: 1,
            prefetch: Prefetch::default(),
            scratch: Scratch::default(),
            stats: Stats::default(),
            handed: None,
            asked: None,
            metrics: None,
        })
    }

    /// What it was opened with.
    pub fn config(&self) -> &Config {
        &self.assembler.config
    }

    /// The (first) dataset it reads, if it is one of ours with a manifest.
    pub fn dataset(&self) -> Option<&Dataset> {
        self.assembler.sources.first()?.tokens.dataset()
    }

    /// Samples of an epoch, those of an incomplete last batch included; of a mixture, of all
    /// datasets together.
    pub fn samples(&self) -> u64 {
        self.assembler.sources.iter().map(|source| source.samples.count()).sum()
    }

    /// Global batches of an epoch; `None` for a mixture, which has no end.
    pub fn steps(&self) -> Option<u64> {
        let global = self.assembler.config.global_batch();
        match (&self.setup.mixture, self.assembler.config.drop_last) {
            (Some(_), _) => None,
            (None, true) => Some(self.samples() / global),
            (None, false) => Some(self.samples().div_ceil(global)),
        }
    }

    /// Of best-fit: which share of all places holds a token, the rest is padding.
    pub fn fill(&self) -> Option<f64> {
        let Config { seq_len, sampling, .. } = self.assembler.config;
        let tokens: u64 = self.assembler.sources.iter().map(|s| s.tokens.index().tokens()).sum();
        // Nothing is lost and nothing comes twice.
        let fill = tokens as f64 / (self.samples() * seq_len as u64) as f64;
        (sampling == Sampling::BestFit).then_some(fill)
    }

    /// Where it is: after the last batch that was taken, whatever was made ahead.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Number of the global batch that comes next, counted through all epochs.
    pub fn step(&self) -> u64 {
        self.place(self.state.epoch, self.state.position).step
    }

    /// The epoch of the batch that comes next.
    pub fn next_epoch(&self) -> u64 {
        self.place(self.state.epoch, self.state.position).epoch
    }

    /// What was waited for, and why.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How often each dataset was gone through so far.
    pub fn epochs(&self) -> Vec<f64> {
        let State { epoch, position, .. } = self.state;
        let sources = &self.assembler.sources;
        let taken = match &self.setup.mixture {
            Some(mixture) => mixture.taken(position),
            None => vec![epoch * sources[0].samples.count() + position],
        };
        taken.iter().zip(sources).map(|(&n, s)| n as f64 / s.samples.count() as f64).collect()
    }

    /// Goes to a state of a loader of the same datasets and order, whatever its number of ranks.
    ///
    /// # Errors
    /// [`Error::OtherDataset`]; [`Error::OtherOrder`]; [`Error::Config`] if the state cannot be.
    pub fn load_state(&mut self, state: &State) -> Result<()> {
        let mine = &self.state;
        if state.version > STATE_VERSION {
            let expected = format!("at most {STATE_VERSION}");
            return Err(Error::config("version of the state", expected, state.version));
        }
        if state.datasets != mine.datasets {
            let (expected, found) = (mine.datasets.join(", "), state.datasets.join(", "));
            return Err(Error::OtherDataset { expected, found });
        }
        let text = |value: Option<u64>| value.map_or("none".into(), |value| value.to_string());
        let samplings = [mine.sampling, state.sampling].map(|s| s.name().to_owned());
        for (what, [expected, found]) in [
            ("seed", [text(mine.seed), text(state.seed)]),
            ("seq_len", [mine.seq_len, state.seq_len].map(|n| n.to_string())),
            ("samples", samplings),
            ("window", [text(mine.window), text(state.window)]),
        ] {
            if expected != found {
                return Err(Error::OtherOrder { what, expected, found });
            }
        }
        let mixture = match &self.setup.mixture {
            None => None,
            Some(_) => Some(Mixture::of_phases(&state.phases, mine.seed.unwrap_or(0))?),
        };
        if mixture.is_none() && state.position > self.samples() {
            let expected = format!("at most {} samples", self.samples());
            return Err(Error::config("position", expected, state.position));
        }
        for replaced in &state.replaced {
            let source = self.assembler.sources.get(replaced.source as usize);
            if source.is_none_or(|source| replaced.by >= source.samples.count()) {
                let found = format!("sample {} of {}", replaced.by, replaced.source);
                return Err(Error::config("replaced", "a sample of the dataset", found));
            }
        }
        self.state = state.clone();
        let replaced = by_sample(&state.replaced);
        self.setup = Arc::new(Setup { mixture, replaced });
        self.prefetch.clear();
        Ok(())
    }

    /// Goes to a state of its own.
    pub(crate) fn go_to(&mut self, state: State) {
        let replaced = by_sample(&state.replaced);
        let mixture = self.setup.mixture.clone();
        self.setup = Arc::new(Setup { mixture, replaced });
        self.state = state;
        self.prefetch.clear();
    }

    /// Tokens as they are stored from now on, or columns.
    pub(crate) fn set_raw(&mut self, raw: bool) {
        // Threads hold the assembler: they end, and start again with the new one.
        self.prefetch = Prefetch::default();
        if let Some(assembler) = Arc::get_mut(&mut self.assembler) {
            assembler.raw = raw;
        }
    }

    /// Goes to global batch `step`, counted through all epochs. O(1).
    pub fn seek(&mut self, step: u64) {
        let (epoch, position) = self.at(step);
        (self.state.epoch, self.state.position) = (epoch, position);
    }

    /// Leaves out the global batches of a range of steps whenever they would come: those after
    /// which the loss went up. Kept in the state, in steps of this size of a global batch.
    pub fn skip(&mut self, steps: std::ops::Range<u64>) {
        if !steps.is_empty() {
            self.state.skips.push((steps.start, steps.end));
            self.prefetch.clear();
        }
    }

    /// Changes the weights of a mixture from global batch `step` on, or from the next block of
    /// [`crate::BLOCK_DRAWS`] samples after it. Says which sample of the mixture that is.
    ///
    /// # Errors
    /// [`Error::Config`] if it is no mixture, the weights are none, or `step` is past.
    pub fn set_weights(&mut self, step: u64, weights: &[f64]) -> Result<u64> {
        let Some(mut mixture) = self.setup.mixture.clone() else {
            return Err(Error::config("weights", "a mixture", "one dataset"));
        };
        let draw = step.saturating_mul(self.assembler.config.global_batch());
        if draw < self.state.position {
            let expected = format!("step {} or later", self.step());
            return Err(Error::config("step of the change", expected, step));
        }
        let from = mixture.push(draw, weights)?;
        self.state.phases = mixture.phases();
        let replaced = self.setup.replaced.clone();
        self.setup = Arc::new(Setup { mixture: Some(mixture), replaced });
        self.prefetch.clear();
        Ok(from)
    }

    /// Takes one of `stride` global batches from now on: the share of one worker of as many,
    /// which [`Loader::seek`] puts at its first one.
    pub fn set_stride(&mut self, stride: u64) {
        self.stride = stride.max(1);
        self.prefetch.clear();
    }

    /// Fills `batch` with the next batch of this rank and moves on; after the last one of an
    /// epoch comes the first of the next.
    ///
    /// With batches made ahead, `batch` is exchanged and its buffers are filled next.
    ///
    /// # Errors
    /// If a shard cannot be read or is corrupt; the loader then stays where it is.
    pub fn next_batch(&mut self, batch: &mut Batch) -> Result<()> {
        let Poll::Ready(taken) = self.take(batch, None) else {
            unreachable!("without a context it waits")
        };
        taken
    }

    /// As [`Loader::next_batch`], but [`Poll::Pending`] while the batch is being made ahead; the
    /// task is woken when it may be there. Without `prefetch` it is made here and now.
    ///
    /// # Errors
    /// As [`Loader::next_batch`].
    pub fn poll_batch(&mut self, context: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<()>> {
        self.take(batch, Some(context))
    }

    fn take(&mut self, batch: &mut Batch, context: Option<&mut Context<'_>>) -> Poll<Result<()>> {
        // From the first time on that it was asked for this batch.
        let asked = *self.asked.get_or_insert_with(Instant::now);
        let place = self.place(self.state.epoch, self.state.position);
        let taken = if self.assembler.config.prefetch == 0 {
            let Self { assembler, setup, scratch, .. } = self;
            let made = assembler.fill(setup, place, batch, scratch);
            Poll::Ready(made.map(|cost| (cost, Duration::ZERO)))
        } else {
            let mut prefetch = std::mem::take(&mut self.prefetch);
            let next = |place| self.after(place);
            let taken = prefetch.take(&self.assembler, &self.setup, place, next, batch, context);
            self.prefetch = prefetch;
            taken
        };
        let Poll::Ready(taken) = taken else { return Poll::Pending };
        self.asked = None;
        Poll::Ready(taken.map(|(cost, slot_wait)| self.count(batch, place, asked, cost, slot_wait)))
    }

    /// Moves on behind a batch that was taken.
    fn count(
        &mut self,
        batch: &Batch,
        place: Place,
        asked: Instant,
        cost: Cost,
        slot_wait: Duration,
    ) {
        if !batch.replaced.is_empty() {
            self.remember(batch);
        }
        let next = self.advance(place, self.stride);
        (self.state.epoch, self.state.position) = next;
        let now = Instant::now();
        let consumer = self.handed.map_or_else(Default::default, |handed| asked - handed);
        self.handed = Some(now);
        let Cost { plan, fill, traffic, .. } = cost;
        let record = StepRecord {
            step: place.step,
            wait: now - asked,
            consumer,
            plan,
            storage: traffic.storage,
            verify: traffic.verify,
            copy: fill.saturating_sub(traffic.storage),
            slot_wait,
            mapped_bytes: traffic.mapped_bytes,
            read_bytes: traffic.read_bytes,
        };
        self.stats.push(record, (batch.batch_size * batch.seq_len) as u64);
        if let Some(metrics) = &self.metrics {
            metrics.set(&self.stats);
        }
    }

    /// Samples that were replaced for the first time.
    fn remember(&mut self, batch: &Batch) {
        let mut setup = Setup::clone(&self.setup);
        for replaced in &batch.replaced {
            if setup.replaced.insert((replaced.source, replaced.sample), replaced.by).is_none() {
                self.state.replaced.push(*replaced);
            }
        }
        self.setup = Arc::new(setup);
    }
}
