//! Documents in, datasets on disk.
//!
//! ```text
//! corpus/
//! ├── shard-00000.parquet …   a document a row: id, source, tokens list<u32>, (text)
//! ├── documents.idx           document → shard, byte offset of its tokens, length; block hashes
//! ├── manifest.json           counts and blake3 of every file, tokenizer, lineage; written last
//! ├── tokenizer.json          the tokenizer, if it is not a built-in one
//! └── removed/                what was left out and why; survivor and cluster of duplicates
//! ```
//! For other training stacks, shards are files of theirs instead, and there is no index: see
//! [`mod@format`].
//!
//! No manifest, no dataset: a crash leaves files that nobody reads. Training never decodes
//! Parquet: the tokens of a document lie whole, PLAIN and uncompressed, where the index says.
//!
//! Start at [`input::discover`] to read documents, [`UnitWriter`] to write a shard,
//! [`Dataset::open`] to read a dataset, [`TokenFiles::open`] to read its tokens alone. Nothing here knows tokenizers, dedup or training.

#[cfg(target_endian = "big")]
compile_error!("datasets are little-endian and are mapped as they lie");

mod audit;
pub mod blocks;
mod dataset;
mod document;
mod error;
pub mod format;
pub mod index;
pub mod input;
pub mod manifest;
mod pages;
mod removed;
pub mod simd;
mod strings;
mod tokens;
mod verify;
mod writer;

pub use audit::{ClusterMember, Origin, text_of};
pub use dataset::{Dataset, Head};
pub use document::{Document, Documents, Reason, Skipped, stable_id};
pub use error::{Error, Result};
pub use format::{Format, TokenType, UnitWriter};
pub use index::Index;
pub use manifest::Manifest;
pub use removed::{Removed, RemovedWriter};
pub use strings::{Strings, string};
pub use tokens::TokenFiles;
pub use verify::{Problem, Verified, verify};
pub use writer::{Columns, Note, Row, Shard, ShardWriter};
