//! Arithmetic on documents: dedup, tokenize, shuffle.
//!
//! ```text
//! text ─▶ dedup::shingle ─▶ dedup::minhash ─▶ dedup::lsh ─▶ dedup::cluster ─▶ who stays
//! text ─▶ tokenize::Tokenizer ─▶ token ids
//! (seed, document) ─▶ shuffle::key ─▶ place in the dataset
//! ```
//!
//! Nothing here reads or writes a file of documents: the stages of `forebay-pipeline` connect
//! these functions to inputs and shards. Only a tokenizer's own vocabulary is read here.

pub mod dedup;
pub mod shuffle;
pub mod tokenize;
