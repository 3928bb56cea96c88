//! Batches from datasets: order is a pure function, resume is an integer.
//!
//! ```text
//! (seed, epoch, position) ─▶ mixture ─▶ order ─▶ sample ─▶ segments ─▶ ranges ─▶ Batch
//!                            quotas     Feistel  concat,   index       map,
//!                                                best-fit              reads
//! ```
//!
//! Nothing is decoded: the tokens of a sample lie in the shards as they are needed. Global batch
//! `g` is the same for every number of ranks and threads; rank `r` of `W` takes its slots `r`,
//! `r + W`, …. The state moves when a batch is taken, not when it is made.
//!
//! Start at [`Loader::open`], for batches on a GPU at [`device::DeviceLoader::open`]; a loader is an
//! iterator and a stream of batches ([`Batches`]). Everything that touches storage is in one module,
//! `reader`.

#![forbid(unsafe_code)]

mod assemble;
mod batch;
mod batches;
mod config;
pub mod device;
mod error;
mod explain;
mod loader;
mod measure;
mod metrics;
mod mixture;
mod order;
mod packing;
mod place;
mod prefetch;
mod reader;
mod samples;
mod source;
mod state;
mod stats;

pub use batch::{Batch, Columns, Dtype, IGNORED, Ids};
pub use batches::Batches;
pub use config::{Config, OnCorrupt};
pub use error::{Error, Result};
pub use explain::{ExplainedPart, ExplainedRow};
pub use forebay_shard::format::TokenType;
pub use loader::Loader;
pub use measure::{Measured, measure};
pub use mixture::{BLOCK_DRAWS, Mixture, Phase};
pub use order::Permutation;
pub use reader::Io;
pub use samples::{Sampling, Segment};
pub use state::{Replaced, STATE_VERSION, State};
pub use stats::{Stats, StepRecord};
