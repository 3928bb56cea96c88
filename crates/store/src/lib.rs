//! The storage client: positional reads, memory maps and atomic publishing.
//!
//! ```text
//! File::open ─▶ read_at(offset, buf) ─▶ bytes          many threads at once, no shared cursor
//! Map::open  ─▶ &[u8]                                  files that never change once published
//! NewFile::create ─▶ write … ─▶ publish()              temporary name → fsync → rename → fsync(dir)
//! Lock::take ─▶ one run per directory
//! ```
//!
//! Start at [`File`] to read and at [`NewFile`] to write. Nothing here knows documents,
//! Parquet or tokens.

mod error;
mod file;
mod lock;
mod map;
mod publish;

pub use error::{Error, Result};
pub use file::File;
pub use lock::Lock;
pub use map::Map;
pub use publish::{NewFile, create_dir, publish_bytes, sync, sync_dir, temporaries};
