//! Storage to device memory: by the shortest way that the machine has, proven and told.
//!
//! ```text
//! path::choose ─▶ gds | pinned | host        a child asks libcufile; what is not proven is not said
//! Ring::fetch:  file ─▶ slot ─▶ device       reads and copies overlap, an event a slot
//! Feed::make:   raw bytes ─▶ rows of a batch, by kernels, in the order of streams
//! tensors:      safetensors ⇄ device or host memory
//! ```
//!
//! CUDA, NVRTC and libcufile are opened at run time: a build needs none of them, and where they are
//! missing that is an [`Error::Absent`]. All `unsafe` of the project that speaks to a GPU is here.
//!
//! Start at [`Device::open`], then [`Ring`] for files and [`kernels::Kernels`] for batches. Nothing
//! here knows datasets or documents.

mod cufile;
mod device;
mod driver;
mod error;
mod feed;
pub mod kernels;
pub mod measure;
pub mod path;
mod ring;
mod slots;
#[cfg(test)]
mod stub;
pub mod tensors;
#[cfg(test)]
mod tests;

pub use cufile::{BatchRead, CuFile, CuFileHandle, Proof, Registered};
pub use device::{Device, DeviceMemory, Event, Region, Stream, ordinal};
pub use error::{Error, Result};
pub use feed::{Column, FedBatch, Feed, FeedOptions, RawBatch, Wanted};
pub use path::{IoPath, Prober, Way};
pub use ring::{Fetched, Ring, Shape, Transfer};
