//! Batches from a dataset: order is a pure function, resume is an integer.
//!
//! ```text
//! (seed, epoch, position) ─▶ order ─▶ sample ─▶ concat ─▶ byte ranges ─▶ shards ─▶ Batch
//!                            Feistel            index                   pread
//! ```
//!
//! Nothing is decoded: the tokens of a sample lie in the shards as they are needed. Global batch
//! `g` is the same for every number of ranks; rank `r` of `W` takes its slots `r`, `r + W`, ….
//!
//! Start at [`Loader::open`].

#![forbid(unsafe_code)]

mod concat;
mod error;
mod loader;
mod order;

pub use concat::{Concat, Piece};
pub use error::{Error, Result};
pub use loader::{Batch, Config, Loader, State};
pub use order::Permutation;
