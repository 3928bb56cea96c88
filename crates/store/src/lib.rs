//! The storage client: queues of transfers, memory maps, atomic publishing.
//!
//! ```text
//! Queue::open ─▶ prepare ─▶ submit ─▶ wait             many in flight, completions in any order
//!     io_uring, registered ─▶ io_uring ─▶ threads      the first that works here, and which it was
//! plan(ranges) ─▶ reads                                near ranges together, large ones apart
//! File::open ─▶ read_at(offset, buf) ─▶ bytes          many threads at once, no shared cursor
//! Map::open  ─▶ &[u8]                                  files that never change once published
//! NewFile::create ─▶ write … ─▶ publish()              temporary name → fsync → rename → fsync(dir)
//! Lock::take ─▶ one run per directory
//! ffrecord: samples by number, many at once; usrbio: the rings of a 3FS
//! fs::copy, fs::walk, fs::remove, fs::layout, fs::doctor: whole trees and machines
//! ```
//!
//! Start at [`Queue`] for many transfers, at [`File`] for one, and at [`NewFile`] to write. Buffers
//! come from an [`Arena`]. Nothing here knows documents, Parquet or tokens. `unsafe` is in `memory`,
//! `queue/uring` and `usrbio` alone.

#![deny(unsafe_code)]

#[cfg(test)]
mod conformance;
mod error;
pub mod ffrecord;
mod file;
pub mod fs;
mod lock;
#[expect(unsafe_code, reason = "maps, and buffers cut out of them")]
mod memory;
mod object;
mod plan;
mod publish;
mod queue;
pub mod remote;
pub mod usrbio;

pub use error::{Error, Result};
pub use file::File;
pub use lock::Lock;
pub use memory::{Arena, BUFFER_ALIGN, Buffer, Map, Pages, prefetch};
pub use object::{Access, Alignment, Direct, Object};
pub use plan::{Costs, Plan, Range, Read, Segment, plan};
pub use publish::{NewFile, create_dir, publish_bytes, sync, sync_dir, temporaries};
pub use queue::{Completion, Engine, Faults, Ladder, ObjectId, Op, Options, Queue, Request, Step};
