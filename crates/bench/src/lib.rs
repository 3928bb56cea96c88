//! What a storage really gives, and by which path: workloads, histograms, proof.
//!
//! ```text
//! Workload ─▶ blocks (pure) ─▶ jobs, a queue each ─▶ latencies ─▶ median and spread over repeats
//!                                   └─ /proc/self/io before and after ─▶ Proof: share of the asked path
//! ```
//!
//! Start at [`measure`]; [`sweep`](sweep::sweep) runs a grid and [`plot`] draws it. Nothing is
//! written over unless [`Wish::destroy`] says so.

pub mod checkpoint;
mod error;
pub mod fio;
pub mod gpu;
mod histogram;
mod job;
pub mod metadata;
#[cfg(feature = "s3")]
pub mod object;
pub mod plot;
mod proof;
mod run;
mod spread;
pub mod sweep;
mod target;
#[cfg(test)]
mod tests;
mod workload;

pub use error::{Error, Result};
pub use histogram::Histogram;
pub use proof::{Proof, file_system};
pub use run::{Glance, Latency, Measured, measure, measure_target};
pub use spread::Spread;
pub use target::{Target, Wish};
pub use workload::{Engine, Pattern, Workload};
