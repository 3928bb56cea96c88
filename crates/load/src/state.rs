use serde::{Deserialize, Serialize};

use crate::mixture::Phase;
use crate::samples::Sampling;

/// Of [`State`]; a newer one is refused.
pub const STATE_VERSION: u32 = 1;

/// Where a loader is. The whole of it: resuming needs nothing else, on any number of ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// Epoch, from 0; always 0 for a mixture.
    pub epoch: u64,
    /// Samples of the epoch that all ranks together have taken.
    pub position: u64,
    /// Identity of each dataset, in hex: a state fits what it was made of.
    pub datasets: Vec<String>,
    /// What the order depends on besides.
    pub seed: Option<u64>,
    /// Tokens of a sample.
    pub seq_len: u64,
    /// How documents become samples.
    pub sampling: Sampling,
    /// Shards that are shuffled together.
    pub window: Option<u64>,
    /// Weights of a mixture, and when they change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// Ranges of steps that are left out, in global batches counted through all epochs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skips: Vec<(u64, u64)>,
    /// Samples that could not be read and what came in their place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Replaced>,
}

/// A sample with corrupt tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replaced {
    /// Number of the dataset in the mixture.
    pub source: u32,
    /// The sample that was drawn.
    pub sample: u64,
    /// The sample that came.
    pub by: u64,
}
