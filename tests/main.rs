//! Forebay from outside: the binary on real data, wrong input and sudden death.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]
#![allow(unreachable_pub, reason = "nothing of a test is reachable")]

mod bad_input;
mod clocks;
#[cfg(all(feature = "gcp", feature = "azure"))]
mod clouds;
mod corrupt;
mod cuts;
mod datatrove;
mod dedup;
mod evals;
mod formats;
mod fs;
mod gpu;
mod index;
mod inspect;
#[cfg(feature = "s3")]
mod interrupted;
mod keep;
mod layers;
mod load;
mod mds;
mod megatron;
mod prep;
mod recipe;
#[cfg(feature = "s3")]
mod remote;
mod resume;
mod samples;
mod scale;
mod stats;
mod storage;
mod support;
mod task;
mod tokenize;
mod train;
mod usrbio;
mod verify;
